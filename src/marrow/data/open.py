"""A recipe's `{images: ..., split: ..., ...}` -> a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

from ..core.errors import MarrowError
from ..core.source import Source
from ..core.source_check import EMBEDDED, SCENES, SPLITS, check_source
from ..core.table import Table
from . import select
from .blended import Blended, Turned
from .combine import Joined, Unlabelled
from .digits import digits
from .domains import OfDomain
from .folder import ImageFolder, class_folders, sub_folders
from .frame_folders import FrameFolders
from .groups import Grouped
from .hashing import RANGES
from .layout import data_files, located, splits
from .mask_folder import MaskFolder
from .masks import Masked
from .moving_digits import MovingDigits
from .objects import Objects
from .parquet import Parquet
from .scenes import DigitScenes
from .shards import Shards
from .tables import TableSource
from .torchvision_sets import TorchvisionSet, own_splits
from .video_files import VideoFiles

TORCHVISION = "torchvision:"
WHOLE = (0.0, 1.0)
VIDEOS = {"frames": FrameFolders, "files": VideoFiles}
CUTS = ("group", "split", "indices", "without", "only", "hash")  # they may leave nothing


def open_source(given: Mapping[str, Any], where: str = "data") -> Source:
    """Open and cut one source; every mistake is a MarrowError that names the key.

    Cuts are made in this order: split (by group), indices (positions in the split), without, only, hash, per_class or
    fraction, classes; then turned, blend, labels.
    """
    _check(given, where)
    # Cutting by class reads the labels even where they are dropped afterwards.
    labelled = given.get("labels", "masks" not in given)  # sub-folders beside masks are scenes rather than classes
    source, within = _opened(given, labelled or "per_class" in given or "only" in given, where)
    draw = select.Draw(None if "salt" not in given else str(given["salt"]), within)
    if "indices" in given:
        source = select.by_index(source, _indices(given["indices"], f"{where}.indices"), f"{where}.indices")
    if "without" in given:
        source = select.without(source, _others(given["without"], f"{where}.without"))
    if "only" in given:
        source = select.only(source, given["only"], f"{where}.only")
    if "hash" in given:
        low, high = given["hash"]
        source = select.in_range(source, low, high, draw)
    if "per_class" in given:
        source = select.per_class(source, given["per_class"], f"{where}.per_class", draw)
    if "fraction" in given:
        source = select.share(source, given["fraction"], f"{where}.fraction", draw)
    if not len(source):
        cuts = ", ".join(f"{k}: {given[k]}" for k in CUTS if k in given)
        raise MarrowError(f"no example of {given['images']} is left by {cuts}", where=where)
    if "classes" in given and labelled:
        source = select.numbered(source, given["classes"], f"{where}.classes")
    if source.stored_mask(0) is not None:
        source = Masked(source, given.get("void"), given.get("mask_classes"))
    elif alone := [k for k in ("void", "mask_classes") if k in given]:
        raise MarrowError("the images have no masks", where=f"{where}.{alone[0]}")
    if "objects" in given:
        source = Objects(source, given["objects"], f"{where}.objects")
    if "turned" in given:
        source = Turned(source, given["turned"])
    if "blend" in given:
        other = None if given["blend"] == "black" else open_source(given["blend"], f"{where}.blend")
        source = Blended(source, other, str(given.get("salt", "")))
    source = source if labelled or source.classes is None else Unlabelled(source)
    return OfDomain(source, given["domain"]) if "domain" in given else source


def open_sources(mappings: Sequence[Mapping[str, Any]], where: str = "data") -> Source:
    """A stream: its sources joined. Class lists must agree; with one unlabelled source the stream has no labels."""
    if isinstance(mappings, (str, Mapping)) or not isinstance(mappings, Sequence) or not mappings:
        raise MarrowError(f"a stream is a list of sources such as [{{images: digits}}], got {mappings!r}", where=where)
    opened = [open_source(m, f"{where}[{i}]") for i, m in enumerate(mappings)]
    return opened[0] if len(opened) == 1 else Joined(opened, where)


def splits_of(images: str, where: str = "data") -> tuple[str, ...]:
    """The splits that a data set brings, in the order train, val, test; empty where the content hash cuts it."""
    _check({"images": images}, where)
    if images == SCENES:
        return SPLITS
    if images in EMBEDDED:
        return ()
    if images.startswith(TORCHVISION):
        return own_splits(images.removeprefix(TORCHVISION), f"{where}.images")
    path = located(images)
    if path.is_file() or (path / "artifact.json").is_file():
        return ()
    return tuple(splits(path, f"{where}.images"))


def _opened(given: Mapping[str, Any], labelled: bool, where: str) -> tuple[Source, tuple[float, float]]:
    """The source of a split, and the range of the content hash that it covers."""
    source, brought = _stored(given, labelled, where)
    if "group" in given:
        source = Grouped(source, given["group"], f"{where}.group", several=not brought)
    return (source, WHOLE) if brought else _ranged(source, given.get("split"))


def _stored(given: Mapping[str, Any], labelled: bool, where: str) -> tuple[Source, bool]:
    """What lies there, and whether it comes in splits, of which this is the one asked for."""
    images, split = given["images"], given.get("split")
    if images.startswith(TORCHVISION):
        name = images.removeprefix(TORCHVISION)
        brought = own_splits(name, f"{where}.images")
        if brought and split is None:
            raise MarrowError(f"torchvision's {name} comes in splits; say which", where=f"{where}.split",
                              hint=f"It has {', '.join(brought)}.")  # fmt: skip
        return TorchvisionSet(name, given.get("root"), split if brought else None, where), bool(brought)
    if images == SCENES:
        parts = [_scenes(given, part, where) for part in ([split] if split else SPLITS)]
        return (parts[0] if split else Joined(parts, where)), True
    if images in EMBEDDED:
        return digits() if images == "digits" else MovingDigits(changing=images == "changing_digits"), False
    path = located(images)
    brought = {} if path.is_file() or (path / "artifact.json").is_file() else splits(path, f"{where}.images")
    if "videos" in given:
        return _videos(path, brought, given, labelled, where)
    if not brought:
        return _with_masks(_read([path], labelled, f"{where}.images"), given, path, path, where), False
    if split is not None and split not in brought:
        raise MarrowError(f"{images} has no split '{split}'; it has {', '.join(brought)}", where=f"{where}.split",
                          hint="Cut one from train: {split: train, hash: [0.0, 0.1]} and {split: train, hash: [0.1, 1.0]}.")  # fmt: skip
    parts = [brought[split]] if split else list(brought.values())
    everything = [p for files in brought.values() for p in files]
    opened = [_with_masks(_read(paths, labelled, f"{where}.images", everything), given, path, paths[0], where)
              for paths in parts]  # fmt: skip
    return (opened[0] if len(opened) == 1 else Joined(opened, where)), True


def _scenes(given: Mapping[str, Any], split: str, where: str) -> Source:
    """The backgrounds are of the same split, unless they say another one."""
    behind = given.get("backgrounds")
    opened = None if behind is None else open_source({"split": split, **behind}, f"{where}.backgrounds")
    return DigitScenes(split, **given.get("scenes", {}), backgrounds=opened)


def _videos(
    path: Path, brought: dict[str, list[Path]], given: Mapping[str, Any], labelled: bool, where: str
) -> tuple[Source, bool]:
    """A folder of videos, or one of its splits, which are folders too."""
    kind, split = VIDEOS[given["videos"]], given.get("split")
    if not path.is_dir() or any(not part.is_dir() for parts in brought.values() for part in parts):
        raise MarrowError(f"{path.name} is not a folder of videos", where=f"{where}.videos")
    if split is not None and brought and split not in brought:
        raise MarrowError(f"{path.name} has no split '{split}'; it has {', '.join(brought)}", where=f"{where}.split")
    names = sorted({name for parts in brought.values() for part in parts for name in sub_folders(part)})
    chosen = [brought[split][0]] if split and brought else [parts[0] for parts in brought.values()] or [path]
    opened = [kind(folder, f"{where}.images", labelled, names or None) for folder in chosen]
    return (opened[0] if len(opened) == 1 else Joined(opened, where)), bool(brought)


def _read(paths: Sequence[Path], labelled: bool, where: str, siblings: Sequence[Path] = ()) -> Source:
    """Files of one kind, or one folder. siblings: what the other splits hold, so that all count the same classes."""
    first = paths[0]
    if first.is_dir() and (first / "artifact.json").is_file():
        return TableSource(_table(first, "image", where), first.name)
    if first.is_dir():
        files = data_files(first)
        if files:
            beside = [f for s in siblings for f in data_files(s)]
            return _read(files, labelled, where, beside)
        names = sorted({name for s in siblings for name in class_folders(s)})
        return ImageFolder(first, where, labelled, names or None)
    if first.suffix == ".parquet":
        return Parquet(paths, where, labelled, siblings)
    if first.suffix == ".tar":
        return Shards(paths, where, labelled)
    raise MarrowError(f"{first.name} is neither a folder nor a .parquet or .tar file", where=where)


def _with_masks(source: Source, given: Mapping[str, Any], whole: Path, part: Path, where: str) -> Source:
    """Masks lie under `masks` as the images do under `images`, splits included."""
    if "masks" not in given:
        return source
    below = part.relative_to(whole) if part.is_dir() else Path()
    return MaskFolder(source, located(given["masks"]) / below, f"{where}.masks")


def _ranged(source: Source, split: str | None) -> tuple[Source, tuple[float, float]]:
    """A split of a data set that brings none: a range of the content hash."""
    if split is None:
        return source, WHOLE
    return select.in_range(source, *RANGES[split]), RANGES[split]


def _table(path: Path, column: str, where: str) -> Table:
    from ..core.artifact import Artifact  # brings timm along, which takes seconds to import

    loaded = Artifact.open(path)
    table = loaded.load() if loaded.meta["kind"] == "data" else None
    if not isinstance(table, Table):
        raise MarrowError(f"{path} is an artifact of kind {loaded.meta['kind']}; data is needed", where=where)
    if column not in table.columns:
        raise MarrowError(f"{path} has no column '{column}'; it has {', '.join(table.columns)}", where=where)
    return table


def _others(mappings: Sequence[Mapping[str, Any]], where: str) -> Source:
    """Only content and groups matter here, so classes need not agree."""
    return open_sources([{**m, "labels": False} for m in mappings], where)


def _indices(value: Any, where: str) -> Sequence[int]:
    return _table(Path(value), "index", where).columns["index"].tolist() if isinstance(value, str) else value


def _check(mapping: Mapping[str, Any], where: str) -> None:
    if problems := list(check_source(mapping, where)):
        raise MarrowError.listing(problems, where)
    if "per_class" in mapping and "fraction" in mapping:
        raise MarrowError("per_class and fraction exclude each other", where=where)
    if "masks" in mapping and (mapping["images"] in EMBEDDED or mapping["images"].startswith(TORCHVISION)):
        raise MarrowError("'masks' goes with a folder of images only", where=f"{where}.masks")
    if "videos" in mapping and (mapping["images"] in EMBEDDED or mapping["images"].startswith(TORCHVISION)):
        raise MarrowError("'videos' goes with a folder only", where=f"{where}.videos")
    if "root" in mapping and not mapping["images"].startswith(TORCHVISION):
        raise MarrowError(f"'root' goes with {TORCHVISION}NAME only", where=f"{where}.root")
