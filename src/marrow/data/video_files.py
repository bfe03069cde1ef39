"""Videos as files, read by PyAV; only the frames that a view asks for become pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.footage import Footage
from ..core.source import Source, Unreadable
from .hashing import fraction

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


class VideoFiles(Source):
    """Every video file below `root`, sorted by path; the label is the name of the first sub-folder, if all lie in some.

    A video's frames are counted as they are stored, so `stride` means frames, not seconds. The hash is that of the file.

    classes: the label names to count by, when several folders must agree.
    """

    def __init__(self, root: Path, where: str, labelled: bool = True, classes: list[str] | None = None):
        _library(where)
        self.root = root
        self._files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*")
                             if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith("."))  # fmt: skip
        if not self._files:
            raise MarrowError(f"no videos in {root}", where=where, hint=f"Known files: {', '.join(SUFFIXES)}.")
        nested = ["/" in file for file in self._files]
        if labelled and any(nested) and not all(nested):
            raise MarrowError(f"{root} has videos both at its top ({self._files[nested.index(False)]}) and in sub-folders, so "
                              "it is unclear whether sub-folders are classes", where=where,
                              hint="Give 'labels: false' to use all without labels.")  # fmt: skip
        self._labels = None
        if labelled and all(nested):
            names = [file.split("/")[0] for file in self._files]
            self.classes = classes or sorted(set(names))
            self._labels = [self.classes.index(name) for name in names]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        example = self.undecoded(index)
        return {**example, "image": example["image"].frames(range(len(example["image"])))}

    def undecoded(self, index: int) -> dict:
        file = self._files[index]
        count = length(self.root / file, file)
        example: dict[str, Any] = {"image": Footage(count, lambda numbers: frames(self.root / file, file, numbers))}
        return example if self._labels is None else {**example, "label": self._labels[index]}

    def fraction(self, index: int) -> float:
        try:
            return fraction((self.root / self._files[index]).read_bytes())
        except OSError as error:  # it belongs somewhere, and is counted where it is read
            return fraction(str(error.strerror).encode())

    def name(self, index: int) -> str:
        return os.fsencode(self._files[index]).decode("utf-8", "backslashreplace")

    def label(self, index: int) -> int | None:
        return None if self._labels is None else self._labels[index]


def length(path: Path, name: str) -> int:
    """The number of frames: as the file says, else counted by its packets."""
    av = _library("data")
    try:
        with av.open(str(path)) as opened:
            if not opened.streams.video:
                raise Unreadable(name, "the file holds no video")
            stream = opened.streams.video[0]
            count = stream.frames or sum(packet.size > 0 for packet in opened.demux(stream))
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(name, f"damaged or no video ({error})") from None
    if not count:
        raise Unreadable(name, "the video has no frame")
    return count


def frames(path: Path, name: str, numbers: Sequence[int]) -> Tensor:
    """The frames (T, 3, H, W) of these numbers, in rising order.

    Those before the last one asked for are decoded, because most depend on the one before; those behind it are not.
    """
    av = _library("data")
    wanted, found = set(numbers), []
    try:
        with av.open(str(path)) as opened:
            for i, frame in enumerate(opened.decode(video=0)):
                if i in wanted:
                    found.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
                if i == numbers[-1]:
                    break
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(name, f"damaged or no video ({error})") from None
    if len(found) < len(wanted):
        raise Unreadable(name, f"the video ends before its frame {numbers[-1]}")
    return torch.stack(found)


def _library(where: str) -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise MarrowError("video files are read by PyAV, which is not installed", where=where,
                          hint='Install it with: pip install "marrow[video]". Folders of frames need nothing: videos: frames.') from None  # fmt: skip
    return av
