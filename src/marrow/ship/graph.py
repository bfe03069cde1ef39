"""From a task to an ONNX file: one file, any batch size, without traces of the machine that wrote it."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..core.contracts import Task, stem_of
from ..core.errors import MarrowError
from ..core.interrupt import held
from ..core.runtime import RuntimeMeta
from .gates import plain_gates

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20  # the first with Gelu as one node; ONNX Runtime 1.17 and later read it


def for_export(task: Task) -> Task:
    """A copy on the CPU in eval mode, so that exporting changes nothing about the task that is given."""
    if not isinstance(task, Task):
        raise MarrowError(f"a task is exported, this is a {type(task).__name__}", where="export",
                          hint="Put a task on the backbone first, such as classify.")  # fmt: skip
    if task.input.modality != "image":
        raise MarrowError(f"only image tasks can be exported, this one takes '{task.input.modality}'", where="export")
    return deepcopy(task).cpu().float().eval()


@torch.no_grad()
def trace(task: Task) -> ModelProto:
    """The graph of `task.exported()`: image (B, C, H, W) float32 in [0, 1], and what the task reads beside it -> the
    task's answer under its own keys.
    """
    given = task.example(2)
    module = task.exported()
    if not isinstance(module, nn.Module):
        raise MarrowError(f"{stem_of(type(task))} exports {len(module)} graphs, one fits into a file", where="export")
    keys = list(task(given))
    try:
        with held():
            program = torch.onnx.export(
                module.eval(),
                tuple(given.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(given),
                output_names=keys,
                dynamic_shapes=({0: torch.export.Dim("batch")},) * len(given),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise MarrowError(f"torch cannot export this {stem_of(type(task))}: {reason}", where="export") from error
    if program is None:
        raise MarrowError(f"torch could not export this {stem_of(type(task))}", where="export")
    return bare(plain_gates(program.model_proto))


def bare(model: ModelProto) -> ModelProto:
    """Without what the writing tools leave behind: inner shapes, which every reader infers again, operator sets of which
    no node comes, and notes on every node, which hold the paths of this machine's files.
    """
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    used = {node.domain for node in graph.node}
    for unused in [o for o in model.opset_import if o.domain not in used]:
        model.opset_import.remove(unused)
    return model


def write(model: ModelProto, file: Path, task: Task, *, precision: str, licence: str) -> RuntimeMeta:
    """Check the graph and put it in place in one move; what a reader of the file alone must know stands in its metadata.

    That is JSON under "marrow.task", "marrow.input" (the preprocessing), "marrow.labels" and so on.
    """
    import onnx

    stem, input = stem_of(type(task)), task.input.to_json()
    noted = {"task": stem, "input": input, "labels": task.labels, "precision": precision}
    noted |= {"licence": licence} if licence else {}
    onnx.helper.set_model_props(model, {f"marrow.{k}": json.dumps(v) for k, v in noted.items()})
    model.producer_name, model.producer_version = "marrow", ""
    onnx.checker.check_model(model, full_check=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    onnx.save(model, temporary)
    os.replace(temporary, file)
    return {"runtime": "onnxruntime", "precision": precision, "task": stem, "input": input,
            "inputs": [i.name for i in model.graph.input], "outputs": [o.name for o in model.graph.output],
            "calibration": None, "parity": {}}  # fmt: skip
