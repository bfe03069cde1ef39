"""Weights for timm's nets: files with timm's keys, the class names beside them, and timm's hub."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Mapping

import timm
import torch
from safetensors import SafetensorError
from timm.models import get_pretrained_cfg, is_model_pretrained, load_state_dict
from torch import Tensor, nn

from . import hub, plain_json
from .errors import MarrowError
from .limits import FOREIGN, told

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
ON_HUB = ("model.safetensors", "pytorch_model.bin")


def read(path: str, where: str) -> dict[str, Tensor]:
    """The tensors of a weight file. No pickled code is run."""
    if not Path(path).is_file():
        raise MarrowError(f"no weight file at {path}", where=where)
    try:
        state = load_state_dict(path, use_ema=False, device="cpu", weights_only=True)
    except (SafetensorError, EOFError, pickle.UnpicklingError, *FOREIGN) as error:
        raise MarrowError(f"{path} cannot be read as weights ({told(error)})", where=where) from None
    if not (isinstance(state, Mapping) and state and all(isinstance(v, Tensor) for v in state.values())):
        raise MarrowError(f"{path} holds something else than one tensor per name", where=where)
    for name, tensor in state.items():
        # A view may claim any size over a few stored numbers; a net of that size would be built for it.
        if tensor.layout != torch.strided or tensor.is_meta or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise MarrowError(f"{path}: '{name}' claims {tuple(tensor.shape)} and does not hold it", where=where)
    return dict(state)


def classes_in(state: Mapping[str, Tensor], name: str) -> int:
    """The number of classes of the classifier in the weights of timm's `name`; 0 without one."""
    with torch.device("meta"):
        heads = timm.create_model(name, pretrained=False).pretrained_cfg.get("classifier") or ()
    first = heads if isinstance(heads, str) else next(iter(heads), "")
    weight = state.get(f"{first}.weight")
    return 0 if weight is None else len(weight)


def is_linear(name: str) -> bool:
    """Whether timm's `name` classifies by one linear layer on its pooled features."""
    with torch.device("meta"):
        net = timm.create_model(name, pretrained=False, num_classes=2)
    head, width = net.get_classifier(), getattr(net, "head_hidden_size", None) or net.num_features
    return isinstance(head, nn.Linear) and head.in_features == width


def from_file(state: dict[str, Tensor], classes: int) -> dict[str, Any]:
    """Arguments with which timm loads a file's tensors as it does its own: positions resampled, then strictly."""
    overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0, "source": "", "custom_load": False}
    return {"pretrained": True, "num_classes": classes, "pretrained_cfg_overlay": overlay}


def from_hub(name: str, where: str) -> dict[str, Any]:
    """Arguments with which timm loads its published weights; refused at once where they cannot be had."""
    if not is_model_pretrained(name):
        raise no_published(name, where)
    repository = get_pretrained_cfg(name).hf_hub_id
    if not repository or hub.answers():
        return {"pretrained": True}
    names = (own,) if (own := get_pretrained_cfg(name).hf_hub_filename) else ON_HUB
    if file := hub.cached(repository, names):
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}
    raise MarrowError(f"the weights of {name} are not on this machine and {hub.constants.ENDPOINT} does not answer",
                      where=where, hint=offline(name))  # fmt: skip


def offline(name: str) -> str:
    """How to do without the hub."""
    return (f"Offline, bring {name}'s file over and give {name}=FILE on the command line, or weights: FILE in a "
            "recipe.")  # fmt: skip


def no_published(name: str, where: str) -> MarrowError:
    """A name, with or without tag, for which timm has no weights."""
    arch, _, tag = name.partition(".")
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{arch}.*")]
    if tag and tags:
        return MarrowError(f"timm has no weights '{tag}' for {arch}; there are {', '.join(tags)}", where=where)
    return MarrowError(f"there are no published weights for {name}", where=where,
                       hint=f"Give a file of yours: {arch}=FILE.")  # fmt: skip


def class_names(path: str | Path) -> list[str] | None:
    """The names of the classes of a weight file's classifier.

    They stand in a text file beside it (net.safetensors -> net.labels.txt), one name a line, or in the config.json of a
    folder as timm writes it for the hub.
    """
    beside = Path(path).with_suffix(".labels.txt")
    if beside.is_file():
        try:
            names = beside.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise MarrowError("it is no text in UTF-8", where=str(beside)) from None
        return [n.strip() for n in names if n.strip()]
    config = Path(path).with_name("config.json")
    return names_in(plain_json.read(config, str(config), plain_json.LARGEST_META)) if config.is_file() else None


def names_in(config: Any) -> list[str] | None:
    """`label_names` of timm's config.json: a list, or a mapping from class number to name."""
    if not isinstance(config, Mapping) or "architecture" not in config:
        return None
    own = config.get("pretrained_cfg")
    names = config.get("label_names") or (own.get("label_names") if isinstance(own, Mapping) else None)
    if isinstance(names, Mapping):
        numbered = {str(i): names.get(str(i)) for i in range(len(names))}
        names = None if None in numbered.values() else list(numbered.values())
    if not isinstance(names, list) or not all(isinstance(n, (str, int)) for n in names):
        return None
    return [str(n) for n in names] or None


def misfit(net: nn.Module, state: Mapping[str, Tensor], path: str, where: str) -> MarrowError:
    """Why timm could not load these weights into the net."""
    # Older files lack BatchNorm's batch counter, which only matters for a momentum of None; torch starts it at 0.
    own = {k: v for k, v in net.state_dict().items() if k in state or not k.endswith(".num_batches_tracked")}
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the net has not"
        return MarrowError(f"{path} is not a weight file of this net: it {what} "
                           f"({len(missing)} keys missing, {len(extra)} too many)", where=where)  # fmt: skip
    key = next((k for k, v in own.items() if state[k].shape != v.shape), None)
    if key is None:
        return MarrowError(f"timm cannot load {path} into this net", where=where)
    return MarrowError(f"{path}: '{key}' is {tuple(state[key].shape)}, the net has {tuple(own[key].shape)}",
                       where=where)  # fmt: skip
