"""What a training takes of the machine: memory, and processes that read data."""

from __future__ import annotations

import sys


def usual_workers(device_type: str, cores: int) -> int:
    """How many processes should read the data of a training on this many cores.

    On two cores that also train (resnet10t at 64 px, JPEG files of 320x256) one worker was 3 to 30 % faster than none, and
    a second one no better. More cores, and a GPU that leaves all of them to the workers, were not measured.
    """
    if device_type == "cpu":
        return min(cores // 2, 4)
    return min(cores, 8)


def peak_bytes() -> int:
    """The most memory so far: what tensors took on the GPU where one is used, else what this process held."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows, which has no other quick way to ask

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024
