"""Every timm model as a Backbone. The one file that knows timm's model interface."""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import Any, Sequence

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from .contracts import Backbone, Features, Input
from .errors import MarrowError, near
from .wrappers import taps

# Arguments of timm's factory that load files, reach for a hub or change what the model is.
REFUSED = {"pretrained", "checkpoint_path", "cache_dir", "features_only", "out_indices", "num_classes"}
REFUSED |= {"pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "feature_cfg"}


class TimmBackbone(Backbone):
    """A timm net without its classifier, normalising its own input.

    `features(x)` takes images (B, 3, H, W), uint8 or float in [0, 1]. The classifier that came with pre-trained weights
    waits in `classifier` for a head that wants it.
    """

    modality = "image"

    def __init__(self, net: nn.Module, spec: dict, input: Input):
        super().__init__()
        self.net, self.spec, self.input = net, spec, input
        self.register_buffer("mean", torch.tensor(input.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(-1, 1, 1), persistent=False)
        self.dim = getattr(net, "head_hidden_size", None) or net.num_features

    @classmethod
    def create(
        cls,
        name: str,
        *,
        img_size: int | tuple[int, int] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        crop_pct: float | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        where: str = "backbone",
        **args: Any,
    ) -> "TimmBackbone":
        """Build timm's `name`. Every net takes `img_size`: the size of its input, built in where the net needs it.

        pretrained: weights from timm's hub, the only thing here that touches the network. weights: a local
        .safetensors or .pth file with timm's keys. Both bring the classifier along if there is one.
        """
        # Registers our own with timm; by name, since core imports nothing else of the package.
        importlib.import_module("marrow.backbones")
        if not timm.is_model(name):
            raise MarrowError(f"unknown backbone '{name}'{near(name, timm.list_models())}", where=where)
        if refused := sorted(REFUSED & set(args)):
            raise MarrowError(f"'{refused[0]}' is not an argument of a backbone", where=where)
        spec_args = dict(img_size=img_size, mean=mean, std=std, crop_pct=crop_pct, **args)
        spec = {"source": f"timm:{name}", "args": {k: _json(v) for k, v in spec_args.items() if v is not None}}
        size: Any = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size) if img_size else None
        if size and "img_size" in arguments_of(name):
            args = {**args, "img_size": size}
        classes = {} if pretrained else {"num_classes": 0}
        state = None
        if weights is not None:
            state, classes = _read(weights, name, where)
        try:
            net = timm.create_model(name, pretrained=pretrained, **classes, **args)
        except TypeError as error:
            known = sorted(arguments_of(name))
            raise MarrowError(f"timm's {name} does not take these arguments ({error})", where=where,
                              hint=f"It takes {', '.join(known)}.") from None  # fmt: skip
        if state is not None:
            _load(net, state, weights, where)
        cfg = net.pretrained_cfg
        backbone = cls(net, spec, Input(
            size=size or tuple(cfg["input_size"][1:]),
            channels=args.get("in_chans", 3),
            mean=tuple(mean or cfg["mean"]),
            std=tuple(std or cfg["std"]),
            resize="crop" if cfg.get("crop_mode", "center") == "center" else "squash",
            crop_pct=crop_pct or (cfg["crop_pct"] if size is None else 1.0),
            interpolation=cfg["interpolation"],
        ))  # fmt: skip
        if getattr(net, "num_classes", 0):
            backbone._release_classifier()
        return backbone

    def _release_classifier(self) -> None:
        head = self.net.get_classifier()
        if isinstance(head, nn.Linear) and head.in_features == self.dim:
            self.classifier = (head.weight.detach(), None if head.bias is None else head.bias.detach())
        self.net.reset_classifier(0)

    @property
    def root(self) -> nn.Module:
        return self.net

    def normalized(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 or float in [0, 1] -> float with the net's own mean and deviation."""
        x = x / 255.0 if x.dtype == torch.uint8 else x
        return (x - self.mean) / self.std

    def features(self, x: Tensor, *, maps: Sequence[int] = ()) -> Features:
        x, net = self.normalized(x), self.net
        if not maps:
            final, stages = net.forward_features(x), ()
        elif hasattr(net, "forward_intermediates"):
            count = len(net.feature_info)
            if min(maps) < -count or max(maps) >= count:
                raise MarrowError(f"stages {list(maps)} are outside 0..{count - 1}", where=self.spec["source"])
            wanted = [m % count for m in maps]
            final, taken = net.forward_intermediates(x, indices=sorted(set(wanted)), output_fmt="NCHW")
            stages = tuple(taken[sorted(set(wanted)).index(w)] for w in wanted)
        else:
            names = [net.feature_info[m]["module"] for m in maps]
            with taps(net, *names) as inner:
                final = net.forward_features(x)
            stages = tuple(inner[n] for n in names)
        pooled = net.forward_head(final, pre_logits=True)
        tokens = final[:, getattr(net, "num_prefix_tokens", 0) :] if final.ndim == 3 else None
        return Features(pooled, stages, tokens)

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        """Found out by running the net once without memory, on the meta device."""
        if "_gives" not in self.__dict__:
            self.__dict__["_gives"] = frozenset(_found(self))
        return self.__dict__["_gives"]

    def checkpoint_gradients(self) -> None:
        self.net.set_grad_checkpointing(True)


def _found(backbone: TimmBackbone) -> set[str]:
    size = (1, backbone.input.channels, *backbone.input.size)
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad(), torch.device("meta"):
        out = torch.func.functional_call(backbone, state, torch.empty(size))
        gives = {"pooled"} if out.pooled.shape == (1, backbone.dim) else set()
        if out.tokens is not None:
            gives.add("tokens")
        info = getattr(backbone.net, "feature_info", None)
        if info and (hasattr(backbone.net, "forward_intermediates") or all("module" in i for i in info)):
            maps = torch.func.functional_call(backbone, state, torch.empty(size), {"maps": (0, -1)}).maps
            if all(m.ndim == 4 for m in maps):
                gives.add("maps")
    backbone.train(was_training)
    names = dict(backbone.net.named_modules())
    if "blocks.0.attn.qkv" in names:
        gives.add("qkv")
    if any(isinstance(m, nn.ReLU) for m in names.values()):
        gives.add("relu")
    return gives


@lru_cache(maxsize=256)
def arguments_of(name: str) -> frozenset[str]:
    """Constructor arguments of the class behind a timm name."""
    with torch.device("meta"):
        cls = type(timm.create_model(name, pretrained=False))
    return frozenset(inspect.signature(cls.__init__).parameters) - {"self"}


def _read(path: str, name: str, where: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A weight file, and the number of classes of the classifier in it."""
    if not Path(path).is_file():
        raise MarrowError(f"no weight file at {path}", where=f"{where}.weights")
    state = load_state_dict(path, use_ema=False, device="cpu", weights_only=True)
    with torch.device("meta"):
        head = timm.create_model(name, pretrained=False).pretrained_cfg.get("classifier")
    bias = f"{head}.weight" if isinstance(head, str) else ""
    return state, {"num_classes": len(state[bias]) if bias in state else 0}


def _load(net: nn.Module, state: dict[str, Tensor], path: str | None, where: str) -> None:
    # Older files lack BatchNorm's batch counter, which only matters for a momentum of None; torch starts it at 0.
    own = {k: v for k, v in net.state_dict().items() if k in state or not k.endswith(".num_batches_tracked")}
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the net has not"
        raise MarrowError(f"{path} is not a weight file of this net: it {what} "
                          f"({len(missing)} keys missing, {len(extra)} too many)", where=f"{where}.weights")  # fmt: skip
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise MarrowError(f"{path}: '{key}' is {tuple(state[key].shape)}, the net has {tuple(value.shape)}",
                              where=f"{where}.weights")  # fmt: skip
    net.load_state_dict(state, strict=True)


def _json(value: Any) -> Any:
    return [_json(v) for v in value] if isinstance(value, (tuple, list)) else value
