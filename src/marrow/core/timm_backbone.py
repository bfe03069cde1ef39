"""Every timm model as a Backbone. The one file that knows timm's model interface."""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache
from typing import Any, Sequence

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from . import limits, timm_weights
from .contracts import Backbone, Features, Input
from .errors import MarrowError, near
from .gives import found
from .wrappers import taps

# Arguments of timm's factory that load files, reach for a hub or change what the model is.
REFUSED = {"pretrained", "checkpoint_path", "cache_dir", "features_only", "out_indices", "num_classes"}
REFUSED |= {"pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn", "feature_cfg"}
# Where the weights lie is decided outside: a spec that named a device would take memory while it is only looked at.
REFUSED |= {"device", "dtype"}


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
        interpolation: str | None = None,
        pretrained: bool = False,
        weights: str | None = None,
        where: str = "backbone",
        **args: Any,
    ) -> "TimmBackbone":
        """Build timm's `name`. Every net takes `img_size`: the size of its input, built in where the net needs it.

        pretrained: weights from timm's hub, the only thing here that touches the network. weights: a local
        .safetensors or .pth file with timm's keys; timm resamples position embeddings to `img_size`. Both bring the
        classifier along if there is one, a file also the names of its classes (`timm_weights.class_names`).
        """
        # Registers our own with timm; by name, since core imports nothing else of the package.
        importlib.import_module("marrow.backbones")
        if ":" in name or "/" in name or not timm.is_model(name):  # timm reads addresses in names
            raise MarrowError(f"unknown backbone '{name}'{near(name, timm.list_models())}", where=where)
        if refused := sorted(REFUSED & set(args)):
            raise MarrowError(f"'{refused[0]}' is not an argument of a backbone", where=where)
        limits.input_values(img_size, mean, std, crop_pct, interpolation, where)
        spec_args = dict(img_size=img_size, mean=mean, std=std, crop_pct=crop_pct, interpolation=interpolation, **args)
        spec = {"source": f"timm:{name}", "args": {k: _json(v) for k, v in spec_args.items() if v is not None}}
        size: Any = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size) if img_size else None
        if size and "img_size" in arguments_of(name):
            args = {**args, "img_size": size}
        loading: dict[str, Any] = {"pretrained": False, "num_classes": 0}
        state: dict[str, Tensor] = {}
        if weights is not None:
            state = timm_weights.read(weights, f"{where}.weights")
            loading = timm_weights.from_file(state, timm_weights.classes_in(state, name))
        elif pretrained:
            loading = timm_weights.from_hub(name, where)
        try:
            net = timm.create_model(name, **loading, **args)
        except TypeError as error:
            known = sorted(a for a in arguments_of(name) if f"'{a}'" not in str(error))  # timm sets some itself
            raise MarrowError(f"timm's {name} does not take these arguments ({error})", where=where,
                              hint=f"It takes {', '.join(known)}.") from None  # fmt: skip
        except OSError as error:  # of the hub: files of the user are read above
            raise MarrowError(f"the weights of {name} could not be fetched ({str(error).partition(chr(10))[0]})",
                              where=where, hint=timm_weights.offline(name)) from None  # fmt: skip
        except (RuntimeError, LookupError, ValueError):
            if weights is None:
                raise
            with torch.device("meta"):
                empty = timm.create_model(name, pretrained=False, num_classes=loading["num_classes"], **args)
            raise timm_weights.misfit(empty, state, weights, f"{where}.weights") from None
        net.pretrained_cfg.pop("state_dict", None)  # the file's tensors, which the net has copies of
        cfg = net.pretrained_cfg
        channels = args.get("in_chans", 3)
        backbone = cls(net, spec, Input(
            size=size or tuple(cfg["input_size"][1:]),
            channels=channels,
            mean=_for_channels(mean or cfg["mean"], channels, f"{where}.mean"),
            std=_for_channels(std or cfg["std"], channels, f"{where}.std"),
            resize="crop" if cfg.get("crop_mode", "center") == "center" else "squash",
            crop_pct=crop_pct or (cfg["crop_pct"] if size is None else 1.0),
            interpolation=interpolation or cfg["interpolation"],
        ))  # fmt: skip
        if getattr(net, "num_classes", 0):
            backbone._release_classifier()
        if weights is not None and backbone.classifier is not None:
            backbone.classifier_labels = timm_weights.class_names(weights)
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
        """(B, 3, H, W) uint8 or float in [0, 1] -> float with the net's own mean and deviation; grey where it takes grey."""
        x = x / 255.0 if x.dtype == torch.uint8 else x
        if self.input.channels == 1 and x.shape[1] == 3:  # views are in colour, for teachers that see it
            x = rgb_to_grayscale(x)
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
            info = getattr(self.net, "feature_info", None)
            has_maps = info and (hasattr(self.net, "forward_intermediates") or all("module" in i for i in info))
            self.__dict__["_gives"] = frozenset(found(self, bool(has_maps)))
        return self.__dict__["_gives"]

    @property
    def stages(self) -> int:  # type: ignore[override]
        return len(getattr(self.net, "feature_info", ()))

    def checkpoint_gradients(self) -> None:
        self.net.set_grad_checkpointing(True)


def _for_channels(values: Sequence[float], channels: int, where: str) -> tuple[float, ...]:
    """A number for each channel; those of colours are weighed for a net of one, as its pictures are."""
    if len(values) == 3 and channels == 1:
        return (float(rgb_to_grayscale(torch.tensor(values, dtype=torch.float64).view(3, 1, 1))),)
    if len(values) != channels:
        raise MarrowError(f"{len(values)} numbers for a net that takes {channels} channels", where=where)
    return tuple(values)


@lru_cache(maxsize=256)
def arguments_of(name: str) -> frozenset[str]:
    """Constructor arguments of the class behind a timm name, with those that it hands on to the classes it derives from."""
    with torch.device("meta"):
        net = timm.create_model(name, pretrained=False)
    found: set[str] = set()
    for cls in type(net).__mro__:
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values() if "__init__" in vars(cls) else ()
        found |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(found - {"self"})


def _json(value: Any) -> Any:
    return [_json(v) for v in value] if isinstance(value, (tuple, list)) else value
