"""The maps inside a backbone, by the name of the module that makes each."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core.contracts import Backbone
from ..core.errors import MarrowError, near
from ..core.wrappers import taps

STEM = "stem"


class InnerMap(NamedTuple):
    """A module whose output is a map of an image."""

    module: str  # path from the backbone's own net
    channels: int
    places: int  # H * W
    last: bool  # (B, H, W, C), as in Swin, instead of (B, C, H, W)


def inner_maps(backbone: Backbone, names: Sequence[str], where: str) -> list[InnerMap]:
    """What these modules make at the backbone's input size; found out by running it once on the meta device.

    "stem" is the first convolution of a net that has no module of that name. No names: the first convolution, and every
    stage that `feature_info` of timm's nets tells; those whose maps have one place only are left out.
    """
    root, name, who = backbone.root, backbone.spec.get("source", type(backbone).__name__), where.partition(".")[0]
    stages = {i["module"]: i["num_chs"] for i in getattr(root, "feature_info", None) or ()}
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
