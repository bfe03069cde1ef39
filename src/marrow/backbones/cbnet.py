"""Composite backbones as in Liang et al., "CBNet: A Composite Backbone Network Architecture for Object Detection" (CBNetV2),
IEEE TIP 2022, sec. III.

K equal nets see one image. The last is the lead, whose features count; the others assist: what net k - 1 found at its stages
is added to the inputs of the stages of net k, x_k^l = F_k^l(x_k^(l-1) + g^(l-1)(x_(k-1))) (sec. III-B).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any, Sequence

import timm
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    model_entrypoint,
    register_model,
)
from timm.models._features import feature_take_indices
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from ..core.errors import MarrowError, near
from .cbnet_feeds import STYLES, Feed, sources
from .cbnet_weights import checkpoint_filter_fn
from .cifar_resnet import CifarResNet
from .map_net import MapNet, stages_asked_for

__all__ = ["CBNet"]


class Member(nn.Module):
    """One net, taken apart where connections come in: stem, then for every stage the way into it, its blocks, its norm.

    A ResNet has max pooling before its first stage; a Swin merges patches before all but the first, keeps its tensors
    (B, H, W, C), and gets a layer norm behind every stage, as dense prediction uses it, where timm has the last alone.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.channels_last = isinstance(net, SwinTransformer)
        info = list(net.feature_info)
        if isinstance(net, SwinTransformer):
            self.stem: nn.Module = net.patch_embed
            enters = [layer.downsample for layer in net.layers]
            stages = [layer.blocks for layer in net.layers]
            norms = [nn.LayerNorm(i["num_chs"]) for i in info[:-1]] + [net.norm]
            self.outputs = self.inputs = [i["num_chs"] for i in info]
        elif isinstance(net, (ResNet, CifarResNet)):
            self.stem = nn.Sequential(OrderedDict(conv1=net.conv1, bn1=net.bn1, act1=net.act1))
            stages = [stage for name, stage in net.named_children() if name.startswith("layer")]
            enters = [net.maxpool if isinstance(net, ResNet) else nn.Identity(), *(nn.Identity() for _ in stages[1:])]
            norms = [nn.Identity() for _ in stages]
            self.outputs = [i["num_chs"] for i in info[-len(stages) :]]
            self.inputs = [net.bn1.num_features, *self.outputs[:-1]]
        else:
            raise MarrowError(f"{type(net).__name__} cannot be made composite", where="CBNet.base",
                              hint="ResNets, Res2Nets and Swins can.")  # fmt: skip
        self.enters, self.stages, self.norms = (nn.ModuleList(part) for part in (enters, stages, norms))

    def share(self, count: int) -> None:
        """Give up the stem, the first `count` stages and the way into the next: they are taken from the assistant."""
        self.stem = nn.Identity()
        for i in range(count):
            self.stages[i] = nn.Identity()
        for i in range(count + 1):
            self.enters[i] = nn.Identity()

    def shown(self, x: Tensor, stage: int) -> Tensor:
        """The output of a stage as heads and other nets see it: normalised, (B, C, H, W)."""
        x = self.norms[stage](x)
        return x.permute(0, 3, 1, 2) if self.channels_last else x


class CBNet(MapNet):
    """`count` nets of one kind in a row; images (B, 3, H, W) of the sizes that the kind takes.

    base: a name of timm's, or the nets themselves, equally built. style: see `sources`. share_stages: how many first
    stages all nets take from the first one, s_(4 - share_stages) of the pruning in sec. III-E; the stem is always shared.
    gated: a factor that starts at 0 on the connections that are identities, so that a Swin composite, too, starts as its
    single net; the released one does not.

    From one pre-trained net, `checkpoint_filter_fn` fills all. A composite of convolutional nets then says exactly what
    that net says. `forward_all` gives the assistants' maps to heads that supervise them (sec. III-D); `taps` find them as the
    outputs of `members.0.norms.3`, identities in convolutional nets.

    Deviation: timm's Swin shifts its windows before it pads, the released one after, so their outputs differ where a map
    is no multiple of the window.
    """

    tiny = {"base": "test_resnet", "num_classes": 10}
    classifier_name = "fc"

    def __init__(
        self,
        base: str | Sequence[nn.Module] = "resnet50",
        count: int = 2,
        style: str = "dhlc",
        share_stages: int = 1,
        gated: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
    ):
        super().__init__()
        if style not in STYLES:
            raise MarrowError(f"unknown composite style '{style}'{near(style, STYLES)}", where="CBNet.style")
        if count < 1 or not base:
            raise MarrowError("a composite has at least one net", where="CBNet.count")
        nets = [_single(base, in_chans, drop_path_rate) for _ in range(count)] if isinstance(base, str) else list(base)
        for k, net in enumerate(nets[1:], 1):
            if _shapes(net) != _shapes(nets[0]):
                told = " and ".join(f"{type(n).__name__} with {len(_shapes(n))} tensors" for n in (nets[0], net))
                raise MarrowError(f"the nets of a composite are equally built, nets 0 and {k} are not: {told}",
                                  where="CBNet.base")  # fmt: skip
        self.members = nn.ModuleList(Member(net) for net in nets)
        first = self.members[0]
        stages = len(first.stages)
        if not 0 <= share_stages < stages:
            raise MarrowError(f"{share_stages} of {stages} stages cannot be shared, the lead keeps one at least",
                              where="CBNet.share_stages")  # fmt: skip
        self.share_stages, self.num_classes, self.in_chans, self.drop_rate = (
            share_stages,
            num_classes,
            in_chans,
            drop_rate,
        )
        for member in self.members[1:]:
            member.share(share_stages)
        self.feeds = nn.ModuleList()  # [net - 1][stage]
        for _ in nets[1:]:
            into = [sources(style, i, stages) if i >= share_stages else [] for i in range(stages)]
            self.feeds.append(
                nn.ModuleList(
                    Feed({j: first.outputs[j] for j in found}, first.inputs[i], first.channels_last, gated)
                    for i, found in enumerate(into)
                )
            )
        info, lead = list(nets[0].feature_info), len(nets) - 1
        self.stem_maps = len(info) - stages  # 1 where the net counts the output of its stem among its maps
        places = ["members.0.stem"] * self.stem_maps
        places += [f"members.{0 if i < share_stages else lead}.stages.{i}" for i in range(stages)]
        self.feature_info = [{**i, "module": place} for i, place in zip(info, places)]
        self.num_features = first.outputs[-1]
        self.reset_classifier(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        blocks: list[tuple[str, Any]] = [
            (r"^members\.\d+\.(?:enters|norms)\.(\d+)", (0,)),
            (r"^feeds\.\d+\.(\d+)", (0,)),
        ]
        blocks += [(r"^members\.\d+\.stages\.(\d+)\.(\d+)", None)]
        stage = r"^(?:members\.\d+\.(?:enters|stages|norms)|feeds\.\d+)\.(\d+)"
        return dict(stem=r"^members\.\d+\.stem", blocks=stage if coarse else blocks)

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}

    def forward_all(self, x: Tensor) -> list[list[Tensor]]:
        """The maps of every net, finest first, (B, C, H, W) as in `feature_info`: assistants in their order, the lead last."""
        stem = self.members[0].stem(x)
        inputs: list[Tensor] = []  # of the stages of the net before, its outputs, and what others see of them
        outputs: list[Tensor] = []
        maps: list[Tensor] = []
        found = []
        for k, member in enumerate(self.members):
            entered: list[Tensor] = []
            left: list[Tensor] = []
            for i, stage in enumerate(member.stages):
                shared = k > 0 and i <= self.share_stages
                x = inputs[i] if shared else member.enters[i](left[-1] if left else stem)
                entered.append(x)
                if shared and i < self.share_stages:
                    left.append(outputs[i])
                    continue
                if k > 0 and len(self.feeds[k - 1][i]):
                    x = x + self._feed(k, i, maps, x)
                left.append(self.through(stage, x))
            inputs, outputs, maps = entered, left, [member.shown(y, i) for i, y in enumerate(left)]
            found.append([stem] * self.stem_maps + maps)
        return found

    def _feed(self, k: int, stage: int, maps: list[Tensor], x: Tensor) -> Tensor:
        """What net k - 1 adds to the input x of a stage of net k, laid out as x."""
        if not self.members[k].channels_last:
            return self.feeds[k - 1][stage](maps, x.shape[-2:])
        return self.feeds[k - 1][stage](maps, x.shape[1:3]).permute(0, 2, 3, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.forward_all(x)[-1][-1]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The lead's maps of the stages asked for, after the last map unless `intermediates_only`.

        Maps always come behind the norms of their stages, so `norm` changes nothing. `stop_early` saves nothing either: the
        lead's first stages wait for the assistant's last.
        """
        count = self.stem_maps + len(self.members[-1].stages)
        taken, _ = stages_asked_for(self, indices, count, output_fmt)
        lead = self.forward_all(x)[-1]
        maps = [lead[i] for i in taken]
        return maps if intermediates_only else (lead[-1], maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the lead's stages behind the last one asked for, and the classifier with them; assistants stay whole."""
        lead = self.members[-1]
        count = self.stem_maps + len(lead.stages)
        taken, last = feature_take_indices(count, indices)
        left = max(last + 1 - self.stem_maps, 0)
        lead.enters, lead.stages, lead.norms = lead.enters[:left], lead.stages[:left], lead.norms[:left]
        if len(self.feeds):
            self.feeds[-1] = self.feeds[-1][:left]
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or last < count - 1:
            self.reset_classifier(0, "")
        return taken


def _single(name: str, in_chans: int, drop_path_rate: float | None) -> nn.Module:
    """One net of the composite. A Swin is built for every size: with full windows that are shifted also on small maps."""
    if not timm.is_model(name):
        raise MarrowError(f"unknown backbone '{name}'{near(name, timm.list_models())}", where="CBNet.base")
    args: dict[str, Any] = {} if drop_path_rate is None else {"drop_path_rate": drop_path_rate}
    swin = model_entrypoint(name).__module__ == SwinTransformer.__module__
    net = timm.create_model(name, num_classes=0, in_chans=in_chans, **args,
                            **dict(always_partition=True, strict_img_size=False) if swin else {})  # fmt: skip
    if swin:
        net.patch_embed.dynamic_img_pad = True
    return net


def _shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def _cfg(base: str, stem: str) -> Any:
    # `pretrained` loads the single net's weights, which `checkpoint_filter_fn` gives to every member.
    return replace(
        get_pretrained_cfg(base), first_conv=f"members.0.stem.{stem}", classifier="fc", fixed_input_size=False
    )


BASES = {  # with the name of its first layer, and how many maps it has
    "resnet50": ("conv1", 5),
    "res2net101_26w_4s": ("conv1", 5),
    "swin_tiny_patch4_window7_224": ("proj", 4),
}
default_cfgs = generate_default_cfgs(
    {f"cb_{base}.{get_pretrained_cfg(base).tag}": _cfg(base, stem) for base, (stem, _) in BASES.items()}
)


def _create(single: str, pretrained: bool, **kwargs: Any) -> CBNet:
    return build_model_with_cfg(
        CBNet,
        f"cb_{single}",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=tuple(range(BASES[single][1])), feature_cls="getter"),
        **{"base": single, **kwargs},
    )


@register_model
def cb_resnet50(pretrained: bool = False, **kwargs: Any) -> CBNet:
    """Two ResNet-50 of which the lead shares stem and first stage: 51.4 M parameters without classifier."""
    return _create("resnet50", pretrained, **kwargs)


@register_model
def cb_res2net101_26w_4s(pretrained: bool = False, **kwargs: Any) -> CBNet:
    """Two Res2Net-101 of which the lead shares stem and first stage."""
    return _create("res2net101_26w_4s", pretrained, **kwargs)


@register_model
def cb_swin_tiny_patch4_window7_224(pretrained: bool = False, **kwargs: Any) -> CBNet:
    """Two Swin-T that share the patch embedding."""
    return _create("swin_tiny_patch4_window7_224", pretrained, **{"share_stages": 0, **kwargs})
