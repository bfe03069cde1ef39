"""What this machine's processor can do, as far as it decides how fast and how exactly integers are multiplied."""

from __future__ import annotations

import platform
import re
from functools import lru_cache
from pathlib import Path

TELLING = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
           "asimddp", "i8mm", "sve")  # fmt: skip


@lru_cache(maxsize=None)
def flags() -> tuple[str, ...]:
    """The telling ones among the processor's flags; empty where the system does not list them (only Linux does)."""
    listing = Path("/proc/cpuinfo")
    text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    listed = set(found[1].split()) if found else set()
    return tuple(f for f in TELLING if f in listed)


def saturates(machine: str, flags: tuple[str, ...]) -> bool:
    """Whether 8-bit products may overflow: x86 without VNNI adds pairs of u8 x s8 in 16 bits.

    There weights get 7 bits. An x86 whose flags are unknown counts as one without.
    """
    return machine.lower() in ("x86_64", "amd64", "i686") and not any("vnni" in f or f == "amx_int8" for f in flags)


def saturates_here() -> bool:
    return saturates(platform.machine(), flags())
