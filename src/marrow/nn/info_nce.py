"""InfoNCE: an example's two views are to find each other among all views of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import MarrowError
from .gathered import gathered, own_rows


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    """-log of the share that exp(cosine / temperature) of a row of a (B, D) with its row of b has among all rows of b.

    The mean over both directions and the rows; one view never meets its own kind. With several processes the rows of all
    are compared, and the mean of what each returns is the loss of the joint batch.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = unit(a), unit(b)
        every_a, every_b = gathered(a), gathered(b)
        _check(len(every_a))
        right = own_rows(len(a)) + torch.arange(len(a), device=a.device)
        return (F.cross_entropy(a @ every_b.mT / temperature, right)
                + F.cross_entropy(b @ every_a.mT / temperature, right)) / 2  # fmt: skip


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
    """As `info_nce`, but a row is compared with all other rows of both views (SimCLR, eq. 1)."""
    with torch.autocast(a.device.type, enabled=False):
        a, b = unit(a), unit(b)
        every = torch.cat([gathered(a), gathered(b)])
        joint = len(every) // 2
        _check(joint)
        place = own_rows(len(a)) + torch.arange(len(a), device=a.device)
        place = torch.cat([place, place + joint])  # in `every`, of the rows of a and then of b
        logits = torch.cat([a, b]) @ every.mT / temperature
        logits = logits.scatter(1, place[:, None], -torch.inf)  # a row is no candidate of its own
        return F.cross_entropy(logits, (place + joint) % (2 * joint))


def unit(x: Tensor) -> Tensor:
    """Rows of length one, in float32 at least."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1)


def _check(joint: int) -> None:
    if joint < 2:
        raise MarrowError(f"a batch of {joint} has no other examples to tell its own apart from; 2 or more are needed",
                          where="data.batch")  # fmt: skip
