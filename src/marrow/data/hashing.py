"""The content hash of an example, as a fraction in [0, 1)."""

from __future__ import annotations

import hashlib

# The cuts of a data set that brings no split of its own.
RANGES = {"test": (0.0, 0.15), "val": (0.15, 0.30), "train": (0.30, 1.0)}


def fraction(content: bytes | bytearray | memoryview) -> float:
    """Equal bytes, equal fraction: whatever is cut by it keeps duplicates together."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53  # 53 bits: exact in a float


def of_group(name: str) -> float:
    """Where cuts put all examples of a group."""
    return fraction(f"group:{name}".encode())


def salted(value: float, salt: str) -> float:
    """Another draw for the same content, independent of the first."""
    return fraction(f"{salt}:{value!r}".encode())
