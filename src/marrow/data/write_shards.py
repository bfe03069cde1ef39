"""A data set as tar shards in the webdataset layout, with an index: `marrow data SRC --to-shards DIR`."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import numpy as np
import torch
from torchvision.io import encode_png

from ..core import plain_json
from ..core.errors import MarrowError
from ..core.source import Source, Unreadable
from . import jpeg, shard_index
from .decode import opened
from .header import ENDINGS
from .layout import located
from .open import open_source, splits_of
from .shard_index import UNFINISHED, Gathered
from .tar_scan import MASK

WHERE, SIZE = "--to-shards", "256MB"
UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
TRIES = 32  # examples asked for their fields


def write_shards(images: str, to: Path | str, size: str = SIZE, root: str | None = None, masks: str | None = None,
                 told: Callable[[str], None] = lambda line: None) -> dict[str, Any]:  # fmt: skip
    """Copy a data set, with the splits that it brings, into shards of about `size`; what was written, as JSON values.

    A sample is `NUMBER.jpg` (or another ending) with the stored bytes, PNG where a source keeps pixels, and `NUMBER.json`
    with label, class and name, a mask `NUMBER.mask.png`; NUMBER is the example's place in its split. They are in the order of one shuffled epoch,
    since a shard of one class would make batches of one class. Files get their names when they are whole. Given the
    same again, an interrupted call goes on behind the last whole shard, a finished one writes nothing; what counts as the
    same are classes, labels and names.

    masks: their folder, for a folder of images. told: is given a line for each shard.
    """
    folder, limit = Path(to), _size(size)
    sources = _opened(images, root, masks)
    _outside(images, [place for place in (root, masks) if place], folder)
    named = {tuple(s.classes) for s in sources.values() if s.classes is not None}
    if len(named) > 1:
        raise MarrowError("the splits have different classes", where=WHERE)
    classes = list(named.pop()) if named else None
    orders = {split: _order(source) for split, source in sources.items()}
    state = _begun(folder, _identity(sources, orders, limit))
    try:
        _write(folder, limit, sources, orders, state, told)
        about = {"format": shard_index.FORMAT, **state, "classes": classes, "left_out": _left_out(sources)}
        if of_masks := next((s.mask_classes for s in sources.values() if s.mask_classes), None):
            about["mask_classes"] = of_masks
        if classes is not None:
            _replace(folder / "classes.json", json.dumps(classes).encode())  # for other readers
        _replace(folder / shard_index.FILE, json.dumps(about, indent=1).encode())
        (folder / UNFINISHED).unlink(missing_ok=True)
    except OSError as error:
        full = "Make room" if error.errno == errno.ENOSPC else "Put it right"
        raise MarrowError(f"{folder} cannot be written ({error.strerror})", where=WHERE,
                          hint=f"{full} and give the same command again; it goes on where it stopped.") from None  # fmt: skip
    facts = state["shards"].values()
    return {"folder": str(folder), "shards": len(facts), "examples": sum(f["examples"] for f in facts),
            "bytes": sum(f["bytes"] for f in facts), "unreadable": state["unreadable"],
            "left_out": about["left_out"]}  # fmt: skip


def as_text(facts: Mapping[str, Any]) -> str:
    """What `write_shards` returned, for a terminal."""
    lines = [
        f"{facts['examples']:,} examples in {facts['shards']} shards, {facts['bytes']:,} bytes, in {facts['folder']}"
    ]
    lines += [f"left out: {name}: {reason}" for name, reason in list(facts["unreadable"].items())[:3]]
    if (more := len(facts["unreadable"]) - 3) > 0:
        lines.append(f"left out: {more} more that cannot be read")
    if facts["left_out"]:
        lines.append(f"left out of every example: {', '.join(facts['left_out'])}")
    return "\n".join(lines)


@dataclasses.dataclass
class _Shard:
    """A tar file on its way."""

    content: io.BufferedWriter
    digest: Any = dataclasses.field(default_factory=hashlib.sha256)
    found: Gathered = dataclasses.field(default_factory=Gathered)
    size: int = 0

    def _put(self, data: bytes) -> None:
        self.content.write(data)
        self.digest.update(data)
        self.size += len(data)

    def file(self, name: str, data: bytes) -> int:
        """Where the content begins. Date, owner and rights are left at nothing, so that equal data make equal shards."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._put(header.tobuf(tarfile.USTAR_FORMAT))
        start = self.size
        self._put(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        return start

    def end(self) -> None:
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self.content.flush()
        os.fsync(self.content.fileno())


def _write(folder: Path, limit: int, sources: Mapping[str, Source], orders: Mapping[str, torch.Tensor],
           state: dict[str, Any], told: Callable[[str], None]) -> None:  # fmt: skip
    for split, source in sources.items():
        order = orders[split].numpy()
        done = [facts for name, facts in state["shards"].items() if name.rpartition("-")[0] == split]
        at, number = sum(facts["taken"] for facts in done), len(done)
        while at < len(order):
            name, part = f"{split}-{number:06d}.tar", folder / f".{split}-{number:06d}.part"
            with open(part, "wb") as content:
                shard, before = _Shard(content), at
                for example in _examples(source, order[at:], state["unreadable"]):
                    if example is not None:
                        if len(shard.found) and shard.size + example.room > limit:
                            break
                        example.into(shard)
                    at += 1
                shard.end()
            index = shard_index.stored(shard.found.entries())
            _replace(folder / shard_index.index_file(name), index)
            os.replace(part, folder / name)
            state["shards"][name] = {
                "bytes": shard.size, "sha256": shard.digest.hexdigest(), "examples": len(shard.found),
                "index": hashlib.sha256(index).hexdigest(), "taken": at - before,
            }  # fmt: skip
            _replace(folder / UNFINISHED, json.dumps(state).encode())
            told(f"{name}: {len(shard.found):,} examples, {at:,} of {len(order):,}")
            number += 1


@dataclasses.dataclass(frozen=True)
class _Example:
    key: str
    ending: str
    image: bytes
    about: bytes
    name: str
    label: int | None
    fraction: float
    mask: tuple[str, bytes] | None  # ending and content

    @property
    def room(self) -> int:
        mask = len(self.mask[1]) + 2 * tarfile.BLOCKSIZE if self.mask else 0
        return len(self.image) + len(self.about) + 4 * tarfile.BLOCKSIZE + mask

    def into(self, shard: _Shard) -> None:
        shard.file(f"{self.key}.json", self.about)
        start = shard.file(f"{self.key}.{self.ending}", self.image)
        mask = None
        if self.mask is not None:
            ending, content = self.mask
            mask = (shard.file(f"{self.key}.{MASK}{ending}", content), len(content))
        shard.found.add(f"{self.key} ({self.name})", start, len(self.image), self.label, self.fraction, mask)


def _examples(source: Source, indices: np.ndarray, unreadable: dict[str, str]) -> Iterator[_Example | None]:
    """The examples in this order; None for one that cannot be read, with the reason in `unreadable`."""
    for index in map(int, indices):
        name, label = source.name(index), source.label(index)
        try:
            image = source.stored(index)
            ending = "png" if image is None else _ending(image, name)
            image = encode_png(source[index]["image"]).numpy().tobytes() if image is None else image
            mask = source.stored_mask(index)
            if mask == b"":
                raise Unreadable(name, "its mask cannot be read")
        except Unreadable as error:
            unreadable[error.name] = error.reason
            yield None
            continue
        about: dict[str, Any] = {"name": name}
        if label is not None and source.classes is not None:
            about |= {"label": label, "class": source.classes[label]}
        yield _Example(f"{index:08d}", ending, image, json.dumps(about).encode(), name, label, source.fraction(index),
                       None if mask is None else (_ending(mask, f"{name}.png"), mask))  # fmt: skip


def _ending(image: bytes, name: str) -> str:
    """By content; a damaged picture keeps the ending of its name or goes as jpg, so that readers take it for a picture."""
    if image.startswith(jpeg.START):
        return "jpg"
    try:
        return ENDINGS[str(opened(image, name).format)][0][1:]
    except Unreadable:
        own = os.path.splitext(name)[1].lower()
        return own[1:] if any(own in endings for endings in ENDINGS.values()) else "jpg"


def _opened(images: str, root: str | None, masks: str | None) -> dict[str, Source]:
    given = {"images": images, **({"root": root} if root else {}), **({"masks": masks} if masks else {})}
    splits = splits_of(images, "data")
    return {s: open_source({**given, "split": s}, "data") for s in splits} or {"images": open_source(given, "data")}


def _order(source: Source) -> torch.Tensor:
    return source.order(torch.Generator().manual_seed(0))


def _identity(sources: Mapping[str, Source], orders: Mapping[str, torch.Tensor], limit: int) -> str:
    digest = hashlib.sha256(repr(limit).encode())
    for split, source in sources.items():
        digest.update(repr((split, source.classes)).encode())
        if source.stored_mask(0) is not None:
            digest.update(repr(("masks", source.mask_classes)).encode())
        digest.update(orders[split].numpy().tobytes())
        for index in range(len(source)):
            digest.update(f"{source.label(index)} {source.name(index)}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def _outside(images: str, more: list[str], folder: Path) -> None:
    target = folder.resolve()
    for source in (located(images), *(Path(place).expanduser() for place in more)):
        if source.is_dir():
            inside = target == source.resolve() or source.resolve() in target.parents
        else:
            inside = source.is_file() and target == source.resolve().parent
        if inside:
            raise MarrowError(f"{folder} lies inside the data, which is never written to", where=WHERE,
                              hint="Give a folder beside it.")  # fmt: skip


def _begun(folder: Path, identity: str) -> dict[str, Any]:
    """What is written already: nothing in a new folder, whole shards of the same data in an unfinished one."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MarrowError(f"{folder} cannot be made ({error.strerror})", where=WHERE) from None
        state = {"source": identity, "shards": {}, "unreadable": {}}
        _replace(folder / UNFINISHED, json.dumps(state).encode())
        return state
    for file in (shard_index.FILE, UNFINISHED):
        if (folder / file).is_file():
            state = plain_json.read(folder / file, WHERE, shard_index.LARGEST)
            if not shard_index.is_list_of_shards(state) or not isinstance(state.get("unreadable"), dict):
                raise MarrowError(f"{file} in {folder} lists no shards", where=WHERE,
                                  hint=f"Delete {folder} and write it again.")  # fmt: skip
            if state.get("source") != identity:
                raise MarrowError(f"{folder} holds shards of other data, or of another size", where=WHERE,
                                  hint="Give a new folder, or delete this one.")  # fmt: skip
            for name, facts in state["shards"].items():
                if not (folder / name).is_file() or (folder / name).stat().st_size != facts["bytes"]:
                    raise MarrowError(f"{name}, which was written before, is missing or was changed", where=WHERE,
                                      hint=f"Delete {folder} and write it again.")  # fmt: skip
            return {key: state[key] for key in ("source", "shards", "unreadable")}
    raise MarrowError(f"{folder} is not empty", where=WHERE, hint="Give a new folder.")


def _left_out(sources: Mapping[str, Source]) -> list[str]:
    """Fields of the examples that shards have no place for, such as numbers beside the images."""
    fields: dict[str, None] = {}
    for source in sources.values():
        for index in range(min(TRIES, len(source))):
            try:
                fields |= dict.fromkeys(source.undecoded(index))
                break
            except Unreadable:
                continue
    return [name for name in fields if name not in ("image", "label", "mask")]


def _size(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?b)\s*", text, re.IGNORECASE)
    if not match or (size := float(match[1]) * UNITS[match[2].lower()]) < 1:
        raise MarrowError(f"'{text}' is no size; write 256MB or 1GiB", where="--shard-size")
    return int(size)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
