"""A page that shows what a model makes of pictures with masks: picture, truth and answer side by side, the worst first."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.artifact import Artifact
from ..core.collate import collate
from ..core.errors import MarrowError, visible
from ..core.preprocess import plain
from ..core.source import VOID, Source
from . import quantity, report
from .mask_files import colours
from .parity import spread

PICTURES = 12
UNKNOWN = (128, 128, 128)  # of void pixels


def write(artifact: Artifact, source: Source, rows: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """The page of a model that segments. rows: what its metric says on all of `source`, a sample of which is shown."""
    model, name = artifact.load(), artifact.path.resolve().name
    if "mask" not in model.fields or source.stored_mask(0) is None:
        raise MarrowError("a page of masks needs a model that segments and images with masks", where="--page")
    sample = spread(source, PICTURES)
    prepare, shown = plain(model.input), []
    for i in range(len(sample)):
        batch = collate([prepare(sample[i])])
        with torch.inference_mode():
            answer = model.decode(model(batch), batch)
        shown.append((sample.name(i), batch["image"][0], batch["mask"][0], answer["mask"][0]))
        classes = answer["probability"].shape[1]
    palette = np.concatenate([colours(classes), np.array([UNKNOWN], np.uint8)])  # the last for VOID, which is -1
    labels = [visible(label) for label in artifact.meta["labels"] or map(str, range(classes))]
    pictures = sorted((_picture(*one, palette) for one in shown), key=lambda p: p["right"])
    whole, each = rows[:2], rows[2:]
    page = report.page(
        "masks.html",
        title=visible(name),
        whole=[{"what": quantity.title(row["metric"]), "value": f"{100 * row['value']:.1f} %"} for row in whole],
        images=rows[0]["n"],
        classes=[{"name": label, "swatch": _png(np.full((1, 1, 3), colour, np.uint8)),
                  "value": "" if row["value"] is None else f"{100 * row['value']:.1f} %"}
                 for label, colour, row in zip(labels, palette, each, strict=False)],
        unknown=_png(np.full((1, 1, 3), UNKNOWN, np.uint8)),
        pictures=pictures,
    )  # fmt: skip
    return report.save(page, out)


def _picture(name: str, image: Tensor, truth: Tensor, answer: Tensor, palette: np.ndarray) -> dict[str, Any]:
    known = truth != VOID
    right = float((answer == truth)[known].float().mean()) if known.any() else 1.0
    pixels = image if image.dtype == torch.uint8 else (255 * image).round().to(torch.uint8)
    height, width = truth.shape
    return {"name": visible(name), "right": right, "told": f"{100 * right:.1f} % of its known pixels are right",
            "width": width, "height": height,
            "parts": [{"what": what, "source": _png(part)} for what, part in
                      (("picture", pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()), ("truth", palette[truth.numpy()]),
                       ("answer", palette[answer.numpy()]))]}  # fmt: skip


def _png(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data address."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png")
    return "data:image/png;base64," + b64encode(content.getvalue()).decode()
