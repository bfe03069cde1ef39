"""Plans the edit of `prune`: asks what goes together, measures what the cut net says of itself, and checks it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from ..core.fit_check import model_name
from ..core.timm_backbone import TimmBackbone
from .prune_heads import KNOWN, cut_heads
from .prune_trace import Kept, Untraceable, Values, cut_channels, without_gates
from .slicing import ranges, slice_model

FAMILIES = "resnet, resnext, eca, regnet, mobilenet, efficientnet, convnext, densenet, vgg, dla, hrnet, vit, deit, pvt, vit_res, emo"
NORMS = {"LayerNorm", "GroupNorm", "GlobalResponseNorm"}

Fields = tuple[tuple[str, ...], dict[str, tuple[int | None, ...]], Values]  # of `Prune`


class _Read(nn.Module):
    """A backbone with something that reads it, so that the outputs that go are known by what is no longer read."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone, self.reader = backbone, nn.utils.skip_init(nn.Linear, backbone.dim, 2, bias=False)
        angles = torch.arange(backbone.dim, dtype=torch.float)
        self.reader.weight.data = torch.stack([angles.cos(), angles.sin()])  # all different, all of length 1

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"read": self.reader(self.backbone(batch["image"]).pooled)}


def plan(model: nn.Module, ratio: float, round_to: int) -> Fields:
    """The fields of the edit for a task or backbone; what cannot be cut, or would be cut wrongly, raises."""
    if not isinstance(model, (Backbone, Task)):
        raise MarrowError(f"{type(model).__name__} is neither a backbone nor a task", where="prune.model")
    if isinstance(model, Task) and "objects" in model.fields:
        raise MarrowError(f"{model_name(model.spec)} scales its features by measured statistics, which this does not follow",
                          where="prune.model", hint="Prune its backbone, {..., part: backbone}, and train a new task on what is left.")  # fmt: skip
    whole = deepcopy(model).cpu().eval()
    read = _Read(whole) if isinstance(whole, Backbone) else whole
    backbone = next(m for m in read.children() if isinstance(m, Backbone))
    name = model_name(model.spec)
    image = torch.rand(1, backbone.input.channels, *backbone.input.size, generator=torch.Generator().manual_seed(0))
    root = next(n for n, m in read.named_modules() if m is backbone.root)
    if isinstance(backbone.root, KNOWN):
        kept, values = cut_heads(backbone.root, root, ratio, round_to)
    else:
        inner = {id(m) for m in backbone.modules()}
        outside = [place for place, m in read.named_modules() if id(m) not in inner]
        try:
            kept, values = cut_channels(read, image, _answers, outside, ratio, round_to)
        except Untraceable as reason:
            raise _cannot(name, "Torch-Pruning cannot follow its channels") from reason
    if not kept:
        raise MarrowError(f"{name} has no layer that can spare {ratio:.0%} of its channels in multiples of {round_to}",
                          where="prune.round_to", hint="Give a smaller round_to or a larger ratio.")  # fmt: skip
    verify(read, kept, values, image, name)
    values = _measured(read, kept, values, image, name)
    if isinstance(model, Backbone):
        kept = {k.partition(".")[2]: v for k, v in kept.items() if k.startswith("backbone.")}
        values = {k.partition(".")[2]: v for k, v in values.items() if k.partition(".")[0] == "backbone"}
    return _fields(kept, values)


def _fields(kept: Kept, values: Values) -> Fields:
    """The same channels are written down once."""
    channels: dict[str, int] = {}
    tensors = {name: tuple(None if k is None else channels.setdefault(ranges(k), len(channels)) for k in dims)
               for name, dims in kept.items()}  # fmt: skip
    return tuple(channels), tensors, values


def _cut(model: nn.Module, kept: Kept, values: Values) -> nn.Module:
    copy = deepcopy(model)
    slice_model(copy, *_fields(kept, values))
    return copy


def _answers(model: nn.Module, image: Tensor) -> list[Tensor]:
    return [value for value in model({"image": image}).values() if isinstance(value, Tensor)]


def _cannot(name: str, reason: str) -> MarrowError:
    return MarrowError(
        f"{name} cannot be pruned: {reason}", where="prune.model", hint=f"Families that can: {FAMILIES}."
    )


def verify(model: nn.Module, kept: Kept, values: Values, image: Tensor, name: str) -> None:
    """The cut net says what the whole one says when nothing reads the channels that go."""
    whole = deepcopy(model).double()
    _unread(whole, kept)
    try:
        cut = _cut(model, kept, values).double()
        for each in (whole, cut):
            _unmix(each, kept)
        with torch.inference_mode():
            wanted, got = _answers(whole, image.double()), _answers(cut, image.double())
    except (MarrowError, RuntimeError) as error:  # nothing left of a tensor; shapes that do not meet
        raise _cannot(name, "what is left of it does not fit together") from error
    if not all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-9 * float(a.abs().max()))
               for a, b in zip(wanted, got, strict=True)):  # fmt: skip
        raise _cannot(name, "Torch-Pruning mistakes which of its channels belong together")


@torch.no_grad()
def _unread(model: nn.Module, kept: Kept) -> None:
    tensors = dict(model.named_parameters())
    for name, (_, *dims) in kept.items():
        if dims and dims[0] is not None:
            stays = torch.zeros(tensors[name].shape[1], dtype=torch.bool)
            stays[dims[0]] = True
            tensors[name][:, ~stays] = 0


def _unmix(model: nn.Module, kept: Kept) -> None:
    """Take out what lets channels that nothing reads speak through others: norms over channels that are cut, and gates."""
    without_gates(model)
    cut = {name.rpartition(".")[0] for name in kept}
    for name, module in list(model.named_modules()):
        classes = {c.__name__ for c in type(module).__mro__}
        if classes & NORMS and name in cut:
            model.set_submodule(name, nn.Identity())


@torch.no_grad()
def _measured(model: nn.Module, kept: Kept, values: Values, image: Tensor, name: str) -> Values:
    """With what the net as a whole says of itself: widths of its stages and outputs."""
    cut = _cut(model, kept, values)
    backbone = next(m for m in cut.children() if isinstance(m, Backbone))
    places = {module: place for place, module in cut.named_modules()}
    found = {place: dict(own) for place, own in values.items()}

    def ghost(module: nn.Module, args: Any, output: Tensor) -> None:
        found.setdefault(places[module], {})["out_chs"] = output.shape[1]

    hooks = [m.register_forward_hook(ghost) for m in cut.modules() if type(m).__name__ == "GhostModule"]
    answers = _answers(cut, image)
    for hook in hooks:
        hook.remove()
    if not all(a.isfinite().all() for a in answers):
        raise _cannot(name, "its outputs are not finite")
    width = backbone(image).pooled.shape[-1]
    found[places[backbone]] = {"dim": width}
    if isinstance(backbone, TimmBackbone):
        final = backbone.net.forward_features(backbone.normalized(image))
        widths = {"num_features": final.shape[-1 if final.ndim == 3 else 1], "head_hidden_size": width}
        for module in backbone.net.modules():
            if type(module).__name__ in ("ClassifierHead", "NormMlpClassifierHead"):
                found[places[module]] = {"in_features": widths["num_features"], "num_features": width}
        own: dict[str, Any] = {k: v for k, v in widths.items() if k in vars(backbone.net)}  # some nets work them out
        backbone.__dict__.pop("_gives", None)  # found out before the cut
        if "maps" in backbone.gives:
            own["num_chs"] = tuple(m.shape[1] for m in backbone(image, maps=range(len(backbone.net.feature_info))).maps)
        found[places[backbone.net]] = own
    return found
