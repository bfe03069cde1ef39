"""Features of a student against whitened ones of its teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def whitened_smooth_l1(student: Tensor, teacher: Tensor, beta: float = 2.0) -> Tensor:
    """Mean smooth-L1 of features (..., D) to the teacher's after a LayerNorm without weights.

    The whitening and beta are those of Wei et al., "Contrastive Learning Rivals Masked Image Modeling in Fine-tuning via
    Feature Distillation", 2022: teachers differ in how large their features are, and a few channels often outweigh all.
    """
    target = F.layer_norm(teacher.float(), teacher.shape[-1:])
    return F.smooth_l1_loss(student.float(), target, beta=beta)


def whitened_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of features (..., D) to the teacher's after a LayerNorm without weights."""
    return F.mse_loss(student.float(), F.layer_norm(teacher.float(), teacher.shape[-1:]))
