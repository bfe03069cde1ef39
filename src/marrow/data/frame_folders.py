"""Videos as folders of pictures: each folder that holds some is a video, and they are its frames in the order of their names."""

from __future__ import annotations

import os
import re
from itertools import groupby
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.footage import Footage
from ..core.source import Source, Unreadable
from .decode import decode
from .folder import image_files
from .hashing import fraction


class FrameFolders(Source):
    """`root/<video>/<frame>`, or `root/<class>/<video>/<frame>` where labels are the names of the first folders.

    Numbers in the names of frames are counted, so frame 10 follows frame 9. The hash is that of the number of frames and of
    the first, the middle and the last: to read them all would take as long as a training's epoch.

    classes: the label names to count by, when several folders must agree.
    """

    def __init__(self, root: Path, where: str, labelled: bool = True, classes: list[str] | None = None):
        self.root = os.path.abspath(root)
        found = sorted(
            (os.fsdecode(p) for p in image_files(self.root)), key=lambda p: (os.path.dirname(p), _counted(p))
        )
        folders = [(folder, tuple(frames)) for folder, frames in groupby(found, os.path.dirname)]
        if not folders or not folders[0][0]:
            what = "has no folders of frames" if not folders else "has frames at its top"
            raise MarrowError(f"{root} {what}; each video is a folder of its own in it", where=where)
        self._videos = folders
        nested = ["/" in folder for folder, _ in folders]
        if labelled and any(nested) and not all(nested):
            odd = folders[nested.index(False)][0]
            raise MarrowError(f"{root} has videos both at its top ({odd}) and in sub-folders, so it is unclear whether "
                              "sub-folders are classes", where=where, hint="Give 'labels: false' to use all without labels.")  # fmt: skip
        self._labels = None
        if labelled and all(nested):
            names = [folder.split("/")[0] for folder, _ in folders]
            self.classes = classes or sorted(set(names))
            self._labels = [self.classes.index(name) for name in names]

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> dict:
        example = self.undecoded(index)
        return {**example, "image": example["image"].frames(range(len(example["image"])))}

    def undecoded(self, index: int) -> dict:
        frames = self._videos[index][1]
        example: dict[str, Any] = {"image": Footage(len(frames), lambda numbers: self._read(frames, numbers))}
        return example if self._labels is None else {**example, "label": self._labels[index]}

    def _read(self, frames: Sequence[str], numbers: Sequence[int]) -> Tensor:
        pictures = [decode(self._bytes(frames[number]), frames[number]) for number in numbers]
        for number, picture in zip(numbers, pictures):
            if picture.shape != pictures[0].shape:
                raise Unreadable(frames[number], f"a frame of {tuple(picture.shape[1:])} pixels in a video of "
                                 f"{tuple(pictures[0].shape[1:])}")  # fmt: skip
        return torch.stack(pictures)

    def _bytes(self, frame: str) -> bytes:
        try:
            return Path(self.root, frame).read_bytes()
        except OSError as error:
            raise Unreadable(frame, error.strerror or str(error)) from None

    def fraction(self, index: int) -> float:
        frames = self._videos[index][1]
        try:
            shown = b"".join(self._bytes(frames[i]) for i in sorted({0, len(frames) // 2, len(frames) - 1}))
        except Unreadable as error:  # it belongs somewhere, and is counted where it is read
            shown = str(error).encode("utf-8", "replace")
        return fraction(b"%d frames:" % len(frames) + shown)

    def name(self, index: int) -> str:
        return self._videos[index][0].encode("utf-8", "backslashreplace").decode()

    def label(self, index: int) -> int | None:
        return None if self._labels is None else self._labels[index]


def _counted(path: str) -> list[tuple[int, str]]:
    """A name as digits count: each run of them as a number, each of other characters as it is."""
    parts = re.findall(r"\d+|\D+", os.path.basename(path))
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]
