"""Random numbers that are seeded, kept and given back, so that the same step always draws the same."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed torch on every device, numpy and random with one number of up to 63 bits."""
    torch.manual_seed(seed)
    seed_host(seed)


def seed_host(seed: int) -> None:
    """As `seed_all`, but torch's CPU generator only: cheap enough to be called for every example."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the state outside stays as it was."""
    host, device, python = torch.default_generator.get_state(), _device_state(), random.getstate()
    # numpy's state takes 30 us to read and as long to write; its generator is swapped instead.
    numpy = np.random.mtrand.get_bit_generator()
    np.random.mtrand.set_bit_generator(np.random.MT19937(0))
    try:
        yield
    finally:
        torch.default_generator.set_state(host)
        if device is not None:
            torch.cuda.set_rng_state(device)
        np.random.mtrand.set_bit_generator(numpy)
        random.setstate(python)


def torch_state() -> tuple:
    """torch's generators alone, for a step that may have to be tried again; half a microsecond without a GPU."""
    return torch.default_generator.get_state(), _device_state()


def restore_torch(state: tuple) -> None:
    torch.default_generator.set_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def state() -> dict:
    """All generators of this process as tensors and numbers."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return {
        "torch": torch.default_generator.get_state(),
        "device": _device_state(),
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
    }


def restore(state: dict) -> None:
    python, numpy = state["python"], state["numpy"]
    restore_torch((state["torch"], state["device"] if torch.cuda.is_initialized() else None))
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state({
        "bit_generator": "MT19937",
        "state": {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]},
        "has_gauss": numpy["has_gauss"],
        "gauss": numpy["gauss"],
    })  # fmt: skip


def _device_state() -> torch.Tensor | None:
    return torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
