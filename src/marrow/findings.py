"""What is wrong with a data set: one rule after another over what was looked at, each giving rows with a remedy."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from typing import Any, Iterable, Iterator, Mapping, Sequence

import numpy as np

from .data.classes import class_counts, rare
from .data.decode import EMPTY, NO_IMAGE, TOO_LARGE
from .data.looked import Looked

HELD_OUT = ("val", "test")
FEW = 20  # images of a class, below which its accuracy is mostly chance
TINY = 16  # pixels of the short side
ODD = 4  # long to short side
# Control characters, quotes, what HTML and shells and Windows keep for themselves, what starts a formula in a spreadsheet.
AWKWARD = re.compile(r"""[\x00-\x1f\x7f"'<>|?*\\`$]|(?:^|/)[=+@-]""")
Row = dict[str, Any]


def finding(severity: str, what: str, count: int, examples: Iterable[str], remedy: str) -> Row:
    """error: `make` cannot use the data; warning: its result suffers; note: good to know."""
    first = [shown(name) for name, _ in zip(examples, range(3))]
    return {"severity": severity, "what": what, "count": count, "examples": first, "remedy": remedy}


def severity(row: Row) -> int:
    return ("error", "warning", "note").index(row["severity"])


def findings(splits: Mapping[str, Looked], alike: Mapping[str, np.ndarray]) -> list[Row]:
    """All rows, errors first. alike: for each split the group (N,) of images that look alike, -1 where not decoded."""
    rows = [*_unreadable(splits), *_skipped(splits), *_classes(splits), *_copies(splits, alike), *_groups(splits),
            *_shapes(splits), *_kinds(splits), *_names(splits)]  # fmt: skip
    return sorted(rows, key=severity)


UNREADABLE = (
    (lambda reason: reason == EMPTY, "empty files", "Delete them, or fetch them again; training passes over them."),
    (lambda reason: reason == NO_IMAGE, "files that are no images",
     "Delete them or convert them; training passes over them."),
    (lambda reason: reason.startswith(TOO_LARGE), "images too large to decode",
     "Make them smaller, or cut them into tiles; training passes over them."),
    (lambda reason: True, "damaged images, or such as cannot be opened",
     "Fetch them again or delete them; training passes over them."),
)  # fmt: skip


def _unreadable(splits: Mapping[str, Looked]) -> Iterator[Row]:
    found: dict[str, list[str]] = defaultdict(list)
    for split, look in splits.items():
        for i, reason in sorted(look.problems.items()):
            what = next(what for fits, what, _ in UNREADABLE if fits(reason))
            found[what].append(f"{_name(split, look, i)}: {reason}" if what.startswith("damaged") else
                               _name(split, look, i))  # fmt: skip
        if look.problems and len(look.problems) == len(look.fractions):
            yield finding("error", f"images of {split}, none of which can be read", len(look.problems), [],
                          "The findings below say why.")  # fmt: skip
    for _, what, remedy in UNREADABLE:
        if found[what]:
            yield finding("warning", what, len(found[what]), found[what], remedy)


SKIPPED = {
    "folders that cannot be opened": ("warning", "Give yourself the right to read them, or leave them out on purpose."),
    "links out of the folder": ("warning", "They are not followed; copy the images into the folder."),
    "links to folders": ("warning", "They are not followed; copy the images, or move the folder to its place."),
    "links that lead nowhere or in a circle": ("warning", "Delete them, or point them at images."),
    "sub-folders without an image": ("warning", "They are not taken for classes; fill them or delete them."),
}


def _skipped(splits: Mapping[str, Looked]) -> Iterator[Row]:
    found = {row for look in splits.values() for row in look.source.skipped()}
    for reason in sorted({row.reason for row in found}):
        rows = sorted(row for row in found if row.reason == reason)
        severity, remedy = SKIPPED.get(reason, ("note", "They are not read."))
        yield finding(severity, reason, sum(r.count for r in rows), (name for r in rows for name in r.examples), remedy)


def _classes(splits: Mapping[str, Looked]) -> Iterator[Row]:
    labelled = {split: look for split, look in splits.items() if look.source.classes}
    learnt = next((split for split in labelled if split not in HELD_OUT), None)
    if learnt is None:
        return
    counts = class_counts(labelled[learnt].source)
    if len(counts) == 1:
        yield finding("error", f"only one class in {learnt}", 1, counts, "A classifier needs two or more.")
    single = [c for c, n in counts.items() if n < 2]
    if single:
        yield finding("error", f"classes with fewer than 2 images in {learnt}", len(single), _with(counts, single),
                      "Add images, or take the class out.")  # fmt: skip
    if few := [c for c, n in counts.items() if 2 <= n < FEW]:
        yield finding("warning", f"classes with fewer than {FEW} images in {learnt}", len(few), _with(counts, few),
                      "Add images; the accuracy of so small a class is mostly chance.")  # fmt: skip
    if alike := list(_spelt_alike(counts)):
        yield finding("warning", "classes whose names differ only by case, accents' encoding or spaces", len(alike),
                      (f"{a} = {b}" for a, b in alike), "Put them into one folder if they are one class.")  # fmt: skip
    if small := rare(counts):
        ratio = max(counts.values()) / min(n for n in counts.values() if n)
        yield finding("warning", f"classes much smaller than the largest, which has up to {ratio:.0f} times as many images",
                      len(small), _with(counts, small), "Add images of them, and read the balanced accuracy.")  # fmt: skip
    for split, look in labelled.items():
        if split in HELD_OUT:
            other = class_counts(look.source)
            if absent := [c for c, n in counts.items() if n and not other.get(c)]:
                yield finding("warning", f"classes without an image in {split}", len(absent), absent,
                              "Add some; nothing can be said about these classes.")  # fmt: skip


def _spelt_alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    known: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold().strip()
        if plain in known:
            yield known[plain], name
        known.setdefault(plain, name)


def _copies(splits: Mapping[str, Looked], alike: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """Equal files first, then what only looks alike: in two splits, under two labels, and within a split."""
    equal = {split: np.where(_readable(look), look.fractions, -1) for split, look in splits.items()}
    leaked, relabelled, repeated = (set[tuple[str, int]]() for _ in range(3))
    for kind, groups in (("copies", equal), ("near copies", alike)):
        members = _members(groups)
        told: dict[str, list[str]] = defaultdict(list)
        for group in members:
            first = group[0]
            if clash := _other_label(splits, group, relabelled):
                told["labels"].append(f"{_label(splits, first)} = {_label(splits, clash)}")
                relabelled.update(group)
            for at in group[1:]:
                if at in leaked or at in repeated:
                    continue
                origin = next((o for o in group if _order(o[0]) < _order(at[0])), None)
                (leaked if origin else repeated).add(at)
                told[f"leaks into {at[0]}" if origin else "repeats"].append(
                    f"{_at(splits, at)} = {_at(splits, origin or first)}")  # fmt: skip
        same = "the same file" if kind == "copies" else "images that look the same"
        if told["labels"]:
            yield finding("warning", f"{same} with different labels", len(told["labels"]), told["labels"],
                          "Keep the right one; the other teaches a mistake.")  # fmt: skip
        for split in HELD_OUT:
            if found := told[f"leaks into {split}"]:
                yield finding("warning", f"images of {split} that are {kind} of images learnt or chosen by", len(found),
                              found, f"Remove them from one side; accuracy on {split} comes out too good.")  # fmt: skip
        if told["repeats"]:
            yield finding("note", f"{kind} of another image in the same split", len(told["repeats"]), told["repeats"],
                          "Keep one; "+ ("copies weigh more in training." if kind == "copies" else
                          "a random split would put them on both sides."))  # fmt: skip


def _groups(splits: Mapping[str, Looked]) -> Iterator[Row]:
    """Scenes or patients of which a held-out split has some images and what is learnt or chosen by has others."""
    seen: set[str] = set()
    for split in sorted(splits, key=_order):
        source = splits[split].source
        groups = [source.group(i) for i in range(len(source))]
        if split in HELD_OUT and (found := [i for i, group in enumerate(groups) if group in seen]):
            yield finding("warning", f"images of {split} from groups that are also learnt or chosen by", len(found),
                          (f"{_at(splits, (split, i))} ({groups[i]})" for i in found),
                          f"Move each group to one side; accuracy on {split} comes out too good.")  # fmt: skip
        seen.update(group for group in groups if group is not None)


def _members(groups: Mapping[str, np.ndarray]) -> list[list[tuple[str, int]]]:
    """(split, index) of the images of each group of two or more; what is learnt from comes first."""
    ordered = sorted(groups, key=_order)
    values = np.concatenate([groups[split] for split in ordered])
    ends = np.cumsum([len(groups[split]) for split in ordered])
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for i in np.flatnonzero((counts[inverse] > 1) & (values >= 0)):
        part = int(np.searchsorted(ends, i, side="right"))
        found[inverse[i]].append((ordered[part], int(i - ends[part] + len(groups[ordered[part]]))))
    return list(found.values())


def _order(split: str) -> int:
    """A held-out image leaks when it is also in a split of a lower number."""
    return 1 + HELD_OUT.index(split) if split in HELD_OUT else 0


def _other_label(splits: Mapping[str, Looked], group: Sequence[tuple[str, int]], known: set) -> tuple[str, int] | None:
    labelled = [at for at in group if splits[at[0]].labels[at[1]] >= 0 and at not in known]
    return next((at for at in labelled[1:] if _class(splits, at) != _class(splits, labelled[0])), None)


def _class(splits: Mapping[str, Looked], at: tuple[str, int]) -> str:
    look = splits[at[0]]
    return (look.source.classes or [])[look.labels[at[1]]]


def _label(splits: Mapping[str, Looked], at: tuple[str, int]) -> str:
    return f"{_at(splits, at)} ({_class(splits, at)})"


def _shapes(splits: Mapping[str, Looked]) -> Iterator[Row]:
    tiny, odd = [], []
    for split, look in splits.items():
        short, long = look.shapes.min(1), look.shapes.max(1)
        tiny += [(split, i) for i in np.flatnonzero((short > 0) & (short < TINY)).tolist()]
        odd += [(split, i) for i in np.flatnonzero((short > 0) & (long > ODD * short)).tolist()]
    if tiny:
        yield finding("warning", f"images less than {TINY} pixels high or wide", len(tiny), _sized(splits, tiny),
                      "Remove them, unless they are meant to be so small.")  # fmt: skip
    if odd:
        yield finding("note", f"images more than {ODD} times as long as wide", len(odd), _sized(splits, odd),
                      "The ends are cut off; cut them yourself where the object is.")  # fmt: skip


KINDS = {
    "wrong ending": ("files whose ending names another format", "Read all the same, by their content."),
    "CMYK": ("CMYK images", "Converted to RGB without a colour profile; convert them yourself if colours matter."),
    "16 bit": ("images with 16 bits a channel", "Read with 8; stretch their range first if it is only partly used."),
    "alpha": ("images with transparency", "Dropped, so that the colours beneath show; flatten them on a background."),
    "palette": ("palette images", "Read in their colours."),
    "animated": ("animations or files of several pages", "The first picture of each is read."),
    "turned": ("images turned by EXIF", "They are turned upright, as viewers show them."),
    "grey": ("grey images", "Read with three equal channels."),
}


def _kinds(splits: Mapping[str, Looked]) -> Iterator[Row]:
    for kind, (what, remedy) in KINDS.items():
        if found := [(split, i) for split, look in splits.items() for i in look.kinds.get(kind, ())]:
            yield finding("note", what, len(found), (_at(splits, at) for at in found), remedy)


def _names(splits: Mapping[str, Looked]) -> Iterator[Row]:
    found = [(split, i) for split, look in splits.items() for i in range(len(look.fractions))
             if AWKWARD.search(look.source.name(i))]  # fmt: skip
    if found:
        yield finding("note", "names with characters that other programs may trip over", len(found),
                      (_at(splits, at) for at in found), "Read all the same; rename them before you pass them on.")  # fmt: skip


def _readable(look: Looked) -> np.ndarray:
    readable = np.ones(len(look.fractions), bool)
    readable[list(look.problems)] = False
    return readable


def _sized(splits: Mapping[str, Looked], found: Sequence[tuple[str, int]]) -> Iterator[str]:
    for split, i in found:
        height, width = splits[split].shapes[i]
        yield f"{_at(splits, (split, i))} ({width} x {height})"


def _with(counts: Mapping[str, int], names: Sequence[str]) -> list[str]:
    return [f"{name} ({counts[name]})" for name in sorted(names, key=lambda n: counts[n])]


def _at(splits: Mapping[str, Looked], at: tuple[str, int]) -> str:
    return _name(at[0], splits[at[0]], at[1])


def _name(split: str, look: Looked, index: int) -> str:
    return f"{split}: {look.source.name(int(index))}" if split != "all" else look.source.name(int(index))


def shown(name: str) -> str:
    """On one line, without what would steer a terminal, and not longer than 120 characters."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return plain if len(plain) <= 120 else f"{plain[:60]}...{plain[-57:]}"
