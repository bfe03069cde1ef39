"""What the files of a transformers checkpoint say, read as plain JSON: the net, its input, its classes.

transformers is not needed for it, so that what a user names is understood before anything is built.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Mapping

from .contracts import Input
from .errors import MarrowError, near

# Image nets that are known to work here -> where their classifier looks: "class" token, or their own "pooler".
# Others may load further nets or code by name, which an artifact must not be able to ask for.
FAMILIES = {
    "vit": "class",
    "deit": "class",
    "vit_msn": "class",
    "beit": "pooler",
    "dinov2": "pooler",
    "dinov2_with_registers": "pooler",
    "dinov3_vit": "pooler",
    "swin": "pooler",
    "swinv2": "pooler",
    "convnext": "pooler",
    "convnextv2": "pooler",
    "resnet": "pooler",
    "regnet": "pooler",
    "mobilenet_v2": "pooler",
    "siglip_vision_model": "pooler",
    "clip_vision_model": "pooler",
}
# Their classifiers see more than `pooled` (the mean of the patches too), so they are no start for a linear head.
WIDER = ("dinov2", "dinov2_with_registers")
# PIL's numbers for its filters.
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PLACEHOLDER = re.compile(r"LABEL_\d+")


def read(file: Path, where: str) -> dict[str, Any]:
    """A JSON file with a mapping."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MarrowError(f"{file} cannot be read as JSON ({error})", where=where) from None
    if not isinstance(values, dict):
        raise MarrowError(f"{file} holds no mapping", where=where)
    return values


def family(config: Mapping[str, Any], where: str) -> str:
    """The checked `model_type`."""
    name = config.get("model_type")
    if name not in FAMILIES:
        raise MarrowError(f"transformers' '{name}' is not among the image nets that work here{near(str(name), FAMILIES)}",
                          where=where, hint=f"Known: {', '.join(FAMILIES)}.")  # fmt: skip
    return str(name)


def classifies(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint has a linear classifier on the pooled features."""
    architectures = config.get("architectures") or [""]
    return str(architectures[0]).endswith("ForImageClassification") and config.get("model_type") not in WIDER


def labels(config: Mapping[str, Any]) -> list[str] | None:
    """The class names of the checkpoint's classifier; None without one, or where they are placeholders."""
    named = config.get("id2label")
    if not classifies(config) or not isinstance(named, Mapping):
        return None
    names = [named.get(str(i), named.get(i)) for i in range(len(named))]
    if len(names) < 2 or any(n is None for n in names) or all(PLACEHOLDER.fullmatch(str(n)) for n in names):
        return None
    return [str(n) for n in names]


def input_of(processor: Mapping[str, Any], where: str) -> Input:
    """The input that an image processor's file describes."""
    own = processor.get("image_processor", processor)  # processor_config.json has it one level down
    if abs(float(own.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3:
        raise MarrowError(f"its pictures are scaled by {own['rescale_factor']}; only 1/255 is supported", where=where)
    normal = own.get("do_normalize", True)
    if normal and not (own.get("image_mean") and own.get("image_std")):
        raise MarrowError("the image processor's file gives no image_mean and image_std", where=where)
    cut = own.get("do_center_crop", False) and own.get("crop_size")
    scaled = own.get("size") or {}
    size = _sides(cut or scaled)
    if size is None:
        raise MarrowError(f"the image processor's size {scaled!r} is not understood", where=where)
    short = _short(scaled)
    if own.get("crop_pct") and short and short >= 384:  # ConvNeXt's processor: from there on it squeezes
        short, own = None, {**own, "crop_pct": 1.0}
    resample = own.get("resample", 2)
    if resample not in FILTERS:
        raise MarrowError(f"the image processor's filter {resample} is not one of {sorted(FILTERS)}", where=where)
    return Input(
        size=size,
        mean=tuple(own["image_mean"]) if normal else (0.0, 0.0, 0.0),
        std=tuple(own["image_std"]) if normal else (1.0, 1.0, 1.0),
        resize="crop" if cut or short else "squash",
        crop_pct=float(own.get("crop_pct") or (min(1.0, min(size) / short) if cut and short else 1.0)),
        interpolation=FILTERS[resample],
    )


def _sides(size: Any) -> tuple[int, int] | None:
    match size:
        case int():
            return size, size
        case {"height": int(h), "width": int(w)}:
            return h, w
        case {"shortest_edge": int(side)}:
            return side, side
    return None


def _short(size: Any) -> int | None:
    """The short side of a picture that keeps its aspect ratio."""
    return size.get("shortest_edge") if isinstance(size, Mapping) else None
