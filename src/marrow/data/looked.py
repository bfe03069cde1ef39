"""One look at every example of a source: content hash, label and header, and grey thumbnails and masks of some."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Iterable

import numpy as np
import torch
from torch import Tensor

from ..core.source import VOID, Source, Unreadable
from .hashing import fraction
from .header import header
from .masks import Misfit
from .views import resize

THUMBNAIL = (32, 32)


class Looked:
    """fractions (N,); labels (N,), -1 without; shapes (N, 2) height and width as stored, 0 where still unknown.

    kinds: what is unusual about headers -> indices. problems: index -> why it cannot be read. size: bytes of all files.
    masks: how many were decoded; ids: class id, or `VOID` -> pixels in them; all_void: names of those without another;
    misfits: what is said about masks that have not the size of their images.
    """

    def __init__(self, source: Source):
        count = len(source)
        self.source, self.size = source, 0
        self.fractions, self.labels = np.zeros(count), np.full(count, -1)
        self.shapes = np.zeros((count, 2), np.int64)
        self.formats: Counter[str] = Counter()
        self.kinds: dict[str, list[int]] = defaultdict(list)
        self.problems: dict[int, str] = {}
        self.masks, self.ids = 0, Counter[int]()
        self.all_void: list[str] = []
        self.misfits: list[str] = []
        for i in range(count):
            label = source.label(i)
            self.labels[i] = -1 if label is None else label
            try:
                self._header(i)
            except Unreadable as error:
                self.problems[i] = error.reason

    def _header(self, index: int) -> None:
        data = self.source.stored(index)
        if data is None:
            self.fractions[index] = self.source.fraction(index)
            return
        self.fractions[index] = fraction(data)
        self.size += len(data)
        read = header(data, self.source.name(index))
        self.shapes[index] = read.height, read.width
        self.formats[read.format] += 1
        for kind in read.kinds:
            self.kinds[kind].append(index)

    def decode(self, indices: Iterable[int]) -> tuple[list[int], Tensor]:
        """The indices that can be decoded, and their thumbnails (n, 32, 32) uint8; the others become problems."""
        read, thumbnails = [], []
        for i in indices:
            try:
                example = self.source[i]
            except Unreadable as error:
                self.problems[i] = error.reason
                continue
            except Misfit as error:
                self.misfits.append(str(error))
                continue
            image = example["image"]
            image = image[len(image) // 2] if image.ndim == 4 else image  # of a video the frame in the middle
            if "mask" in example:
                self._mask(example["mask"], self.source.name(i))
            if not self.shapes[i].any():
                self.shapes[i] = image.shape[-2:]
            read.append(i)
            thumbnails.append(resize(image, THUMBNAIL).float().mean(0).round().to(torch.uint8))
        return read, torch.stack(thumbnails) if thumbnails else torch.empty(0, *THUMBNAIL, dtype=torch.uint8)

    def _mask(self, mask: Tensor, name: str) -> None:
        ids, counts = mask.unique(return_counts=True)
        self.masks += 1
        self.ids.update(dict(zip(ids.tolist(), counts.tolist())))
        if ids.tolist() == [VOID]:
            self.all_void.append(name)
