"""Tiny instances of everything there is, built from constructor signatures: the material of the common checks.

A new file in `teach/`, `shrink/`, `tasks/` ... turns up here by being there. A class that needs constructor arguments
without defaults names them in `tiny = {...}`.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, get_type_hints

import timm
import torch
from torch import Tensor, nn

import marrow.backbones  # noqa: F401  registers ours with timm
from marrow.core.catalogue import contract_class, stems
from marrow.core.contracts import Backbone, Method, Task, signature_of
from marrow.core.engine import Engine
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import VOID, Source
from marrow.core.spec import build, edited
from marrow.data.object_features import feature_names

from .families import FAMILIES

SIZE, CLASSES, EXAMPLES, BATCH = 32, 4, 24, 8

WRAPPED = "ssld"  # the method inside of one that wraps a method; it has a teacher

# One of every family that differs in what it gives or in how timm builds it, all a few thousand weights.
TIMM = {
    "resnet10t": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "vit_tiny_patch16_224": {"patch_size": 4, "depth": 2, "embed_dim": 48, "num_heads": 3},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "swin_tiny_patch4_window7_224": {"window_size": 4, "depths": (1, 1), "embed_dim": 24, "num_heads": (2, 4)},
}


class Noise(Source):
    """Random images with labels, masks and measures, the same at every construction."""

    classes = [f"class {i}" for i in range(CLASSES)]

    def __init__(self, count: int = EXAMPLES, seed: int = 0):
        self.seed, draw = seed, torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
        self.masks = torch.randint(VOID, CLASSES, (count, SIZE, SIZE), generator=draw)
        self.objects = torch.randn(count, len(feature_names()), generator=draw)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "mask": self.masks[index], "label": self.label(index),
                "objects": self.objects[index], "domain": f"domain {index % 2}"}  # fmt: skip

    def fraction(self, index: int) -> float:
        return (index + 0.5 + 0.001 * self.seed) / len(self)  # other pictures, another content

    def name(self, index: int) -> str:
        return f"noise {index}"

    def label(self, index: int) -> int:
        return index % CLASSES


class NoiseVideos(Noise):
    """The same as videos of three frames, each the one before turned by a quarter."""

    def __getitem__(self, index: int) -> dict:
        image = self.images[index]
        return {"image": torch.stack([image.rot90(k, (1, 2)) for k in range(3)]), "label": self.label(index)}


@cache
def our_backbones() -> tuple[str, ...]:
    """Every name that this package registered with timm."""
    return tuple(n for n in timm.list_models() if timm.model_entrypoint(n).__module__.startswith("marrow."))


@cache
def our_classes() -> dict[type, str]:
    """Every architecture of this package, with the registered name that has the fewest weights."""
    smallest: dict[type, tuple[int, str]] = {}
    for name in our_backbones():
        with torch.device("meta"):
            net = timm.create_model(name)
        size = sum(p.numel() for p in net.parameters())
        smallest[type(net)] = min((size, name), smallest.get(type(net), (size, name)))
    return {cls: name for cls, (_, name) in smallest.items()}


@cache
def backbone_names() -> tuple[str, ...]:
    return (*TIMM, *our_classes().values())


@cache
def gives(name: str) -> tuple[str, frozenset[str]]:
    """(modality, gives) of a tiny backbone."""
    found = backbone(name)
    return found.modality, found.gives


@cache
def representatives() -> tuple[str, ...]:
    """One backbone for each distinct (modality, gives)."""
    return tuple({gives(name): name for name in reversed(backbone_names())}.values())


@cache
def tiny(name: str) -> dict[str, Any]:
    """Arguments that make a net tiny: of ours, `tiny` of its class, which every entry point takes."""
    ours = {n: cls.tiny for cls, n in our_classes().items()}
    return TIMM.get(name) or FAMILIES.get(name) or {k: v for k, v in ours.get(name, {}).items() if k != "num_classes"}


def backbone_spec(name: str) -> dict:
    return {"source": f"timm:{name}", "args": {"img_size": SIZE, **tiny(name)}}


def backbone(on: str | Backbone) -> Backbone:
    """By its name; a net is copied, weights and all."""
    return build(backbone_spec(on)) if isinstance(on, str) else deepcopy(on)


def fitting(words: set[str]) -> str:
    """The first backbone that gives all of these words."""
    for name in backbone_names():
        if words <= gives(name)[1]:
            return name
    raise LookupError(f"no tiny backbone gives {sorted(words)}; add one to TIMM")


def roles(cls: type) -> dict[str, type]:
    """Constructor parameters that are models, with the contract that each is annotated with."""
    hints = get_type_hints(cls.__init__)
    return {name: hints[name] for name in signature_of(cls) if hints.get(name) in (Backbone, Task, Method)}


def task(stem: str = "classify", on: str | Backbone | None = None) -> Task:
    """A tiny task; `on` is the backbone of all its roles."""
    cls = contract_class("tasks", stem)
    models = {role: backbone(on or fitting(set())) for role in roles(cls)}
    return cls(**models, **plain_arguments(cls))


def model(contract: type, words: set[str], on: str | Backbone | None = None, seed: int = 0) -> Backbone | Task | Method:
    """A tiny model for a role that needs these words."""
    if contract is Method:
        return method(WRAPPED, on, seed)
    if "clips" in words:
        return edited("over_frames", {"frames": 2, "stride": 1}, [backbone(on or fitting(words - {"clips"}))])
    if "nested" in words:
        return task("nested_classify", on)
    if "members" in words:
        return edited("cat", {}, [task(on=on), task(on=on)])
    given_by_task = contract_class("tasks", "classify").gives
    name = on or fitting(words - given_by_task)
    return task(on=name) if contract is Task else backbone(name)


def models(cls: type, on: str | Backbone | None = None, seed: int = 0) -> dict[str, Backbone | Task | Method]:
    """A method's, by role; `on` is the backbone of all. Its tasks have opinions, as trained ones would.

    A role whose backbone must go with another role's, not only give the right words, is named in the class's `tiny`.
    """
    torch.manual_seed(seed)
    named = vars(cls).get("tiny", {})
    found = {role: model(kind, cls.needs.get(role, set()), on or named.get(role), seed)
             for role, kind in roles(cls).items()}  # fmt: skip
    for each in found.values():
        if isinstance(each, Task):
            sharpen(each)
    return found


def method(stem: str, on: str | Backbone | None = None, seed: int = 0) -> Method:
    """A tiny instance, with `models`."""
    cls = contract_class("teach", stem)
    return cls(**models(cls, on, seed), **plain_arguments(cls))


@torch.no_grad()
def sharpen(task: Task) -> None:
    """Random heads are nearly uniform, and a method may refuse a teacher that knows nothing."""
    for child in task.children():
        if not isinstance(child, Backbone):
            for parameter in child.parameters():
                parameter.mul_(20.0)


def planned_models(cls: type, on: str | None = None) -> dict[str, nn.Module]:
    """Models for the roles in `needs` of a shrinker, probe or exporter, which take them by name."""
    torch.manual_seed(0)
    return {role: model(Task, words, on) for role, words in cls.needs.items()}


def plain_arguments(cls: type) -> dict[str, Any]:
    """What a constructor asks for besides models and has no default for, or what its class's `tiny` names."""
    tiny = vars(cls).get("tiny", {})
    known = {"classes": CLASSES, **tiny}
    wanted = [k for k, p in signature_of(cls).items() if (p.default is p.empty or k in tiny) and k not in roles(cls)]
    if missing := [k for k in wanted if k not in known]:
        raise LookupError(f"{cls.__name__} needs {', '.join(missing)}: name values in its `tiny`")
    return {k: known[k] for k in wanted}


def data(streams: tuple[str, ...], val: bool = False) -> Data:
    kinds = [NoiseVideos if name == "videos" else Noise for name in streams]
    sources: dict[str, Source] = {name: kind(seed=i) for i, (name, kind) in enumerate(zip(streams, kinds))}
    return Data(sources, Noise(seed=99) if val else None)


def engine(cls: type = Method, steps: int = 2, **arguments: Any) -> Engine:
    """A real engine for a few steps on the CPU, one optimiser a player."""
    optim = {player: Optim("sgd", lr=0.05) for player in vars(cls).get("players", Method.players)}
    settings = Settings(steps=steps, batch=BATCH, optim=optim, log_every=1, checkpoint_seconds=0)
    return Engine(settings, device="cpu", **arguments)


def images(count: int = 3) -> Tensor:
    """(count, 3, H, W) uint8, none of them in a source."""
    return Noise(count, seed=7).images


def given(task: Task) -> dict[str, Tensor]:
    """What its exported graph takes: `images()`, and zeros for all that is read beside them."""
    return {**task.example(3), "image": images()}


def outputs(module: nn.Module) -> dict[str, Tensor]:
    """What a backbone or task says about `images()`, by name."""
    module.eval()
    with torch.inference_mode():
        if isinstance(module, Task):
            return dict(module(given(module)))
        features = module(images()[:, None] if module.modality == "video" else images())
        return {"pooled": features.pooled} | ({"tokens": features.tokens} if features.tokens is not None else {})


def every_stem() -> list[tuple[str, str]]:
    """(folder, stem) of everything in the catalogue."""
    return [(folder, s) for folder in ("tasks", "teach", "shrink", "examine", "ship") for s in stems(folder)]
