"""What to do when a step does not fit into the memory of its device."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import torch
from torch import nn

from .collate import split
from .errors import MarrowError
from .training import Training


def fails(step: Callable[[Any], Any], batch: Any) -> bool:
    """Whether a step runs out of memory."""
    try:
        step(batch)
    except torch.OutOfMemoryError:
        return True
    return False


def clear(run: Training) -> None:
    """Let go of half-made gradients and of what the allocator still holds for them."""
    run.drop_gradients()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def largest(step: Callable[[Any], Any], run: Training, batch: Any) -> int:
    """How many examples of a batch fit at once, tried by halving; 0 if not even one does. The run is over after this."""
    run.parts, parts = 1, 2
    while parts <= run.examples:
        part, share = next(split(batch, run.sizes, parts))
        failed = fails(step, part)
        clear(run)
        if not failed:
            return round(share * run.examples)
        parts *= 2
    return 0


def too_large(run: Training, fits: int) -> MarrowError:
    """The error for a batch that cannot be cut."""
    given = run.examples * run.world
    why = "" if run.method.per_sample else f", and {type(run.method).__name__} needs all of it at once"
    hint = f"A batch of {fits} fits." if fits else "Not even one example fits."
    return MarrowError(f"a batch of {given} does not fit into the memory{why}.", where="data.batch", hint=hint)


@contextmanager
def buffers_kept(method: nn.Module) -> Iterator[None]:
    """Buffers are put back afterwards: a trial step leaves no mark in statistics and queues."""
    kept = [b.clone() for b in method.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(method.buffers(), kept):
                buffer.copy_(value)
