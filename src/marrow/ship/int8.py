"""An int8 ONNX file of a task: uint8 activations, int8 weights per channel, ranges from real images."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Iterable

import numpy as np
from torch import Tensor

from ..core.contracts import Exporter, Task
from ..core.errors import MarrowError, ParityError
from ..core.runtime import FILE, Runner, unit
from ..core.source import Source
from . import graph
from .cpu import saturates_here
from .parity import compare, spread

if TYPE_CHECKING:
    from onnx import ModelProto

Given = Tensor | dict[str, Tensor]

LEAST_SQNR_DB = 20.0
USUAL_AGREEMENT = 0.97
BATCH = 16
# ONNX Runtime computes these on integers when what they are given is already quantized; around anything else they would
# only add conversions. Products end in float: MatMul and Gemm are followed by norms, Gelu or the task's own output.
PASS_ON = frozenset({"Relu", "LeakyRelu", "Clip", "Sigmoid", "Add", "Mul", "Concat", "Reshape", "Flatten",
                     "MaxPool", "AveragePool", "GlobalAveragePool"})  # fmt: skip


class Int8(Exporter):
    """`model.onnx` as static QDQ int8, from the task's own fp32 export.

    calibration_images: how many images of the stream `calibration` set the ranges. parity_images: how many other images
    of the stream `parity` the file and the task are compared on; where both are one small source, half of it calibrates.
    licence: what is known about the terms of the weights,
    noted in the file. Raises `ParityError` below 20 dB of signal over quantization noise; an agreement under 0.97 is
    noted.
    """

    needs = {"model": set()}
    streams = ("calibration", "parity")

    def __init__(self, *, licence: str = "", calibration_images: int = 256, parity_images: int = 512):
        self.licence, self.calibration_images, self.parity_images = licence, calibration_images, parity_images

    def export(self, models: dict[str, Task], data: Any, engine: Any, folder: Path) -> dict:
        task = graph.for_export(models["model"])
        calibration, held_out = self._samples(data.streams["calibration"], data.streams["parity"])
        file, seven_bits = Path(folder) / FILE, saturates_here()
        with TemporaryDirectory() as scratch:
            parent = Path(scratch) / "fp32.onnx"
            inputs = graph.write(graph.trace(task), parent, task, precision="fp32", licence=self.licence)["inputs"]
            given = ({name: batch[name] for name in inputs} for batch in engine.batches(calibration, task.input, BATCH))
            quantized = quantize(parent, Path(scratch), given, reduce_range=seven_bits)
            meta = graph.write(quantized, file, task, precision="int8", licence=self.licence)
            bytes_ratio = file.stat().st_size / parent.stat().st_size
        runner = Runner(folder, {"runtime": meta, "input": meta["input"], "labels": task.labels})
        found = compare(task, runner, engine.batches(held_out, task.input, BATCH))
        what = f"{'the pixels of ' if 'mask' in task.fields else ''}{found['n']} other images"
        agreement, sqnr_db = found["agreement"], found["sqnr_db"]
        kept = "" if agreement is None else f"{agreement:.1%} of {what} keep their answer"
        if not (sqnr_db is None or sqnr_db >= LEAST_SQNR_DB):
            raise ParityError(f"int8 loses too much: {sqnr_db:.1f} dB of signal over noise, at least "
                              f"{LEAST_SQNR_DB:g} are needed. {kept}", where=str(file), hint="Ship the fp32 file.")  # fmt: skip
        return {**meta, "calibration": calibration.fingerprint(), "parity": found, "bytes_ratio": bytes_ratio,
                "weight_bits": 7 if seven_bits else 8,
                "notes": [f"only {kept}"] if agreement is not None and agreement < USUAL_AGREEMENT else []}  # fmt: skip

    def _samples(self, calibration: Source, parity: Source) -> tuple[Source, Source]:
        for most in (self.calibration_images, len(calibration) // 2):
            chosen = spread(calibration, most)
            held_out = spread(parity, self.parity_images, without=chosen)
            if len(chosen) and len(held_out):
                return chosen, held_out
        raise MarrowError(f"{len(calibration)} images for calibration leave none for the check", where="int8.parity",
                          hint="Give more images.")  # fmt: skip


def quantize(parent: Path, scratch: Path, images: Iterable[Given], *, reduce_range: bool) -> ModelProto:
    """The int8 graph of an fp32 file. images: batches (B, C, H, W), uint8 or float in [0, 1]; or all inputs by name."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, result = scratch / "prepared.onnx", scratch / "int8.onnx"
    quant_pre_process(str(parent), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(result),
        _Reader(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=reduce_range,
        nodes_to_quantize=worth_it(onnx.load(prepared)),
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    return graph.bare(onnx.load(result))


def worth_it(model: ModelProto) -> list[str]:
    """The nodes that become integer: convolutions, products with stored weights, and what passes their results on.

    Measured on one VNNI core against quantizing all that ONNX Runtime can: a ViT-Ti 1.8x instead of 1.5x over fp32 and
    32 dB instead of 9 (products of two activations and the residual stream stay in float), CNNs the same.
    """
    stored = {i.name for i in model.graph.initializer}
    small: set[str] = set()
    names = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            if node.input[1] not in stored:
                continue
        elif node.op_type not in PASS_ON or not small.issuperset(set(node.input) - stored - {""}):
            continue
        names.append(node.name)
        if node.op_type not in ("Gemm", "MatMul"):
            small.update(node.output)
    return names


class _Reader:
    """Hands batches to ONNX Runtime's calibration, which asks until it gets None."""

    def __init__(self, batches: Iterable[Given]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        given = next(self.batches, None)
        if given is None:
            return None
        named = {"image": given} if isinstance(given, Tensor) else given
        return {name: unit(value) for name, value in named.items()}
