"""What a teacher's stored outputs belong to: its weights, the views it saw, how and by which versions it was run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from types import FunctionType
from typing import Any, Mapping

import torch
from torch import nn

from .contracts import Backbone, Method, Task
from .errors import MarrowError
from .versions import versions
from .wrappers import Frozen

FORMAT = 1  # of the files
VERSIONS = ("marrow", "torch", "torchvision", "timm")


def check(method: Method, where: str = "cached_views") -> None:
    """Raise when nothing of a method can be stored."""
    if type(method).targets is Method.targets or not method.streams:
        raise MarrowError(f"{type(method).__name__} asks no frozen teacher, so there is nothing to store", where=where,
                          hint="Leave cached_views out.")  # fmt: skip
    for name, frozen in teachers(method).items():
        if frozen.batch_stats:
            raise MarrowError(f"the {name} uses the statistics of each batch, so what it says of an image depends on the "
                              "others and cannot be stored", where=where,
                              hint="Leave cached_views out, or use the running statistics.")  # fmt: skip


def teachers(method: Method) -> dict[str, Frozen]:
    return {name: m for name, m in method.named_modules() if isinstance(m, Frozen)}


def description(method: Method, view: Any, outputs: Mapping[str, Any], seed: int, how: Mapping[str, Any]) -> dict:
    """Everything but the data that decides over what is stored. outputs: how each is kept; how: device, precision, ..."""
    return {
        "format": FORMAT,
        "outputs": {name: list(kind) for name, kind in outputs.items()},
        "teachers": {name: teacher(frozen.module) for name, frozen in teachers(method).items()},
        "view": described(view),
        "seed": seed,
        "how": dict(how),
        "versions": {k: v for k, v in versions().items() if k in VERSIONS},
    }


def name_of(description: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=16).hexdigest()


def teacher(module: nn.Module) -> dict[str, Any]:
    """Class, spec, input, and a hash of all weights and buffers, also those that are not saved."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()], key=lambda pair: pair[0]):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    known = {"spec": module.spec, "input": module.input.to_json()} if isinstance(module, (Backbone, Task)) else {}
    return {"class": _qualified(type(module)), "weights": digest.hexdigest(), **known}


def described(value: Any) -> Any:
    """A view as plain values: its class and parameters, or the name of a function."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {_qualified(type(value)): fields}
    if isinstance(value, FunctionType) and value.__closure__ is None and "<lambda>" not in value.__qualname__:
        return _qualified(value)
    raise MarrowError(f"the view holds a {type(value).__name__}, whose parameters are not known; views whose teacher is "
                      "stored are dataclasses of plain values, or functions", where="cached_views")  # fmt: skip


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
