"""What our nets share towards timm: a classifier over pooled maps, the choice of stages, and their configurations."""

from __future__ import annotations

from typing import Any, Sequence

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import MarrowError


class MapNet(nn.Module):
    """A net that ends in maps (B, C, H, W), and a linear classifier of what they pool to.

    A subclass sets `feature_info`, `num_features` and `drop_rate`, calls `reset_classifier`, and names the classifier as
    its published weights do. Its stages are the modules that `feature_info` names, run one after the other behind
    `before_stages` with nothing between them; a net of another course has a `forward_intermediates` of its own.
    """

    classifier_name = "head"
    grad_checkpointing = False
    feature_info: list[dict[str, Any]]

    def no_weight_decay(self) -> set[str]:
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        setattr(self, self.classifier_name, head)

    def through(self, stage: nn.Module, x: Tensor) -> Tensor:
        """The output of a stage of blocks."""
        return checkpoint_seq(stage, x) if self.grad_checkpointing and self.training else stage(x)

    def before_stages(self, x: Tensor) -> Tensor:
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x, indices=())[0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the stages asked for, after the last map unless `intermediates_only`.

        There is no norm behind the stages, so `norm` changes nothing; maps are always NCHW.
        """
        stages = [self.get_submodule(info["module"]) for info in self.feature_info]
        taken, last = stages_asked_for(self, indices, len(stages), output_fmt)
        maps, x = [], self.before_stages(x)
        for i, stage in enumerate(stages[: last + 1] if stop_early else stages):
            x = self.through(stage, x)
            if i in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Empty the stages behind the last one asked for, and what reads them."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        for info in self.feature_info[last + 1 :]:
            setattr(self, info["module"], nn.Sequential())
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or last < len(self.feature_info) - 1:
            self.reset_classifier(0, "")
        return taken

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = F.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def stages_asked_for(
    net: nn.Module, indices: int | Sequence[int] | None, count: int, output_fmt: str
) -> tuple[list[int], int]:
    """The stages whose maps `forward_intermediates` gives, of `count`, and the last that must run; () is none of them."""
    if output_fmt != "NCHW":
        raise MarrowError(f"{type(net).__name__} gives NCHW maps, not {output_fmt}",
                          where="forward_intermediates.output_fmt")  # fmt: skip
    return ([], count - 1) if indices == () else feature_take_indices(count, indices)


def untrained(**own: Any) -> dict[str, Any]:
    """The configuration of a net for ImageNet whose weights are not on a hub, with what is its own."""
    usual = dict(
        url="", num_classes=1000, input_size=(3, 224, 224), pool_size=(7, 7), crop_pct=0.875, interpolation="bicubic",
        mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD,
    )  # fmt: skip
    return usual | own
