"""Layer normalisation over the channels that a mask leaves on."""

from __future__ import annotations

from torch import Tensor


def masked_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, eps: float = 1e-6) -> Tensor:
    """Of x (B, N, C) with a mask (B, 1, C) of zeros and ones; what comes out is zero where the mask is.

    Mean, variance and gradient are those of a net that has only the channels left on.
    """
    x, count = x * mask, mask.sum(-1, keepdim=True)
    mean = x.sum(-1, keepdim=True) / count
    centred = (x - mean) * mask  # two passes: the difference of the mean square and the squared mean cancels digits
    variance = centred.square().sum(-1, keepdim=True) / count
    return (centred * (variance + eps).rsqrt() * weight + bias) * mask
