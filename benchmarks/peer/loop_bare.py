"""A tiny net, its batches, and the bare PyTorch loop over them; what libraries are measured against."""

import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH, WIDTH, LR, MOMENTUM, DECAY = 8, 64, 1e-3, 0.9, 0.999
LOG_EVERY, SAVE_SECONDS = 10, 1.0  # where logs, checkpoints and an average of the weights (by DECAY) are on


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, foreach=True)


class Timed:
    """Batches, and how long they were waited for."""

    def __init__(self, batches):
        self.batches, self.seconds = batches, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        began = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - began
        return batch


def rows():
    """(x, label) without end, drawn one by one by PyTorch's loader."""
    draw = torch.Generator().manual_seed(0)
    kept = TensorDataset(torch.randn(256, WIDTH, generator=draw), torch.randint(0, 10, (256,), generator=draw))
    while True:
        yield from DataLoader(kept, BATCH, shuffle=True, generator=draw)


def bare(model, batches, steps):
    """Seconds for so many steps without the wait for batches."""
    optimizer, batches = sgd(model), Timed(batches)
    began = time.perf_counter()
    for _ in range(steps):
        x, label = next(batches)
        loss = F.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began - batches.seconds


def in_turns(arms, rounds, steps):
    """Microseconds a step of each arm, a number a round; what warms them up is not counted."""
    torch.set_num_threads(1)
    for arm in arms.values():
        arm(net(), rows(), max(1, steps // 10))
    found = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            found[name].append(1e6 * arm(net(), rows(), steps) / steps)
    return found
