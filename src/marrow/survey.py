"""`marrow data`: a look at a data set before it is used. Nothing is written, and nothing in it is fatal."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Mapping

import numpy as np
import torch

from .core.errors import MarrowError
from .core.source import Source
from .data import class_counts, open_source, splits_of
from .data.layout import located
from .data.looked import Looked
from .data.shard_index import changed
from .findings import finding, findings, severity, shown
from .mask_findings import facts as mask_facts
from .mask_findings import mask_findings
from .mask_findings import rows as mask_rows
from .nn.duplicates import alike_groups
from .text_table import pairs, table

IMAGES = 20_000
PIXELS = 3_000_000_000  # half a minute of decoding
CLASSES = 20  # lines; of more classes the largest and the smallest are printed


def survey(splits: Mapping[str, Source], *, images: int = IMAGES, pixels: int = PIXELS) -> dict[str, Any]:
    """What the splits hold and what is wrong with them, as JSON values; `findings` are rows for the report.

    splits: what is held out is called `val` and `test`; the same image in one of them and elsewhere is a leak, so leave
    out the training images under a second name. Every header is read. Beyond `images` images or `pixels` pixels a
    sample is decoded, the same one every time; damage and near-duplicates are only seen in what is decoded.
    """
    start = time.monotonic()
    looked = {split: Looked(source) for split, source in splits.items()}
    chosen = _sample(looked, images, pixels)
    opened = sum(map(len, chosen.values()))
    whole = opened + sum(len(look.problems) for look in looked.values()) == sum(map(len, splits.values()))
    decoded, thumbnails = {}, []
    for split, look in looked.items():
        decoded[split], small = look.decode(chosen[split])
        thumbnails.append(small)
    groups = alike_groups(torch.cat(thumbnails)).numpy()
    alike, used = {}, 0
    for split, look in looked.items():
        alike[split] = np.full(len(look.fractions), -1)
        alike[split][decoded[split]] = groups[used : used + len(decoded[split])]
        used += len(decoded[split])
    shapes = np.concatenate([look.shapes for look in looked.values()])
    shapes = shapes[shapes.any(1)]
    named = {split: class_counts(source) for split, source in splits.items() if source.classes}
    return {
        "images": sum(map(len, splits.values())),
        "splits": {split: _split(look) for split, look in looked.items()},
        "classes": {name: {split: counts.get(name, 0) for split, counts in named.items()}
                    for name in dict.fromkeys(name for counts in named.values() for name in counts)},
        "sizes": {what: [int(v) for v in of(shapes, axis=0)[::-1]]  # width, height
                  for what, of in (("min", np.min), ("median", np.median), ("max", np.max)) if len(shapes)},
        "formats": dict(sum((look.formats for look in looked.values()), Counter()).most_common()),
        "kinds": dict(sum((Counter({k: len(v) for k, v in look.kinds.items()}) for look in looked.values()), Counter())),
        "bytes": sum(look.size for look in looked.values()),
        "decoded": opened,
        "looked_at": "all headers and pixels" if whole else
                     f"all headers; damage and near-duplicates in a sample of {opened:,}, chosen by content",
        "masks": mask_facts(looked),
        "findings": sorted([*findings(looked, alike), *mask_findings(looked)], key=severity),
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def survey_of(
    images: str, root: str | None = None, group: str | None = None, masks: str | None = None, void: int | None = None
) -> dict[str, Any]:
    """The survey of a data set with the splits that it brings, or of all of it as the split `all`.

    Labels or masks that cannot be made out are the first finding, and the images are looked at without them. root: the folder
    with the files of a torchvision set. group: a pattern in the names, see `Grouped`; only splits that the data brings
    can divide a group. masks: their folder; void: the id in masks that means unknown.
    """
    options = {"root": root, "group": group, "masks": masks, "void": void}
    given = {"images": images, **{key: value for key, value in options.items() if value is not None}}
    parts = {split: {**given, "split": split} for split in splits_of(images, "data")} or {"all": given}
    problems = []
    try:
        opened = {split: open_source(part, "data") for split, part in parts.items()}
    except MarrowError as error:
        bare = {k: v for k, v in given.items() if k not in ("masks", "void")} | {"labels": False}
        opened = {split: open_source({**bare, "split": split} if "split" in part else bare, "data")
                  for split, part in parts.items()}  # fmt: skip
        problems.append(finding("error", error.message, 1, [], error.hint))
    if names := changed(located(images)):
        problems.append(finding("error", "shards whose content is not what their index lists", len(names), names[:3],
                                "Copy them again, or write them again with --to-shards."))  # fmt: skip
    found = survey(opened)
    return {"name": images, **found, "findings": [*problems, *found["findings"]]}


def as_text(found: Mapping[str, Any], width: int | None = None) -> str:
    """The survey for a terminal."""
    about = {
        "images": found["images"],
        "classes": len(found["classes"]) or "none: no labels",
        "size": ", ".join(f"{what} {w} x {h}" for what, (w, h) in found["sizes"].items()) or None,
        "formats": found["formats"] or None,
        "bytes": found["bytes"] or None,
        "looked at": found["looked_at"],
    }
    parts = [pairs({k: v for k, v in about.items() if v is not None})]
    if found["classes"] or len(found["splits"]) > 1:
        rows = [{"class": "(all)", **{split: facts["images"] for split, facts in found["splits"].items()}}]
        parts.append(table([*rows, *_class_rows(found["classes"])], width=width))
    if found["masks"]:
        parts.append(table(mask_rows(found["masks"]), width=width))
    if not found["findings"]:
        return "\n\n".join([*parts, "Nothing was found to be wrong."])
    rows = [{"severity": r["severity"], "count": r["count"], "finding": _sentence(r)} for r in found["findings"]]
    return "\n\n".join([*parts, table(rows, width=width)])


def failed(found: Mapping[str, Any], strict: bool) -> str | None:
    """Why the command ends with an error: what `make` would stumble over, and with `strict` also the warnings."""
    bad = Counter(row["severity"] for row in found["findings"])
    told = [f"{bad[s]} {s}{'s' if bad[s] > 1 else ''}" for s in ("error", "warning") if bad[s]]
    return f"{' and '.join(told)} in {shown(found['name'])}" if bad["error"] or (strict and bad["warning"]) else None


def _sample(looked: Mapping[str, Looked], images: int, pixels: int) -> dict[str, list[int]]:
    """The indices of each split to decode: all, or those of the lowest hash until images or pixels are used up."""
    count = sum(len(look.fractions) for look in looked.values())
    area = np.concatenate([look.shapes.prod(1) for look in looked.values()])
    # The splits are ranges of the hash itself; its lower bits are as random and do not favour one of them.
    draw = np.concatenate([(look.fractions * 2**20) % 1 for look in looked.values()])
    order = np.argsort(draw, kind="stable")
    taken = np.zeros(count, bool)
    taken[order[:images]] = np.cumsum(area[order[:images]]) <= pixels
    chosen, used = {}, 0
    for split, look in looked.items():
        part = np.flatnonzero(taken[used : used + len(look.fractions)]).tolist()
        chosen[split] = [i for i in part if i not in look.problems]
        used += len(look.fractions)
    return chosen


def _split(look: Looked) -> dict[str, Any]:
    labelled = {"classes": len(look.source.classes)} if look.source.classes else {}
    return {"images": len(look.fractions), **labelled, "unreadable": len(look.problems), "bytes": look.size}


def _class_rows(classes: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    rows = sorted(({"class": shown(name), **counts} for name, counts in classes.items()),
                  key=lambda row: -sum(v for v in row.values() if isinstance(v, int)))  # fmt: skip
    if len(rows) <= CLASSES:
        return rows
    half = CLASSES // 2
    return [*rows[:half], {"class": f"... {len(rows) - 2 * half} more"}, *rows[-half:]]


def _sentence(row: Mapping[str, Any]) -> str:
    examples = f": {'; '.join(row['examples'])}" if row["examples"] else ""
    return f"{row['what']}{examples}. {row['remedy']}"
