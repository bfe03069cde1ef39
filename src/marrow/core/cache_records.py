"""How a teacher's outputs are kept: one record of fixed size an example."""

from __future__ import annotations

import math
from typing import Mapping

import numpy as np
import torch
from torch import Tensor

from .errors import MarrowError

WHOLE = 1000  # the most values that are kept one by one in float32
TOP = 256  # of more logits, so many are kept where that is enough
REST = 1e-3  # it is, where all others together are less probable
SMALLEST = -6e4  # float16 ends at -65504; as a log-probability either is none

FLOAT32, FLOAT16, LOG, TOP_LOG = (
    "float32",
    "float16",
    "log-probabilities in float16",
    "largest log-probabilities in float16",
)


def kinds(outputs: Mapping[str, Tensor]) -> dict[str, tuple[str, int]]:
    """Name -> how an output (B, D) is kept, and D.

    Up to WHOLE values: float32, to the bit. Of more, the name decides. "logits" go into a softmax, so log-probabilities
    are kept, of which float16 loses least where the probability is. "top_logits" do so in a loss where the teacher's
    probability weighs each class: if the first outputs are sure enough, only the TOP largest are kept, and the rest's
    probability, which the others then share alike. Anything else is kept in float16.
    """
    found = {}
    for name, width in widths(outputs).items():
        if width <= WHOLE:
            kind = FLOAT32
        elif name == "top_logits":
            kept = outputs[name].softmax(1).topk(TOP, dim=1).values.sum(1)
            kind = TOP_LOG if 1 - kept.mean().item() < REST else LOG
        else:
            kind = LOG if name == "logits" else FLOAT16
        found[name] = kind, width
    return found


class Records:
    """Encodes named outputs (B, D) as an array of B records, and back. kinds: what `kinds` found."""

    def __init__(self, kinds: Mapping[str, tuple[str, int]]):
        self.kinds = dict(kinds)
        fields: list[tuple] = [("moved", "u1")]
        for name, (kind, width) in self.kinds.items():
            fields.append((name, "<f4" if kind == FLOAT32 else "<f2", (TOP if kind == TOP_LOG else width,)))
            if kind in (LOG, TOP_LOG):
                fields.append((f"{name} sum", "<f4"))
            if kind == TOP_LOG:
                fields += [(f"{name} index", "<u2" if width <= 2**16 else "<u4", (TOP,)), (f"{name} rest", "<f4")]
        self.dtype = np.dtype(fields)

    @property
    def bytes(self) -> int:
        """Of one example."""
        return self.dtype.itemsize

    def words(self) -> str:
        """What is kept of an example."""
        kept = [f"{self.dtype[name].shape[0]} {kind} of {name}" for name, (kind, _) in self.kinds.items()]
        return f"{' and '.join(kept)}, {self.bytes} bytes a view"

    def encode(self, outputs: Mapping[str, Tensor]) -> np.ndarray:
        """outputs: float32 on the CPU; `moved` is left at 0."""
        records = np.zeros(len(next(iter(outputs.values()))), self.dtype)
        for name, (kind, _) in self.kinds.items():
            value = outputs[name]
            if not torch.isfinite(value).all():
                raise MarrowError(f"the teacher's '{name}' is not finite", where="cached_views")
            if kind in (LOG, TOP_LOG):
                total = value.logsumexp(1)
                records[f"{name} sum"] = total.numpy()
                value = value - total[:, None]
            if kind == TOP_LOG:
                top, index = value.topk(TOP, dim=1)
                records[f"{name} index"] = index.numpy()
                records[f"{name} rest"] = value.scatter(1, index, -math.inf).logsumexp(1).numpy()
                value = top
            if kind == FLOAT16 and not torch.isfinite(value.half()).all():
                raise MarrowError(f"the teacher's '{name}' reaches {value.abs().max():.0f}, more than float16 holds",
                                  where="cached_views")  # fmt: skip
            records[name] = (value.clamp(min=SMALLEST) if kind in (LOG, TOP_LOG) else value).numpy()
        return records

    def decode(self, records: np.ndarray) -> dict[str, Tensor]:
        """float32 (B, D) by name."""
        outputs = {}
        for name, (kind, width) in self.kinds.items():
            value = torch.from_numpy(records[name].astype(np.float32))
            if kind == TOP_LOG:
                share = _column(records[f"{name} rest"]) - math.log(width - TOP)
                index = torch.from_numpy(records[f"{name} index"].astype(np.int64))
                value = share.repeat(1, width).scatter_(1, index, value)
            if kind in (LOG, TOP_LOG):
                value += _column(records[f"{name} sum"])
            outputs[name] = value
        return outputs


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))[:, None]


def widths(outputs: Mapping[str, Tensor], where: str = "cached_views") -> dict[str, int]:
    """The number of values an example has of each output; raises for what is not (B, D)."""
    for name, value in outputs.items():
        if value.ndim != 2:
            shape = " x ".join(map(str, value.shape[1:])) or "no"
            raise MarrowError(f"the teacher's '{name}' has {shape} values an example, and only vectors are stored, "
                              "not maps or tokens", where=where, hint="Leave cached_views out, or that term.")  # fmt: skip
    return {name: value.shape[1] for name, value in outputs.items()}
