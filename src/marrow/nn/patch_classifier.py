"""A classifier of patches beside that of the picture, for training on mixed pictures; it is dropped afterwards."""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone
from ..core.errors import MarrowError
from .map_channels import map_shape
from .mixed_patches import Mixed, mixed


class PatchClassifier(nn.Module):
    """Token labelling of Liao et al., arXiv 2109.00642: each patch of a mixed picture says its own class.

    backbone: its tokens are the places of its last map; it is not kept here. smoothing: of all labels.
    """

    def __init__(self, backbone: Backbone, classes: int, smoothing: float):
        super().__init__()
        width, *grid = map_shape(backbone)
        self.classes, self.smoothing, self.grid = classes, smoothing, (grid[0], grid[1])
        self.head = nn.Linear(width, classes)

    def mixed(self, batch: Mapping[str, Any], rng: torch.Generator) -> Mixed:
        if "label" not in batch:
            raise MarrowError("the batch has no 'label'; this source is unlabelled", where="mixing")
        return mixed(batch["image"], F.one_hot(batch["label"], self.classes).float(), self.grid, rng)

    def losses(self, logits: Tensor, tokens: Tensor, picture: Mixed) -> dict[str, Tensor]:
        """logits (B, K) of the picture; tokens (B, N, C) of its patches."""
        said, shares = self.head(tokens).float().flatten(0, 1), picture.patch_shares.flatten(0, 1)
        return {
            "image": F.cross_entropy(logits.float(), picture.shares, label_smoothing=self.smoothing),
            "patches": F.cross_entropy(said, shares, label_smoothing=self.smoothing),
        }
