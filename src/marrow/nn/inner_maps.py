"""The maps inside a backbone, by the name of the module that makes each."""

from __future__ import annotations

from typing import Any, Callable, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core.contracts import Backbone
from ..core.errors import MarrowError, near
from ..core.wrappers import taps

STEM = "stem"


class InnerMap(NamedTuple):
    """A module whose output is a map of an image, or tokens that stand for its places."""

    module: str  # path from the backbone's own net
    channels: int
    places: int  # H * W
    last: bool  # (B, H, W, C), as in Swin, instead of (B, C, H, W)
    before: int | None = None  # tokens (B, before + places, C), as in ViT: so many of them stand for no place

    def changed(self, out: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The module's output with `change` done to its map as (B, C, H, W); tokens are a map of H * W x 1."""
        if self.before is not None:
            apart, tokens = out[:, : self.before], out[:, self.before :]
            return torch.cat([apart, change(tokens.mT[..., None])[..., 0].mT], 1)
        return change(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.last else change(out)


def inner_maps(backbone: Backbone, names: Sequence[str], where: str) -> list[InnerMap]:
    """What these modules make at the backbone's input size; found out by running it once on the meta device.

    "stem" is the first convolution of a net that has no module of that name. No names: the first convolution, and every
    stage that `feature_info` of timm's nets tells; those whose maps have one place only are left out. Tokens are places
    where `feature_info` tells how large the grid of a stage is, and what stands before them are class tokens and the like.
    """
    root, name, who = backbone.root, backbone.spec.get("source", type(backbone).__name__), where.partition(".")[0]
    infos = {i["module"]: i for i in getattr(root, "feature_info", None) or ()}
    stages = {module: info["num_chs"] for module, info in infos.items()}
    known = dict(root.named_modules())
    stem = next((n for n, m in known.items() if isinstance(m, nn.Conv2d)), None)
    if not names and (stem is None or not stages or stages.keys() - known.keys()):
        children = [n for n, _ in root.named_children()]
        maps = [n for n, shape in _shapes(backbone, children).items() if len(shape) == 4 and shape[2:] != (1, 1)]
        raise MarrowError(f"{who} needs maps inside the backbone, and {name} does not tell which modules make them",
                          where=where, hint=f"Name modules of its net{', such as ' * bool(maps)}{', '.join(maps)}.")  # fmt: skip
    asked = [stem if n == STEM and stem and STEM not in known else n for n in names] or [stem or "", *stages]
    if unknown := [n for n in asked if n not in known]:
        raise MarrowError(f"{name} has no module '{unknown[0]}'{near(unknown[0], known)}", where=where)
    shapes = _shapes(backbone, list({*asked, *(s for s in stages if s in known)}))
    channels_last = any(_channels_last(shapes.get(s, ()), c) for s, c in stages.items())
    found = []
    for module in dict.fromkeys(asked):
        shape = shapes.get(module, ())
        places = _cells(infos.get(module, {}), backbone.input.size)
        if len(shape) == 3 and shape[2] == stages.get(module) and 1 < places <= shape[1]:
            found.append(InnerMap(module, shape[2], places, True, shape[1] - places))
            continue
        if len(shape) != 4:
            given = f"gives {tuple(shape)}" if shape else "gives no single tensor, or is not run through"
            raise MarrowError(f"{who} needs maps (B, C, H, W) inside the backbone; '{module}' of {name} {given}",
                              where=where, hint="Try resnet*, convnext_*, swin_*.")  # fmt: skip
        if module in stages:
            last = _channels_last(shape, stages[module])
        else:
            last = channels_last and not isinstance(known[module], nn.Conv2d)
        channels, places = (shape[3], shape[1] * shape[2]) if last else (shape[1], shape[2] * shape[3])
        if places > 1:
            found.append(InnerMap(module, channels, places, last))
        elif names:
            raise MarrowError(f"style is a deviation over places, and '{module}' of {name} makes maps of 1 x 1 from "
                              f"{backbone.input.size[0]} x {backbone.input.size[1]} pixels", where=where,
                              hint="Leave it out, or give the backbone a larger img_size.")  # fmt: skip
    return found


def _cells(info: Mapping[str, Any], size: tuple[int, int]) -> int:
    """How many cells the grid of a stage has; 0 where that is not told."""
    reduction = info.get("reduction") or 0
    return (size[0] // reduction) * (size[1] // reduction) if isinstance(reduction, int) and reduction else 0


def _channels_last(shape: Sequence[int], channels: int) -> bool:
    return len(shape) == 4 and shape[1] != channels == shape[3]


def _shapes(backbone: Backbone, modules: Sequence[str]) -> dict[str, torch.Size]:
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    modes = [(m, m.training) for m in backbone.modules()]
    backbone.eval()
    with torch.no_grad(), torch.device("meta"), taps(backbone, *modules) as out:
        image = torch.empty(2, backbone.input.channels, *backbone.input.size)
        functional_call(backbone, state, (image,))
    for module, mode in modes:
        module.training = mode
    seen: dict[str, Any] = dict(out)
    return {name: value.shape for name, value in seen.items() if isinstance(value, Tensor)}
