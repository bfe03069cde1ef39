"""torchvision's data sets by name, from files that are already there."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..core.errors import MarrowError, near
from ..core.source import Source, Unreadable
from .hashing import fraction


class TorchvisionSet(Source):
    """`torchvision.datasets.<name>` with pictures and class numbers; nothing is downloaded.

    split: handed to the data set, as `train=True/False` where it knows no other word; None where it has no splits.
    """

    def __init__(self, name: str, root: str | None, split: str | None, where: str):
        self._title = f"{name}-{split}" if split else name
        self._set = _open(name, root, split, where)
        self._fractions = np.full(len(self._set), np.nan)
        self._labels = _labels(self._set, name, where)
        named = getattr(self._set, "classes", None)
        self.classes = [str(c) for c in named] if named else [str(i) for i in range(int(self._labels.max()) + 1)]

    def __len__(self) -> int:
        return len(self._set)

    def _picture(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return np.array(self._set[index][0].convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise Unreadable(self.name(index), str(error)) from None

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.from_numpy(self._picture(index)).permute(2, 0, 1), "label": int(self._labels[index])}

    def fraction(self, index: int) -> float:
        if np.isnan(self._fractions[index]):
            try:
                self._fractions[index] = fraction(self._picture(index).tobytes())
            except Unreadable as error:  # it belongs somewhere, and is counted where it is read
                self._fractions[index] = fraction(str(error).encode("utf-8", "replace"))
        return float(self._fractions[index])

    def name(self, index: int) -> str:
        return f"{self._title}/{index}"

    def label(self, index: int) -> int | None:
        return int(self._labels[index])


def own_splits(name: str, where: str) -> tuple[str, ...]:
    """The splits that a data set tells apart; empty if it has none."""
    known = inspect.signature(_class(name, where)).parameters
    return ("train", "test") if "train" in known or "split" in known else ()


def _class(name: str, where: str) -> type:
    from torchvision import datasets

    known = [n for n in datasets.__all__ if isinstance(getattr(datasets, n), type)]
    if name not in known:
        raise MarrowError(f"torchvision has no data set '{name}'{near(name, known)}", where=where)
    return getattr(datasets, name)


def _open(name: str, root: str | None, split: str | None, where: str) -> Any:
    cls = _class(name, where)
    known = inspect.signature(cls).parameters
    args: dict[str, Any] = {}
    if "root" in known:
        if root is None:
            raise MarrowError(f"'root' is missing: the folder with the files of torchvision's {name}", where=where)
        args["root"] = Path(root).expanduser()
    if "train" in known:
        if split not in ("train", "test"):
            raise MarrowError(f"{name} has the splits train and test, not '{split}'", where=where)
        args["train"] = split == "train"
    elif "split" in known:
        args["split"] = split
    try:
        return cls(**args)
    except (RuntimeError, OSError) as error:
        raise MarrowError(f"torchvision's {name} is not in {root} ({str(error).splitlines()[0]})", where=where,
                          hint="marrow does not download; fetch it with torchvision first.") from None  # fmt: skip
    except (ValueError, TypeError) as error:
        raise MarrowError(f"torchvision's {name} cannot be opened so: {error}", where=where) from None
    except ModuleNotFoundError as error:
        raise MarrowError(f"torchvision's {name} needs {error.name}", where=where) from None


def _labels(dataset: Any, name: str, where: str) -> np.ndarray:
    """Class numbers, from the data set's list of them or, where it keeps none, by going through it once."""
    labels = getattr(dataset, "targets", None)
    if labels is None:
        labels = getattr(dataset, "labels", None)
    if labels is None:
        labels = [dataset[i][1] for i in range(len(dataset))]
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not isinstance(dataset[0][0], Image.Image):
        raise MarrowError(f"torchvision's {name} is not a data set of pictures with one class each", where=where)
    return labels.astype(np.int64)
