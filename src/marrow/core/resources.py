"""What a training takes of the machine: memory, and processes that read data."""

from __future__ import annotations

import ctypes
import os
import sys

KEPT = 2**30  # bytes
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names that <malloc.h> gives to these numbers


def usual_workers(device_type: str, cores: int) -> int:
    """How many processes should read the data of a training on this many cores.

    On two cores that also train (resnet10t at 64 px, JPEG files of 320x256) one worker was 3 to 30 % faster than none, and
    a second one no better. More cores, and a GPU that leaves all of them to the workers, were not measured.
    """
    if device_type == "cpu":
        return min(cores // 2, 4)
    return min(cores, 8)


def keep_freed_memory() -> None:
    """Lets a training on a CPU take the memory of one step again in the next.

    glibc gives large blocks back to the system, which clears every page when they are asked for again: 20,000 pages a step and
    8 % of its time for resnet10t with a head of 5,000 classes. Which blocks depends on what was freed before. Settings
    of the user's own and other allocators stay as they are.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ
    if not sys.platform.startswith("linux") or own:
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if set_option is not None:
        set_option(TRIM_THRESHOLD, KEPT)
        set_option(MMAP_THRESHOLD, KEPT)


def peak_bytes() -> int:
    """The most memory so far: what tensors took on the GPU where one is used, else what this process held."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows, which has no other quick way to ask

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
