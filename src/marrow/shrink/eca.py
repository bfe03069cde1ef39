"""Channel attention for a net that has none: the gates of ECA-Net at the ends of its residual branches."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from typing import Any, Literal, Mapping, NamedTuple, Sequence

import torch
from timm.layers import DropPath, EcaModule
from torch import Tensor, nn

from ..backbones.ecanet import gate, kernel_size
from ..core.contracts import Backbone, Cut, Edit, Shrinker
from ..core.errors import MarrowError
from ..core.timm_backbone import TimmBackbone


class End(NamedTuple):
    """How a residual branch ends: where a gate goes, and the first of these whose weights scale what comes in there."""

    place: str
    scaled_by: tuple[str, ...]


# By file and class of the block. A place holds nothing, an identity or drop path, or what scales the branch itself.
ENDS = {
    "resnet.BasicBlock": End("se", ("bn2",)),
    "resnet.Bottleneck": End("se", ("bn3",)),
    "res2net.Bottle2neck": End("se", ("bn3",)),
    "resnest.ResNestBottleneck": End("bn3", ("bn3",)),
    "sknet.SelectiveKernelBasic": End("se", ("conv2.bn",)),
    "sknet.SelectiveKernelBottleneck": End("se", ("conv3.bn",)),
    "resnetv2.PreActBasic": End("drop_path", ("conv2",)),
    "resnetv2.PreActBottleneck": End("drop_path", ("conv3",)),
    "regnet.Bottleneck": End("conv3.bn.act", ("conv3.bn",)),
    "regnet.PreBottleneck": End("conv3", ("conv3",)),
    "dla.DlaBasic": End("bn2", ("bn2",)),
    "dla.DlaBottleneck": End("bn3", ("bn3",)),
    "dla.DlaBottle2neck": End("bn3", ("bn3",)),
    "_efficientnet_blocks.DepthwiseSeparableConv": End("bn2.act", ("bn2",)),
    "_efficientnet_blocks.InvertedResidual": End("bn3.act", ("bn3",)),
    "_efficientnet_blocks.EdgeResidual": End("bn2.act", ("bn2",)),
    "_efficientnet_blocks.UniversalInvertedResidual": End("pw_proj.bn.act", ("pw_proj.bn",)),
    "rexnet.LinearBottleneck": End("conv_pwl.bn.act", ("conv_pwl.bn",)),
    "convnext.ConvNeXtBlock": End("drop_path", ("gamma", "mlp.fc2")),
    "inception_next.MetaNeXtBlock": End("drop_path", ("gamma", "mlp.fc2")),
    "byobnet.BasicBlock": End("attn_last", ("conv2_kxk.bn",)),
    "byobnet.BottleneckBlock": End("attn_last", ("conv3_1x1.bn",)),
    "byobnet.DarkBlock": End("attn_last", ("conv2_kxk.bn",)),
    "byobnet.EdgeBlock": End("attn_last", ("conv2_1x1.bn",)),
    "cspnet.BottleneckBlock": End("drop_path", ("conv3.bn",)),
    "cspnet.DarkBlock": End("drop_path", ("conv2.bn",)),
    "cspnet.EdgeBlock": End("drop_path", ("conv2.bn",)),
    "cifar_resnet.BasicBlock": End("bn2", ("bn2",)),
}


@dataclasses.dataclass(frozen=True)
class Attach(Edit):
    """kernels: path of a place, from the backbone's own net -> size of the gate's kernel.

    A gate takes the place of nothing or an identity, goes before drop path, and behind anything else.
    """

    kernels: Mapping[str, int]

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        (model,) = models
        root = _backbone(model).root
        for place, size in self.kernels.items():
            holder, _, name = place.rpartition(".")
            parent = root.get_submodule(holder)
            there, attention = getattr(parent, name), gate(size, f"eca.{place}")
            if isinstance(there, DropPath):
                attention = nn.Sequential(attention, there)
            elif there is not None and not isinstance(there, nn.Identity):
                attention = nn.Sequential(there, attention)
            setattr(parent, name, attention)
        return model


class AttachECA(Shrinker):
    """Puts the gates of ECA-Net (Wang et al., CVPR 2020, sec. 4.1) into a convolutional net.

    where: "block" puts one behind each residual branch. The new kernels are zero, so a gate lets one half through, and
    what comes in is doubled: the net says what it said before, to the bit, and training moves the kernels. "stage" puts one
    behind each stage, for nets without known residual blocks; there one half is what comes out until training makes up
    for it.
    kernel: size of all kernels; None is the paper's rule for each number of channels (eq. 12).
    """

    needs = {"model": set()}

    def __init__(self, *, where: Literal["block", "stage"] = "block", kernel: int | None = None):
        if where not in ("block", "stage"):
            raise MarrowError(f"'{where}' is neither 'block' nor 'stage'", where="eca.where")
        if kernel is not None:
            gate(kernel, "eca.kernel")
        self.where, self.kernel = where, kernel

    def plan(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Cut:
        whole = deepcopy(models["model"]).cpu().eval()
        backbone = _backbone(whole)
        root, preserving = backbone.root, self.where == "block"
        branches = _branches(root) if preserving else []
        places = {block: place for block, place, _ in branches} or _stages(root)
        image = torch.rand(1, backbone.input.channels, *backbone.input.size, generator=torch.Generator().manual_seed(0))
        before, widths = _run(backbone, image, list(places))
        edit = Attach({place: self.kernel or kernel_size(widths[name]) for name, place in places.items()})
        _double(root, [scale for *_, scale in branches])
        edit.apply([whole])
        for place in edit.kernels:
            for module in root.get_submodule(place).modules():
                if isinstance(module, EcaModule):
                    nn.init.zeros_(module.conv.weight)
        if preserving and not torch.equal(_run(backbone, image, [])[0], before):
            raise MarrowError("its residual branches do not end in weights that can make up for the gates",
                              where="eca.model", hint="where: stage changes what the net says, and fits.")  # fmt: skip
        return Cut(edit, whole.state_dict())


def _backbone(model: nn.Module) -> Backbone:
    found = next((m for m in model.modules() if isinstance(m, Backbone)), None)
    if not isinstance(found, TimmBackbone):
        raise MarrowError(f"{type(found or model).__name__} holds no net of timm", where="eca.model")
    return found


def _branches(root: nn.Module) -> list[tuple[str, str, str]]:
    """(block, place of its gate, what scales its branch), paths from the root."""
    found = []
    for name, block in root.named_modules():
        kinds = (f"{c.__module__.rpartition('.')[2]}.{c.__name__}" for c in type(block).__mro__)
        end = next((ENDS[kind] for kind in kinds if kind in ENDS), None)
        if end is None:
            continue
        scale = next(s for s in end.scaled_by if _at(block, s) is not None)
        there = _at(block, end.place)
        if not (there is None or isinstance(there, (nn.Identity, DropPath)) or end.place == scale):
            raise MarrowError(f"'{name}.{end.place}' is {type(there).__name__} already", where="eca.model")
        found.append((name, f"{name}.{end.place}", f"{name}.{scale}"))
    if not found:
        raise MarrowError(f"{type(root).__name__} has no residual blocks of convolutions that eca knows",
                          where="eca.model", hint="where: stage puts gates behind the stages.")  # fmt: skip
    return found


def _stages(root: nn.Module) -> dict[str, str]:
    known = dict(root.named_modules())
    stages = [info["module"] for info in root.feature_info]
    if missing := [name for name in stages if name not in known]:
        raise MarrowError(
            f"'{missing[0]}' of {type(root).__name__} is no module that a gate can follow", where="eca.model"
        )
    return {name: name for name in stages}


def _at(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


@torch.no_grad()
def _run(backbone: Backbone, image: Tensor, watched: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
    """The pooled features, and how many channels the maps of these modules have."""
    root, widths = backbone.root, {}
    said = {info["module"]: info["num_chs"] for info in root.feature_info}

    def look(name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if not isinstance(out, Tensor) or out.ndim != 4 or out.shape[1] != said.get(name, out.shape[1]):
                shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise MarrowError(
                    f"the gates of ECA work on maps (B, C, H, W); '{name}' gives {shape}", where="eca.model"
                )
            widths[name] = out.shape[1]

        return hook

    hooks = [root.get_submodule(name).register_forward_hook(look(name)) for name in watched]
    pooled = backbone(image).pooled
    for hook in hooks:
        hook.remove()
    if missing := [name for name in watched if name not in widths]:
        raise MarrowError(f"'{missing[0]}' is not what the net runs through", where="eca.model")
    return pooled, widths


@torch.no_grad()
def _double(root: nn.Module, scales: Sequence[str]) -> None:
    for scale in scales:
        what = _at(root, scale)
        for parameter in [what] if isinstance(what, nn.Parameter) else what.parameters():
            parameter.mul_(2)
