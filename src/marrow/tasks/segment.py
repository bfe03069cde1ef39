"""A class for each pixel of an image."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Input, Task
from ..core.errors import MarrowError
from ..core.source import VOID
from ..core.wrappers import taps
from ..data.masks import misfit
from ..nn.conv_norm import conv_norm
from ..nn.deeplab import DeepLab
from ..nn.dice import dice as dice_loss
from ..nn.pyramid import inner_map, pyramid
from ..nn.semantic_fpn import SemanticFPN
from ..nn.windows import joined, places, windows

DECODERS = {"fpn": SemanticFPN, "deeplab": DeepLab}


class Segment(Task):
    """Semantic segmentation by a decoder on a backbone's maps, trained by cross-entropy.

    decoder: semantic FPN or DeepLabV3+, `width` channels wide. dice: weight of a soft Dice loss beside it. assistant: the
    name of an inner module of the backbone whose map a small convolutional head reads while it is trained, or the names of
    as many modules as the decoder reads maps, finest first, which the decoder itself reads then (as CBNetV2 supervises its
    assistants); with `assistant_weight` on the loss. What is exported is the same with and without it.
    picture: the size of the pictures, where it is larger than the backbone's input: they are read through windows of
    that size, which overlap by the share `overlap` of a side at least, and the logits are averaged. Pictures of the
    backbone's own size go through whole, so training may use cuts of it.

    Every image counts as much as any other, with the mean over those of its pixels that are not `VOID`.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "mask": "(B, H, W) int64 class ids, -1 = void"}
    gives = frozenset({"logit_maps"})
    at_once = 8

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: int,
        decoder: Literal["fpn", "deeplab"] = "fpn",
        width: int = 128,
        dice: float = 0.0,
        assistant: str | tuple[str, ...] | None = None,
        assistant_weight: float = 0.4,
        picture: tuple[int, int] | None = None,
        overlap: float = 0.25,
    ):
        super().__init__()
        if classes < 2:
            raise MarrowError(f"{classes} classes cannot be told apart; 2 or more are needed", where="segment.classes")
        if decoder not in DECODERS:
            raise MarrowError(f"unknown decoder '{decoder}'; known: {', '.join(DECODERS)}", where="segment.decoder")
        if not 0.0 <= overlap < 1.0:
            raise MarrowError(f"{overlap} is outside 0..1", where="segment.overlap")
        own = backbone.input.size
        if picture is not None and any(whole < part for whole, part in zip(picture, own)):
            raise MarrowError(f"pictures of {picture[0]} x {picture[1]} (height x width) do not hold a window of the "
                              f"backbone's input, {own[0]} x {own[1]}", where="segment.picture")  # fmt: skip
        self.backbone, self.classes, self.decoder, self.width = backbone, classes, decoder, width
        self.taught_inside = (assistant,) if isinstance(assistant, str) else tuple(assistant or ())
        self.assistant = assistant if isinstance(assistant, str) else self.taught_inside or None
        self.dice, self.assistant_weight = dice, assistant_weight
        self.picture, self.overlap = None if picture is None else (picture[0], picture[1]), overlap
        levels = pyramid(backbone, "segment.backbone")
        self.stages = [level.stage for level in levels]
        shape = [level.channels for level in levels], [level.stride for level in levels]
        self.head: nn.Module = DECODERS[decoder](*shape, classes, width)
        inner = [inner_map(backbone, name, "segment.assistant") for name in self.taught_inside]
        self.channels_last = [last for _, last in inner]
        channels = [count for count, _ in inner]
        if isinstance(assistant, str):
            self.assistant_head = nn.Sequential(conv_norm(channels[0], width), nn.Conv2d(width, classes, 1))
        elif inner and channels != shape[0]:
            raise MarrowError(f"the decoder reads maps of {', '.join(map(str, shape[0]))} channels, these modules make "
                              f"{', '.join(map(str, channels))}", where="segment.assistant")  # fmt: skip

    @property
    def input(self) -> Input:
        """The whole picture: nothing is cut off, since every pixel has an answer."""
        own = self.backbone.input
        return dataclasses.replace(own, size=self.picture or own.size, resize="squash", crop_pct=1.0)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"logit_maps": (B, classes, H, W)}, in training also "assistant" of this shape if there is one."""
        image, window = batch["image"], self.backbone.input.size
        size = (image.shape[-2], image.shape[-1])
        if size == window or size != self.picture:
            return self._read(image)
        corners = places(size, window, self.overlap)
        return {k: joined(v, size, corners) for k, v in self._read(windows(image, window, corners)).items()}

    def _read(self, image: Tensor) -> dict[str, Tensor]:
        names = self.taught_inside if self.training else ()
        with taps(self.backbone, *names) as inner:
            maps = self.backbone(image, maps=self.stages).maps
        out: dict[str, Tensor] = {"logit_maps": self.head(maps)}
        if lost := [name for name in names if name not in inner]:
            # Checkpointing of gradients may call what is inside of it instead.
            raise MarrowError(f"'{lost[0]}' is not called in training", where="segment.assistant")
        if names:
            found = [inner[n].permute(0, 3, 1, 2) if last else inner[n] for n, last in zip(names, self.channels_last)]
            out["assistant"] = self.assistant_head(*found) if isinstance(self.assistant, str) else self.head(found)
        return {k: F.interpolate(v, image.shape[-2:], mode="bilinear") for k, v in out.items()}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        logits = out["logit_maps"].float()
        mask = _mask(batch, logits)
        losses = {"cross_entropy": _cross_entropy(logits, mask)}
        if self.dice:
            losses["dice"] = self.dice * dice_loss(logits, mask, VOID).mean()
        if "assistant" in out:
            losses["assistant"] = self.assistant_weight * _cross_entropy(out["assistant"].float(), mask)
        return losses

    # Neither decode nor metric needs the network, so that an exported file is judged by the same code.
    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"mask": (B, H, W) the most probable class of each pixel, "probability": (B, classes, H, W)}"""
        probability = out["logit_maps"].float().softmax(1)
        return {"mask": probability.argmax(1), "probability": probability}

    @staticmethod
    def metric() -> SegmentMetric:
        return SegmentMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (logit_maps,)"""
        return _ImageToLogitMaps(self)


class SegmentMetric:
    """Rows miou, pixel_accuracy and, a row a class, iou, over all known pixels of all images together; n counts images.

    miou is the mean over the classes that occur in masks or answers; the others have no value.
    """

    def __init__(self) -> None:
        self.jaccard: Any = None
        self.n = 0

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        from torchmetrics.classification import MulticlassJaccardIndex

        mask, predicted = _mask(batch, decoded["probability"]), decoded["mask"]
        if self.jaccard is None:
            classes = decoded["probability"].shape[1]
            self.jaccard = MulticlassJaccardIndex(classes, average="none", ignore_index=VOID, validate_args=False)
            self.jaccard.to(predicted.device)
        self.jaccard.update(predicted, mask.to(predicted.device))
        self.n += len(mask)

    def compute(self) -> list[dict]:
        if self.jaccard is None or not int(self.jaccard.confmat.sum()):
            raise MarrowError("there is no pixel with a known class to measure on", where="segment")
        iou, pairs = self.jaccard.compute().double(), self.jaccard.confmat
        occurs = pairs.sum(0) + pairs.sum(1) > 0
        rows = [
            {"metric": "miou", "value": float(iou[occurs].mean()), "n": self.n},
            {"metric": "pixel_accuracy", "value": float(pairs.diag().sum() / pairs.sum()), "n": self.n},
        ]
        for i, (value, there) in enumerate(zip(iou.tolist(), occurs.tolist())):
            known = {"value": value} if there else {"value": None, "reason": "the class does not occur"}
            rows.append({"metric": "iou", "class": i, **known, "n": self.n})
        return rows


class _ImageToLogitMaps(nn.Module):
    def __init__(self, task: Segment):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.task({"image": image})["logit_maps"],)


def _cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    each = F.cross_entropy(logits, mask, ignore_index=VOID, reduction="none").sum((1, 2))
    return (each / (mask != VOID).sum((1, 2)).clamp(min=1)).mean()


def _mask(batch: Mapping[str, Any], maps: Tensor) -> Tensor:
    """The masks of a batch, when they fit answers (B, classes, H, W)."""
    if "mask" not in batch:
        raise MarrowError("the batch has no 'mask'; segment learns and measures with masks", where="segment",
                          hint="Give 'masks: FOLDER', or parquet files with a column 'mask'.")  # fmt: skip
    mask, (count, classes, *size) = batch["mask"], maps.shape
    if not isinstance(mask, Tensor) or tuple(mask.shape) != (count, *size):
        given = tuple(mask.shape) if isinstance(mask, Tensor) else "of unequal sizes"
        raise MarrowError(f"the masks are {given}, the images {(count, *size)}", where="mask")
    # On an accelerator the loss itself would end the process without a word.
    smallest, largest = (int(v) for v in torch.aminmax(mask))
    if largest >= classes or smallest < VOID:
        raise misfit(largest if largest >= classes else smallest, classes, "mask")
    return mask
