"""The five contracts: Backbone, Task, Method, Shrinker, Probe, and what passes between them.

`docs/design.md` tells why they look like this. A file in `teach/`, `shrink/`, `examine/` or `ship/` that defines one
class of its folder's contract is found by its name alone; nothing is registered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from typing import Any, Callable, ClassVar, Mapping, NamedTuple, Protocol, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .errors import MarrowError
from .table import Table


class Features(NamedTuple):
    """What a backbone says about a batch."""

    pooled: Tensor  # (B, D); graphs (G, D); causal language models: the last real token
    maps: tuple[Tensor, ...] = ()  # finest first: (B, C, H, W); video (B, C, T, H, W); voxels (B, C, Z, Y, X)
    tokens: Tensor | None = None  # (B, N, D): patches, words, nodes, points
    mask: Tensor | None = None  # (B, N), True = real


@dataclasses.dataclass(frozen=True)
class Input:
    """What a model expects; written into every artifact, so that preprocessing travels with the weights.

    Image models take uint8, or float in [0, 1], at `size` (height, width) and normalise with `mean` and `std`
    themselves. `resize` says how a picture of another size gets there: "crop" scales the short side to size / crop_pct
    and cuts the centre, "squash" ignores the aspect ratio.
    """

    modality: str = "image"
    size: tuple[int, int] = (224, 224)
    channels: int = 3
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: str = "crop"
    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    def to_json(self) -> dict:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Input":
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


class Backbone(nn.Module):
    """A batch in, `Features` out.

    spec: enough to rebuild the untrained module (`core/spec.py`). dim: width of `pooled`. gives: the words a method may
    ask for ("pooled", "maps", "tokens", "qkv", "relu", ...). input: what it expects, see `Input`.
    """

    spec: dict
    dim: int
    gives: frozenset[str]
    modality: str = "image"
    stages: int = 0  # how many maps may be asked for
    concatenated: ClassVar[bool] = False  # its features are those of several nets, one net after another
    input: Input
    classifier: tuple[Tensor, Tensor | None] | None = None  # (weight, bias) that came with pre-trained weights
    classifier_labels: list[str] | None = None  # names of its classes, when known

    def features(self, x: Any, *, maps: Sequence[int] = ()) -> Features:
        """x: a tensor, or the dict of fields the modality needs. `maps` asks for stages, 0 the finest, -1 the last."""
        raise NotImplementedError

    def forward(self, x: Any, *, maps: Sequence[int] = ()) -> Features:
        return self.features(x, maps=maps)

    @property
    def root(self) -> nn.Module:
        """The module at which inner names ("blocks.8.attn.qkv") and saved weights start."""
        return self

    def checkpoint_gradients(self) -> None:
        """Trade compute for memory in training; a backbone without the means says so."""
        raise MarrowError(f"{type(self).__name__} cannot checkpoint gradients", where="checkpoint_gradients")


class Metric(Protocol):
    def update(self, decoded: Any, batch: Mapping[str, Any]) -> None: ...

    # rows {"metric", "value", "n", ...}, with "class", its number, where one is about a class; the first is the headline
    def compute(self) -> list[dict]: ...


class Task(nn.Module):
    """Head + losses + decode + metric over the fields of a batch.

    Every constructor argument is kept as an attribute of the same name, as in scikit-learn: `spec` reads them there.
    """

    fields: ClassVar[dict[str, str]] = {}
    gives: frozenset[str] = frozenset()
    exempt: ClassVar[dict[str, str]] = {}
    at_once: ClassVar[int] = 256  # examples that are measured together; fewer where answers are large
    labels: list[str] | None = None  # names of the classes, when known
    open_classes: ClassVar[bool] = False  # it may be asked about classes that training has not seen

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Named and weighted; the only part that needs the label fields."""
        raise NotImplementedError

    def decode(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> Any:
        """What a user wants: class indices with probabilities, boxes in pixels, bits."""
        raise NotImplementedError

    def metric(self) -> Metric:
        raise NotImplementedError

    def exported(self) -> nn.Module | dict[str, nn.Module]:
        """Tensors in, a fixed tuple of tensors out."""
        raise NotImplementedError

    def example(self, count: int = 1) -> dict[str, Tensor]:
        """Zeros in the shape of what the exported graph takes, in its order: the picture, and what is read beside it."""
        return {"image": torch.zeros(count, self.input.channels, *self.input.size)}

    @property
    def spec(self) -> dict:
        return self.__dict__.get("_spec") or {"task": stem_of(type(self)), **spec_of_arguments(self)}

    @spec.setter
    def spec(self, spec: dict) -> None:
        self.__dict__["_spec"] = spec

    @property
    def input(self) -> Input:
        """That of its first backbone."""
        return next(m for m in self.children() if isinstance(m, Backbone)).input


class Step(NamedTuple):
    losses: dict[str, Tensor]  # weighted; the engine sums them
    logs: dict[str, Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where training stands: the step about to be taken, and a generator that all ranks share at that step."""

    step: int
    epoch: int
    progress: float  # in [0, 1]
    seed: int = 0

    @property
    def rng(self) -> torch.Generator:
        """Seeded from (seed, step) at every access, so a resumed run draws what the uninterrupted one drew."""
        return torch.Generator().manual_seed(seed_from(self.seed, "clock", self.step))


class Method(nn.Module):
    """A way to train: `forward(batch, clock, player)` returns named, weighted losses."""

    needs: ClassVar[dict[str, set[str]]] = {}  # role -> words of `gives`
    streams: ClassVar[tuple[str, ...]] = ("train",)  # () = no data; two or more: the batch is keyed by stream
    apart: ClassVar[tuple[str, ...]] = ()  # streams that must not share an example
    players: ClassVar[tuple[str, ...]] = ("main",)  # alternating optimisers
    reads_labels: bool = True  # False: those that the data has are ignored
    per_sample: bool = True  # the loss is a mean over examples: micro-batches may be split
    gives: frozenset[str] = frozenset()  # "embedding-loss": `forward` is `score` of what `embed` says, see below
    exempt: ClassVar[dict[str, str]] = {}  # common check -> the reason why it does not hold here

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        raise NotImplementedError

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The first half of a `forward` that gives "embedding-loss": the answers (B, ...) of what is trained, by name."""
        raise NotImplementedError

    def score(self, z: dict[str, Tensor], batch: Mapping[str, Any], clock: Clock) -> Step:
        """The second half: the losses of what `embed` said, or of its embeddings (B, D) cut to their first numbers."""
        raise NotImplementedError

    def groups(self) -> dict[str, list[Parameter]]:
        """Which parameters each player's optimiser moves."""
        return {"main": [p for p in self.parameters() if p.requires_grad]}

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the frozen teachers say about the batch of any stream: float32 (B, ...) by name, a row an example.

        With `cached_views` it is asked once for each view of an image, stored, and read back. So a row depends on the
        example's view, on nothing else of the batch and not on the clock; class maps and temperatures come after it. An
        argument that changes it is part of its name.
        """
        return {}

    def taught(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The targets of a batch for `forward`: stored ones where there are, else the teachers are asked."""
        if "targets" in batch:
            return batch["targets"]
        with torch.no_grad():
            return self.targets(batch)

    def after_step(self, clock: Clock) -> None:
        """Momentum copies, queues, thresholds; what it keeps between steps lives in buffers."""

    def remarks(self, data: Any) -> list[str]:
        """Sentences about the data that a user should read before a long training."""
        return []

    def views(self) -> Callable[[dict], dict] | None:
        """A picklable callable from one example to its views; None: the model's own preprocessing."""
        return None

    def fit(self, engine: Any, data: Any) -> None:
        """The one escape for a method that must own its loop; it calls `engine.train` inside."""
        engine.train(self, data)

    def product(self) -> nn.Module | Table:
        """What is kept: a backbone, a task, or data."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of structure, as JSON values. Replayed when an artifact is loaded.

    `apply` is deterministic and needs no data, no tracing, no third-party library; it works on the meta device.
    """

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        raise NotImplementedError


class Cut(NamedTuple):
    edit: Edit
    weights: dict[str, Tensor] | None = None  # the complete new state dict when values change
    rows: Sequence[dict] = ()  # what a search looked at, kept as rows.json beside the weights


class Shrinker:
    """Looks at models (and data) and returns a Cut."""

    needs: ClassVar[dict[str, set[str]]] = {}
    streams: ClassVar[tuple[str, ...]] = ()  # the data streams that `plan` reads
    by_shape: ClassVar[bool] = False  # `plan` reads shapes alone, no data and no weights: the fit pass carries it out
    exempt: ClassVar[dict[str, str]] = {}

    def plan(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Cut:
        raise NotImplementedError


class Report(NamedTuple):
    rows: list[dict]
    tensors: dict[str, Tensor] = {}


class Probe:
    """Models and data in, a Report out; changes nothing."""

    needs: ClassVar[dict[str, set[str]]] = {}
    streams: ClassVar[tuple[str, ...]] = ()
    splits: ClassVar[Mapping[str, str]] = {}  # stream -> its split on the command line; by default that of its name
    hears_answers: ClassVar[bool] = False  # it holds what a task says against labels, not only its features
    exempt: ClassVar[dict[str, str]] = {}

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        raise NotImplementedError


class Exporter:
    """Turns a model into a file for a runtime; the contract behind the verb `ship`."""

    needs: ClassVar[dict[str, set[str]]] = {}
    streams: ClassVar[tuple[str, ...]] = ()

    def export(self, models: dict[str, Any], data: Any, engine: Any, folder: Any) -> dict:
        """Write `model.onnx` into the folder; return the fields of `core.runtime.RuntimeMeta`.

        A role is a module, or a `Runner` where the exporter starts from an exported file.
        """
        raise NotImplementedError


def stem_of(cls: type) -> str:
    """The file name that is a class's registration."""
    return cls.__module__.rsplit(".", 1)[-1]


def seed_from(*parts: Any) -> int:
    """63 bits from any mix of plain values; the same on every machine and in every process."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def signature_of(cls: type) -> dict[str, inspect.Parameter]:
    """Constructor parameters without self."""
    return {k: p for k, p in inspect.signature(cls).parameters.items()}


def spec_of_arguments(module: nn.Module) -> dict[str, Any]:
    """The constructor arguments of a task, read back from its attributes; modules become their specs."""

    def plain(value: Any) -> Any:
        return value.spec if isinstance(value, nn.Module) else list(value) if isinstance(value, tuple) else value

    return {name: plain(getattr(module, name)) for name in signature_of(type(module))}
