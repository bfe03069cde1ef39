"""Scenes made of the embedded digits, still or moving, with everything that can be known about them."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.contracts import seed_from
from ..core.errors import MarrowError, near
from ..core.footage import Footage
from ..core.source import Source
from .hashing import RANGES, fraction
from .scene_canvas import cropped, painted, textured
from .scene_layout import Layout, draw_layout
from .scene_objects import Rules
from .scene_text import WORDS, moving_caption, name, naming_one, queries, still_caption

STILL_FIELDS = ("boxes", "labels", "masks", "mask", "colours", "sides", "names", "caption", "texts", "targets")
CLIP_FIELDS = (*STILL_FIELDS, "visible", "tracks", "motions", "flow", "flow_valid")
ATTEMPTS = 20  # at a scene, with ever smaller digits
TEXTS = 4
LARGEST, MOST, LONGEST = 2048, 100, 1000
SMALLEST = 8  # pixels: what is kept of a real digit


class DigitScenes(Source):
    """Real digits, each in a colour, on a textured canvas; scene i is a function of the arguments and i alone.

    split: train, val or test, which are made of different real digits. count: of scenes. size: height and width of the
    canvas. objects, side: the fewest and most digits of a scene, the smallest and largest square that one is drawn in.
    digits: which occur. hidden: the largest share of a digit that others may cover, in any frame. frames: 1 for
    pictures, more for clips. speed: the slowest and fastest of those that move, in pixels a frame. whole_pixels: digits
    move by whole pixels. leave: they go out of the canvas and come back. unique: each text names exactly one digit.
    fields: what comes with `image`, everything by default. backgrounds: pictures to cut the canvas from.

    A picture `image` (3, H, W) uint8 with N digits, from the back to the front, has `boxes` (N, 4) float, xyxy pixels,
    tight around what is seen; `labels`, `colours`, `sides` (N,) int64; `masks` (N, H, W) bool, of what is seen; `mask`
    (H, W) int64, 0 behind the digits, else 1 + the digit; `names` of the digits and a `caption` of all; `texts`, up to
    four, and `targets` (texts, N) bool, which digits each names.

    A clip `image` (T, 3, H, W) has `boxes` (N, T, 4), zero where a digit is not seen; `masks` (N, T, H, W), `mask`
    (T, H, W), and `visible` (N, T) bool; `tracks` (N,) int64, from 1; `motions` (N,) int64, see `MOTIONS`; `flow`
    (T - 1, 2, H, W) float, how far each pixel moves to the right and down before the next frame; `flow_valid`
    (T - 1, H, W) bool, whether what it shows is still seen there.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        count: int = 1000,
        size: tuple[int, int] = (64, 64),
        objects: tuple[int, int] = (1, 6),
        side: tuple[int, int] = (12, 28),
        digits: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        hidden: float = 0.25,
        frames: int = 1,
        speed: tuple[int, int] = (1, 3),
        whole_pixels: bool = True,
        leave: bool = False,
        unique: bool = False,
        fields: tuple[str, ...] | None = None,
        seed: int = 0,
        backgrounds: Source | None = None,
    ):
        known = CLIP_FIELDS if frames > 1 else STILL_FIELDS
        self.split, self.count, self.unique, self.seed, self.backgrounds = split, count, unique, seed, backgrounds
        self.fields = known if fields is None else tuple(fields)
        self.digits = tuple(digits)
        size, objects, side, speed = ((low, high) for low, high in (size, objects, side, speed))  # a recipe has lists
        self.rules = Rules(size, objects, side, speed, hidden, frames, whole_pixels, leave)
        if problem := _problem(self, known):
            what, said = problem
            raise MarrowError(said, where=f"digit_scenes.{what}")
        if "mask" in self.fields and frames == 1:
            self.mask_classes = ["background", *WORDS]
        self._real, self._pool = real_digits(split, self.digits)
        self._drawn_from = repr((split, seed, self.rules, self.digits, unique, self.fields))
        if backgrounds is not None:
            self._drawn_from += backgrounds.fingerprint()
        fullest = dataclasses.replace(self.rules, objects=(self.rules.objects[1],) * 2)
        self._layout(random.Random(seed), fullest)  # a canvas that is too small is refused now

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        layout, rng = self._scene(index)
        frames = painted(self._behind(rng), layout)
        return {"image": frames if self.rules.frames > 1 else frames[0], **self._about(layout, rng)}

    def undecoded(self, index: int) -> dict:
        if self.rules.frames == 1:
            return self[index]
        example = self[index]
        return {**example, "image": Footage(self.rules.frames, lambda numbers: example["image"][list(numbers)])}

    def fraction(self, index: int) -> float:
        return fraction(f"{self._drawn_from} {index}".encode())

    def name(self, index: int) -> str:
        return f"digit_scenes/{self.split}/{index}"

    def stored_mask(self, index: int) -> bytes | None:
        from torchvision.io import encode_png

        if self.mask_classes is None:
            return None
        ids = _class_ids(self._scene(index)[0])
        return encode_png(torch.from_numpy(ids.astype(np.uint8))).numpy().tobytes()

    def _scene(self, index: int) -> tuple[Layout, random.Random]:
        """The layout, and the generator from which the rest of the scene is drawn."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = random.Random(seed_from("digit_scenes", self.seed, self.split, index))
        return self._layout(rng, self.rules), rng

    def _layout(self, rng: random.Random, rules: Rules) -> Layout:
        for attempt in range(ATTEMPTS):
            layout = draw_layout(rng, rules, self._real, self._pool, attempt / (ATTEMPTS - 1))
            if layout is not None and (not self.unique or naming_one(layout.things, rules.frames > 1)):
                return layout
        if layout is not None:
            raise MarrowError("in scenes of so many digits no text names exactly one", where="digit_scenes.unique",
                              hint="Give fewer objects.")  # fmt: skip
        most, smallest = rules.objects[1], rules.side[0]
        raise MarrowError(f"{most} digits of {smallest} pixels find no place on {rules.size[0]} x {rules.size[1]} with at "
                          f"most {rules.hidden:g} of each hidden", where="digit_scenes.objects",
                          hint="Give a larger size, fewer objects, a smaller side or a larger hidden.")  # fmt: skip

    def _behind(self, rng: random.Random) -> Tensor:
        if self.backgrounds is None:
            return textured(rng, self.rules.size)
        return cropped(rng, self.backgrounds, self.rules.size)

    def _about(self, layout: Layout, rng: random.Random) -> dict:
        """The fields that were asked for."""
        moving, things = self.rules.frames > 1, layout.things
        asked = queries(rng, things, moving, self.unique, TEXTS)
        targets = [query.meant(things) for query in asked]
        masks = torch.from_numpy(layout.owner == np.arange(len(things))[:, None, None, None])  # (N, T, H, W)
        boxes = tight_boxes(masks)
        known: dict[str, Any] = {
            "boxes": boxes,
            "labels": torch.tensor([thing.digit for thing in things]),
            "masks": masks,
            "mask": torch.from_numpy(_class_ids(layout)),
            "colours": torch.tensor([thing.colour for thing in things]),
            "sides": torch.tensor([thing.side for thing in things]),
            "names": [name(thing) for thing in things],
            "texts": [query.phrase(sum(meant) > 1) for query, meant in zip(asked, targets)],
            "targets": torch.tensor(targets),
        }
        if moving:
            known["caption"] = moving_caption(things)
            known["visible"] = masks.any((-1, -2))
            known["tracks"] = torch.arange(1, len(things) + 1)
            known["motions"] = torch.tensor([thing.motion for thing in things])
            known["flow"], known["flow_valid"] = _flow(layout)
        else:
            known.update(boxes=boxes[:, 0], masks=masks[:, 0], mask=known["mask"][0])
            known["caption"] = still_caption(things, (boxes[:, 0, 1] + boxes[:, 0, 3]).tolist())
        return {field: known[field] for field in self.fields}


def tight_boxes(masks: Tensor) -> Tensor:
    """(..., H, W) bool -> (..., 4) float, xyxy with the far edges exclusive; zeros for an empty mask."""
    edges = []
    for lines in (masks.any(-2), masks.any(-1)):  # columns, then rows
        first = lines.int().argmax(-1)
        last = lines.shape[-1] - lines.flip(-1).int().argmax(-1)
        edges.append(torch.stack([first, last], -1) * lines.any(-1, keepdim=True))
    (left, right), (top, bottom) = (edge.unbind(-1) for edge in edges)
    return torch.stack([left, top, right, bottom], -1).float()


def _class_ids(layout: Layout) -> np.ndarray:
    """(T, H, W) int64"""
    ids = np.array([*(1 + thing.digit for thing in layout.things), 0])  # nobody is the last
    return ids[layout.owner]


def _flow(layout: Layout) -> tuple[Tensor, Tensor]:
    """(T - 1, 2, H, W) right and down, and (T - 1, H, W) whether the pixel nearest to its end shows the same."""
    places = np.array([*(thing.path for thing in layout.things), [(0.0, 0.0)] * len(layout.owner)])  # (N + 1, T, 2)
    steps = np.diff(places, axis=1)
    times, height, width = len(layout.owner) - 1, *layout.owner.shape[1:]
    t, rows, columns = np.mgrid[:times, :height, :width]
    moved = steps[layout.owner[:-1], t]  # (T - 1, H, W, 2) down and right
    ends = np.floor(np.stack([rows, columns], -1) + moved + 0.5).astype(np.int64)
    inside = (ends >= 0).all(-1) & (ends < (height, width)).all(-1)
    y, x = (ends[..., 0].clip(0, height - 1), ends[..., 1].clip(0, width - 1))
    valid = inside & (layout.owner[t + 1, y, x] == layout.owner[:-1])
    return torch.from_numpy(moved[..., ::-1].copy()).float().permute(0, 3, 1, 2).contiguous(), torch.from_numpy(valid)


def real_digits(split: str, digits: tuple[int, ...]) -> tuple[Tensor, list[tuple[int, int]]]:
    """All real digits (N, 8, 8) in 0..1, and number and digit of those of a split, which no other has."""
    from sklearn.datasets import load_digits

    stored = load_digits()
    low, high = RANGES[split]
    contents = [image.astype(np.uint8).tobytes() for image in stored.images]
    pool = [
        (i, int(digit))
        for i, digit in enumerate(stored.target)
        if low <= fraction(contents[i]) < high and digit in digits
    ]
    return torch.from_numpy(stored.images).float() / 16, pool


def _problem(scenes: DigitScenes, known: tuple[str, ...]) -> tuple[str, str] | None:
    """The first argument that does not fit, and what is said about it."""
    rules = scenes.rules
    moving = rules.frames > 1
    lost = [field for field in scenes.fields if field not in known]
    checks = [
        ("split", scenes.split in RANGES, f"unknown split '{scenes.split}'; known: train, val, test"),
        ("count", scenes.count >= 1, f"at least 1 scene is needed, got {scenes.count}"),
        ("frames", 1 <= rules.frames <= LONGEST, f"a clip has 1 to {LONGEST} frames, got {rules.frames}"),
        ("size", max(rules.size) <= LARGEST, f"a canvas has at most {LARGEST} pixels a side, got {list(rules.size)}"),
        ("objects", 1 <= rules.objects[0] <= rules.objects[1] <= MOST,
         f"{list(rules.objects)} are not a fewest of at least 1 and a most of up to {MOST} digits"),
        ("side", SMALLEST <= rules.side[0] <= rules.side[1],
         f"{list(rules.side)} are not a smallest of at least {SMALLEST} pixels and a largest"),
        ("side", rules.side[1] <= min(rules.size),
         f"digits of {rules.side[1]} pixels are larger than the canvas, {rules.size[0]} x {rules.size[1]}"),
        ("digits", scenes.digits and set(scenes.digits) <= set(range(10)), f"{list(scenes.digits)} are not digits from 0 to 9"),
        ("hidden", 0 <= rules.hidden <= 1, f"{rules.hidden} is outside 0..1"),
        ("speed", 1 <= rules.speed[0] <= rules.speed[1] <= min(rules.size),
         f"{list(rules.speed)} are not a slowest of at least 1 pixel a frame and a fastest below the canvas"),
        ("leave", moving or not rules.leave, "a still scene has no digits that leave; give frames of 2 or more"),
        ("whole_pixels", moving or rules.whole_pixels, "nothing moves in a still scene; give frames of 2 or more"),
        ("fields", not lost, f"there is no field '{(lost or [''])[0]}' of {'clips' if moving else 'pictures'}"
                             f"{near((lost or [''])[0], known)}"),
    ]  # fmt: skip
    return next(((what, said) for what, fits, said in checks if not fits), None)
