"""A source: a map-style data set that knows the content hash of its examples."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch
from torch import Tensor

VOID = -1  # in a mask: nobody says what this pixel shows


class Unreadable(Exception):
    """An example that cannot be decoded. The loader puts the next readable one in its place and counts it."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclasses.dataclass(frozen=True, order=True)
class Skipped:
    """What lies in a data folder and is not read. folder: tells folders apart, and is not shown; examples: up to 3 names."""

    folder: str
    reason: str
    count: int
    examples: tuple[str, ...]


class Source:
    """`source[i]` is a dict of one example's fields: `image` (3, H, W) uint8 and, if labelled, `label` int.

    Where there are masks, `mask` (H, W) int64 holds a class id, or `VOID`, for each pixel of the image.

    classes: names of the labels, None without labels. Sources are picklable: workers open their own files.
    """

    classes: list[str] | None = None
    mask_classes: list[str] | None = None  # names of the ids in masks, from 0 on, when known

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        """The decoded example; raises `Unreadable`."""
        raise NotImplementedError

    def undecoded(self, index: int) -> dict:
        """As `source[index]`, but `image` may be a `Photo`, for views that take one; raises `Unreadable`."""
        return self[index]

    def fraction(self, index: int) -> float:
        """The hash of the stored content in [0, 1). Equal content has an equal fraction, in every process."""
        raise NotImplementedError

    def underneath(self, index: int) -> float:
        """The hash of the picture onto which others may be blended; `fraction` where none is."""
        return self.fraction(index)

    def name(self, index: int) -> str:
        """What a report calls the example; never a full path."""
        raise NotImplementedError

    def label(self, index: int) -> int | None:
        """Without decoding the image; None if unlabelled."""
        return None

    def group(self, index: int) -> str | None:
        """The scene or patient that it belongs to, which no cut divides; None: it stands for itself."""
        return None

    def stored(self, index: int) -> bytes | None:
        """The image file as it is kept, None where pixels are kept; raises `Unreadable`."""
        return None

    def stored_mask(self, index: int) -> bytes | None:
        """The mask file as it is kept: None where there are no masks, empty where it cannot be read."""
        return None

    def skipped(self) -> tuple[Skipped, ...]:
        """What was passed over when the source was opened."""
        return ()

    def order(self, generator: torch.Generator) -> Tensor:
        """The indices of one epoch (N,), each once. Shards keep close on disk what follows in the order."""
        return torch.randperm(len(self), generator=generator)

    def fingerprint(self) -> str:
        """A hash of content, labels, masks, groups and order: changes whenever a stage that reads the source must run again."""
        count = len(self)
        fractions = np.fromiter((self.fraction(i) for i in range(count)), np.float64, count)
        labels = [self.label(i) for i in range(count)]
        digest = hashlib.blake2b(fractions.tobytes(), digest_size=16)
        digest.update(np.array([-1 if label is None else label for label in labels], np.int64).tobytes())
        digest.update(repr(self.classes).encode())
        if any(groups := [self.group(i) for i in range(count)]):
            digest.update(repr(groups).encode())
        for mask in map(self.stored_mask, range(count)):
            if mask is not None:
                digest.update(hashlib.blake2b(mask, digest_size=16).digest())
        if self.mask_classes is not None:
            digest.update(repr(self.mask_classes).encode())
        return digest.hexdigest()
