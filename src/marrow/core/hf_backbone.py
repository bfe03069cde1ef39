"""Vision nets of transformers as Backbones. The one file that knows transformers' model interface."""

from __future__ import annotations

import dataclasses
import inspect
import json
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Sequence

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
from transformers.utils import logging

from . import hf_config
from .contracts import Backbone, Features, Input
from .errors import MarrowError
from .gives import found
from .hf_files import Files

# Of a config: what says nothing about the net, or could make transformers fetch code or other weights.
LEFT_OUT = {"architectures", "auto_map", "id2label", "label2id", "dtype", "torch_dtype", "transformers_version"}
LEFT_OUT |= {
    "model_type",
    "num_labels",
    "problem_type",
    "quantization_config",
    "custom_pipelines",
    "tie_word_embeddings",
}
LEFT_OUT |= {"output_hidden_states", "output_attentions", "return_dict", "use_return_dict", "chunk_size_feed_forward"}


class HfBackbone(Backbone):
    """A net of transformers without its classifier, normalising its own input.

    `features(x)` takes images (B, 3, H, W), uint8 or float in [0, 1]. `pooled` is what the family's classifier looks at
    (`hf_config.FAMILIES`). Nets with a table of positions interpolate it where the input has another size.
    """

    modality = "image"

    def __init__(self, net: nn.Module, spec: dict, input: Input):
        super().__init__()
        self.net, self.spec, self.input = net, spec, input
        self.register_buffer("mean", torch.tensor(input.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(-1, 1, 1), persistent=False)
        self._class_token = hf_config.FAMILIES[net.config.model_type] == "class"
        self._call = _call_of(net, input.size)
        out = _tried(net, input, self._call, spec["source"])
        self.dim = self._pooled(out).shape[-1]
        self._grid = _grid(out, net, input.size)
        self.stages = len(self._maps(out))
        net.train()

    @classmethod
    def create(
        cls,
        name: str,
        *,
        img_size: int | tuple[int, int] | None = None,
        where: str = "backbone",
        weights_too: bool = True,
    ) -> "HfBackbone":
        """Open the checkpoint `name`: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub.

        A folder never touches the network. weights_too=False reads the configuration only.
        """
        files = Files(name, where)
        config = files.json(hf_config.CONFIG)
        kind = hf_config.family(config, where)
        if "quantization_config" in config:
            raise MarrowError(f"the weights of {name} are quantized; those it was made from are needed", where=where)
        input = dataclasses.replace(
            hf_config.input_of(files.processor(), where), channels=config.get("num_channels", 3)
        )
        if img_size is not None:
            size = (img_size, img_size) if isinstance(img_size, int) else img_size
            input = dataclasses.replace(input, size=size, crop_pct=1.0 if size != input.size else input.crop_pct)
        plain = {
            k: v for k, v in config.items() if k not in LEFT_OUT and not k.startswith("_") and "attn_impl" not in k
        }
        args = {"config": plain, **{k: v for k, v in input.to_json().items() if k not in ("modality", "range")}}
        spec = {"source": f"hf:{kind}", "args": args}
        if not weights_too:
            return cls(_net(kind, plain, where), spec, input)
        net, head = _load(files, kind, hf_config.classifies(config), where)
        backbone = cls(net, spec, input)
        if head is not None and head.in_features == backbone.dim:
            backbone.classifier = (head.weight.detach(), None if head.bias is None else head.bias.detach())
            backbone.classifier_labels = hf_config.labels(config)
        elif hf_config.labels(config):
            raise MarrowError(f"the classifier of {name} is not one linear layer on its pooled features", where=where)
        return backbone

    @classmethod
    def build(
        cls, kind: str, *, config: Mapping[str, Any] | None = None, where: str = "spec", **input: Any
    ) -> "HfBackbone":
        """The untrained net of a spec; neither a network nor the checkpoint it came from is needed."""
        if kind not in hf_config.FAMILIES:
            hf_config.family({"model_type": kind}, where)
        if not isinstance(config, Mapping):
            raise MarrowError(f"the configuration of a net is needed, got {config!r}", where=f"{where}.config")
        if refused := sorted(k for k in config if k in LEFT_OUT or k.startswith("_") or "attn_impl" in k):
            raise MarrowError(f"'{refused[0]}' has no place in a configuration", where=f"{where}.config")
        known = {f.name for f in dataclasses.fields(Input)} - {"modality", "range"}
        if set(input) != known:
            raise MarrowError(f"the input needs {', '.join(sorted(known))}, got {', '.join(sorted(input)) or 'none'}",
                              where=where)  # fmt: skip
        described = Input.from_json(input)
        spec = {"source": f"hf:{kind}", "args": {"config": _lists(config), **_lists(input)}}
        return cls(_net(kind, _lists(config), where), spec, described)

    @property
    def root(self) -> nn.Module:
        return self.net

    def features(self, x: Tensor, *, maps: Sequence[int] = ()) -> Features:
        x = x / 255.0 if x.dtype == torch.uint8 else x
        out = self.net((x - self.mean) / self.std, **self._call, output_hidden_states=bool(maps))
        stages: tuple[Tensor, ...] = ()
        if maps:
            if min(maps) < -self.stages or max(maps) >= self.stages:
                raise MarrowError(f"stages {list(maps)} are outside 0..{self.stages - 1}", where=self.spec["source"])
            made = self._maps(out)
            stages = tuple(made[m] for m in maps)
        last = out.last_hidden_state
        return Features(
            self._pooled(out), stages, last[:, last.shape[1] - _count(self._grid) :] if self._grid else None
        )

    def _pooled(self, out: Any) -> Tensor:
        return out.last_hidden_state[:, 0] if self._class_token else out.pooler_output.flatten(1)

    def _maps(self, out: Any) -> tuple[Tensor, ...]:
        """All stages as (B, C, H, W). Of plain transformers these are the outputs of the blocks, as in timm."""
        if (reshaped := out.get("reshaped_hidden_states")) is not None:
            return tuple(reshaped)
        states = out.hidden_states
        if all(s.ndim == 4 for s in states):
            return tuple(states)
        if self._grid is None or any(s.shape[1] < _count(self._grid) for s in states):
            return ()
        return tuple(
            s[:, s.shape[1] - _count(self._grid) :].transpose(1, 2).unflatten(2, self._grid) for s in states[1:]
        )

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        """Found out by running the net once without memory, on the meta device."""
        if "_gives" not in self.__dict__:
            self.__dict__["_gives"] = frozenset(found(self, self.stages > 0))
        return self.__dict__["_gives"]

    def checkpoint_gradients(self) -> None:
        self.net.gradient_checkpointing_enable()


def _load(files: Files, kind: str, classifies: bool, where: str) -> tuple[nn.Module, nn.Linear | None]:
    """The net with the checkpoint's weights, and its linear classifier if it has one."""
    opened = AutoModelForImageClassification if classifies else AutoModel
    own = {} if classifies else _without_pooler(kind)
    try:
        with _quiet():
            model, info = opened.from_pretrained(
                files.name, local_files_only=files.offline, trust_remote_code=False, dtype=torch.float32,
                output_loading_info=True, **own,
            )  # fmt: skip
    except OSError as error:
        if not files.local:
            raise files.missing(str(error).partition("\n")[0]) from None
        raise MarrowError(f"{files.name} has no weights that transformers finds", where=where) from None
    if wrong := sorted({*info["missing_keys"], *(str(k[0]) for k in info["mismatched_keys"])}):
        raise MarrowError(f"the weights of {files.name} do not fit its configuration: '{wrong[0]}' is missing or of "
                          f"another shape ({len(wrong)} such keys)", where=where)  # fmt: skip
    if not classifies:
        return model, None
    net = getattr(model, model.base_model_prefix)
    outside = [m for name, m in model.named_modules() if not name.startswith(model.base_model_prefix)]
    heads = [m for m in outside if isinstance(m, nn.Linear)]
    return net, heads[0] if len(heads) == 1 else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report and progress bar: that a head is left out is meant, what is missing is said here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _net(kind: str, config: Mapping[str, Any], where: str) -> nn.Module:
    try:
        made = AutoConfig.for_model(kind, **json.loads(json.dumps(config)))
        return AutoModel.from_config(made, trust_remote_code=False, **_without_pooler(kind))
    except (StrictDataclassError, TypeError, ValueError, LookupError, RuntimeError, ArithmeticError) as error:
        said = " ".join(str(error).split())
        raise MarrowError(f"transformers cannot build a {kind} from this configuration ({said})", where=where) from None


def _without_pooler(kind: str) -> dict[str, bool]:
    # ViT's and DeiT's own pooler is an extra layer that their classifiers pass by, and most checkpoints lack it.
    return {"add_pooling_layer": False} if kind in ("vit", "deit") else {}


def _call_of(net: nn.Module, size: tuple[int, int]) -> dict[str, bool]:
    """How the net is called at this size: some ask for it when their table of positions is of another size."""
    trained = getattr(net.config, "image_size", None)
    sides = (trained, trained) if isinstance(trained, int) else tuple(trained) if trained else size
    if sides == tuple(size):
        return {}
    if "interpolate_pos_encoding" in inspect.signature(type(net).forward).parameters:
        return {"interpolate_pos_encoding": True}
    return {}


def _tried(net: nn.Module, input: Input, call: Mapping[str, bool], source: str) -> Any:
    """What the net answers, as shapes: it runs once on the meta device."""
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    with torch.no_grad(), torch.device("meta"):
        image = torch.empty(1, input.channels, *input.size)
        try:
            return torch.func.functional_call(net.eval(), state, image, {**call, "output_hidden_states": True})
        except (ValueError, RuntimeError) as error:
            raise MarrowError(f"the net cannot be run on {input.size[0]} x {input.size[1]} pixels ({error})",
                              where=source) from None  # fmt: skip


def _grid(out: Any, net: nn.Module, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of the patches in tokens (B, N, D), which may have others in front; None for a map."""
    if out.last_hidden_state.ndim != 3:
        return None
    if (reshaped := out.get("reshaped_hidden_states")) is not None:
        return tuple(reshaped[-1].shape[-2:])
    patch = net.config.patch_size
    high, wide = (patch, patch) if isinstance(patch, int) else patch
    return size[0] // high, size[1] // wide


def _count(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


def _lists(value: Any) -> Any:
    """Tuples as lists: specs are JSON, and transformers checks for lists."""
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, (tuple, list)) else value
