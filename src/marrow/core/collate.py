"""Batches as nested dicts: made of examples, moved to a device, cut into parts."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .errors import MarrowError


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Examples -> one batch with the fields that all of them have.

    Tensors of one shape are stacked and numbers become a tensor; strings, lists and tensors of unequal shapes stay a
    list with one entry an example; dicts are collated inside.
    """
    names = [k for k in examples[0] if all(k in e for e in examples)] if examples else []
    return {name: _column([e[name] for e in examples]) for name in names}


def _column(values: list) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.stack(values) if all(v.shape == first.shape for v in values) else values
    if isinstance(first, (bool, int, float)):
        return torch.tensor(values)
    return collate(values) if isinstance(first, Mapping) else values


def move(batch: Any, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Any:
    """The batch with every tensor on the device; images (B, C, H, W) in the memory format."""
    if isinstance(batch, Tensor):
        form = memory_format if batch.ndim == 4 else torch.preserve_format
        return batch.to(device, non_blocking=True, memory_format=form)
    if isinstance(batch, Mapping):
        return {k: move(v, device, memory_format) for k, v in batch.items()}
    return [move(v, device, memory_format) for v in batch] if isinstance(batch, list) else batch


def parts_of(sizes: Mapping[str, int], micro_batch: int | None) -> int:
    """Into how many parts a step's batch is cut so that no more than `micro_batch` examples go through at once.

    Several streams are cut alike, so that every part weighs the same: the number divides each of their batches.
    """
    total = sum(sizes.values())
    parts = -(-total // micro_batch) if micro_batch else 1
    if len(sizes) > 1:
        while parts <= min(sizes.values()) and any(size % parts for size in sizes.values()):
            parts += 1
    if parts > max(1, min(sizes.values(), default=1)):
        raise MarrowError(f"batch {dict(sizes)} cannot be cut into equal parts of at most {micro_batch} examples.",
                          where="micro_batch", hint="Choose batches with a common factor.")  # fmt: skip
    return parts


def split(batch: Any, sizes: Mapping[str, int], parts: int) -> Iterator[tuple[Any, float]]:
    """The parts of a batch, each with its share of the examples; fields of several streams are cut stream by stream."""
    for part in range(parts):
        cuts = {s: slice(part * n // parts, (part + 1) * n // parts) for s, n in sizes.items()}
        share = sum(c.stop - c.start for c in cuts.values()) / sum(sizes.values())
        if len(sizes) > 1:
            yield {s: _cut(batch[s], cuts[s], n, s) for s, n in sizes.items()}, share
        else:
            ((name, size),) = sizes.items()
            yield _cut(batch, cuts[name], size, name), share


def _cut(field: Any, part: slice, size: int, name: str) -> Any:
    if isinstance(field, Mapping):
        return {k: _cut(v, part, size, f"{name}.{k}") for k, v in field.items()}
    if not isinstance(field, (Tensor, list)) or len(field) != size:
        raise MarrowError(f"field '{name}' does not hold one entry for each of the {size} examples, so it cannot be "
                          "cut into micro-batches", where="micro_batch")  # fmt: skip
    return field[part]
