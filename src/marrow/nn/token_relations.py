"""Relations between the tokens of a picture, as the heads of an attention see them, and how far two nets' are apart."""

from __future__ import annotations

import math
from typing import Any, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .block_attention import Attended

MOST = 2**26  # numbers of one relation map at once: 256 MiB in float32


def relation_logits(a: Tensor, b: Tensor) -> Tensor:
    """a b^T / sqrt(d) of (B, H, N, d): (B, H, N, N), in float32 at least."""
    a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
    return a @ b.mT / math.sqrt(a.shape[-1])


def token_relations(tokens: Attended, kinds: Sequence[str] = ("qk", "vv")) -> dict[str, Tensor]:
    """Softmax of the logits, (B, H, N, N) by kind: "qk" is the attention map, "vv" relates values to values."""
    return {kind: relation_logits(getattr(tokens, kind[0]), getattr(tokens, kind[1])).softmax(-1) for kind in kinds}


def relation_kl(student: Attended, teacher: Attended, kind: str, most: int = MOST) -> Tensor:
    """KL(teacher || student) of one kind of relation, the mean over pictures, heads and tokens.

    The gradient of a divergence after a softmax is the difference of the two distributions, so it is taken in the
    forward pass, a few heads at a time: no map of all heads is ever kept, `most` numbers at once.
    """
    a, b = (getattr(student, part) for part in kind)
    ta, tb = (getattr(teacher, part) for part in kind)
    return _RelationKL.apply(a, b, ta, tb, most)


def relation_mse(student: Attended, teacher: Attended, kind: str) -> Tensor:
    """The mean squared difference of one kind of relation before its softmax; both nets' whole maps are kept for it."""
    with torch.autocast(student.q.device.type, enabled=False):
        return F.mse_loss(
            *(relation_logits(getattr(net, kind[0]), getattr(net, kind[1])) for net in (student, teacher))
        )


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, ta: Tensor, tb: Tensor, most: int) -> Tensor:
        images, heads, tokens, width = a.shape
        at_once = max(1, most // (images * tokens**2))
        total, to_a, to_b = 0.0, torch.empty_like(a), torch.empty_like(b)
        with torch.autocast(a.device.type, enabled=False):
            for first in range(0, heads, at_once):
                some = slice(first, first + at_once)
                student = relation_logits(a[:, some], b[:, some]).log_softmax(-1)
                teacher = relation_logits(ta[:, some], tb[:, some]).log_softmax(-1)
                target = teacher.exp()
                total = total + (target * (teacher - student)).sum()
                error = (student.exp() - target) / (math.sqrt(width) * images * heads * tokens)
                to_a[:, some] = error @ b[:, some].to(error.dtype)
                to_b[:, some] = error.mT @ a[:, some].to(error.dtype)
        ctx.save_for_backward(to_a, to_b)
        return torch.as_tensor(total) / (images * heads * tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple:
        to_a, to_b = ctx.saved_tensors
        return above * to_a, above * to_b, None, None, None
