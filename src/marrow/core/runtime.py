"""Running an exported file: a Runner answers like the task that it was made from, without building a torch model."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, TypedDict

import numpy as np
import torch
from torch import Tensor

from . import onnx_check
from .catalogue import contract_class
from .contracts import Input, Metric
from .errors import MarrowError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE = "model.onnx"


class RuntimeMeta(TypedDict):
    """What an Exporter returns; all but `input` stands under "runtime" in artifact.json.

    inputs: names of the graph's inputs, which are fields of the batch. outputs: keys of the task's answer, in order.
    calibration: the hash of the images that chose the ranges. parity: what the check against the model measured.
    """

    runtime: str
    precision: str
    task: str
    input: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    calibration: str | None
    parity: dict[str, Any]


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200


def _names(value: Any) -> bool:
    return (
        isinstance(value, list) and 0 < len(value) <= 100 and all(map(_name, value)) and len(set(value)) == len(value)
    )


# fact -> (does a value fit, what fits in words)
FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "runtime": (_name, "a name"),
    "precision": (_name, "a name"),
    "task": (_name, "a task"),
    "inputs": (_names, "a list of names"),
    "outputs": (_names, "a list of names"),
    "calibration": (lambda v: v is None or _name(v), "a hash"),
    "parity": (lambda v: isinstance(v, dict), "a mapping"),
}


class Runner:
    """`runner(batch) -> dict` with the task's keys, computed by ONNX Runtime on the CPU.

    folder: where `model.onnx` lies. meta: the content of artifact.json. threads: as many as torch uses, if not given.
    The file is opened at the first call. Predict, evaluate, bench and examine take a Runner; teach and shrink do not.
    """

    def __init__(self, folder: Path | str, meta: Mapping[str, Any], *, threads: int | None = None):
        facts = meta["runtime"] or {}
        if missing := sorted(RuntimeMeta.__annotations__.keys() - {"input"} - facts.keys()):
            raise MarrowError(f"artifact.json does not say the '{missing[0]}' of the file", where=str(folder))
        for name, (fits, words) in FACTS.items():
            if not fits(facts[name]):
                raise MarrowError(f"artifact.json: runtime.{name} is {facts[name]!r}, not {words}", where=str(folder))
        self.file, self.threads = Path(folder) / FILE, threads
        self.input = Input.from_json(meta["input"])
        self.labels: list[str] | None = meta["labels"]
        self.runtime: str = facts["runtime"]
        self.precision: str = facts["precision"]
        self.task: str = facts["task"]
        self.inputs: list[str] = facts["inputs"]
        self.outputs: list[str] = facts["outputs"]
        self._session: InferenceSession | None = None

    @property
    def session(self) -> InferenceSession:
        if self._session is None:
            session = open_session(self.file, self.threads or torch.get_num_threads())
            for kind, said, found in (("inputs", self.inputs, session.get_inputs()),
                                      ("outputs", self.outputs, session.get_outputs())):  # fmt: skip
                if unlike := sorted({i.name for i in found} ^ set(said)):
                    raise MarrowError(f"artifact.json and the file do not agree on the {kind}: '{unlike[0]}'",
                                      where=str(self.file))  # fmt: skip
            self._session = session
        return self._session

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The batch's images are uint8, or float in [0, 1], at the model's input size; any number of them."""
        given = {name: unit(self._checked(name, batch)) for name in self.inputs}
        with _in_words(self.file, "run"):
            made = self.session.run(self.outputs, given)
        for name, value in zip(self.outputs, made):
            if not (isinstance(value, np.ndarray) and value.dtype == np.float32 and value.ndim and len(value) == len(
                    next(iter(given.values())))):  # fmt: skip
                raise MarrowError(
                    f"'{name}' of the file is not one float32 answer for each image", where=str(self.file)
                )
        return {k: torch.from_numpy(v) for k, v in zip(self.outputs, made)}

    def _checked(self, name: str, batch: Mapping[str, Any]) -> Tensor:
        if name not in batch:
            raise MarrowError(
                f"the batch has no '{name}'; it has {', '.join(batch) or 'nothing'}", where=str(self.file)
            )
        x = batch[name]
        if name != "image":
            return x
        expected = (self.input.channels, *self.input.size)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected:
            raise MarrowError(f"'{name}' has shape {tuple(x.shape)}; the model takes (B, {', '.join(map(str, expected))})",
                              where=str(self.file))  # fmt: skip
        return x

    def decode(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> Any:
        return self._class.decode(out, batch)

    def metric(self) -> Metric:
        return self._class.metric()

    @property
    def fields(self) -> dict[str, str]:
        return self._class.fields

    @property
    def open_classes(self) -> bool:
        return self._class.open_classes

    @property
    def at_once(self) -> int:
        return self._class.at_once

    @property
    def _class(self) -> Any:
        """The task's class: `decode` and `metric` of a task that can be exported are static methods."""
        return contract_class("tasks", self.task, str(self.file))


def unit(images: Tensor) -> np.ndarray:
    """Images as an exported graph takes them: float32 in [0, 1]; uint8 is scaled, float is taken as it is."""
    images = images.detach().cpu()
    return (images / 255.0 if images.dtype == torch.uint8 else images.float()).contiguous().numpy()


def open_session(file: Path, threads: int) -> InferenceSession:
    """An ONNX Runtime session on the CPU with this many threads."""
    from onnxruntime import InferenceSession, SessionOptions

    if not file.is_file():
        raise MarrowError("the exported file is missing", where=str(file))
    onnx_check.check(file)
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = (
        4  # its errors come as exceptions; its warnings are about graphs that nobody can change
    )
    with _in_words(file, "open"):
        return InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@contextmanager
def _in_words(file: Path, what: str) -> Iterator[None]:
    """What ONNX Runtime raises, in a sentence."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except (state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.NotImplemented,
            state.RuntimeException, state.NoSuchFile, ValueError, RuntimeError, MemoryError) as error:  # fmt: skip
        raise MarrowError(f"ONNX Runtime cannot {what} it ({' '.join(str(error).split())[:300]})",
                          where=str(file)) from None  # fmt: skip
