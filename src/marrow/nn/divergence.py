"""Divergences between a student's and a teacher's predictions, one number per example.

With p = softmax(student / T) and q = softmax(teacher / T) over the last axis, (..., C) logits give (...) values. Half
precision is raised to float32 first, so that the losses are exact enough under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(q || p): what the student misses of the teacher."""
    p, q = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    return _kl(q, p)


def sym_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """(KL(q || p) + KL(p || q)) / 2, half of Jeffreys' divergence."""
    p, q = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    return (_kl(q, p) + _kl(p, q)) / 2


def js(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon: (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2; at most ln 2."""
    p, q = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    m = torch.logaddexp(p, q) - math.log(2.0)
    return (_kl(p, m) + _kl(q, m)) / 2


def soft_ce(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy -sum q log p: KL(q || p) plus the teacher's own entropy."""
    p, q = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    return -(q.exp() * p).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """-sum p log p in nats."""
    p = _log_softmax(logits, 1.0)
    return -(p.exp() * p).sum(-1)


def _kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(a || b) of log-probabilities."""
    return (a.exp() * (a - b)).sum(-1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return (exact / temperature).log_softmax(-1)
