"""Changing the style of feature maps: the mean and deviation that each channel of an image has over its places.

Maps are (B, C, H, W), statistics (B, C, 1, 1). Statistics and the changed map are computed in float32 at least, and the
map comes back in the type that it had: the variance of half-precision values would fall below `EPS`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

EPS = 1e-6


class _Reverse(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return -ctx.weight * grad, None


class _Statistics(Function):
    """Written out because autograd's own goes over the map twice as often; maps are large and statistics small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        variance, mean = torch.var_mean(x, (2, 3), keepdim=True)
        std = (variance + EPS).sqrt()
        ctx.save_for_backward(x, mean, std)
        return mean, std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_std: Tensor) -> Tensor:  # type: ignore[override]
        x, mean, std = ctx.saved_tensors
        places = x.shape[2] * x.shape[3]
        slope = by_std / (std * (places - 1))
        return torch.addcmul(by_mean / places - mean * slope, x, slope)


class _Affine(Function):
    """x * scale + shift, with one pass over the map for each gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, scale)
        return torch.addcmul(shift, x, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, scale = ctx.saved_tensors
        rows = grad.reshape(scale.numel(), 1, -1), x.reshape(scale.numel(), -1, 1)
        return grad * scale, torch.bmm(*rows).view_as(scale), grad.sum((2, 3), keepdim=True)


def gradient_reverse(x: Tensor, weight: float) -> Tensor:
    """x, through which the gradient goes back times -weight: what descends behind it ascends before it."""
    return _Reverse.apply(x, weight)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and sqrt(unbiased variance + eps), of each channel of each image."""
    exact = x if x.dtype == torch.float64 else x.float()
    return _Statistics.apply(exact)


def spread(value: Tensor) -> Tensor:
    """How far a statistic (B, C, 1, 1) differs between the images: sqrt(unbiased variance + eps), (1, C, 1, 1)."""
    return (value.var(0, keepdim=True) + EPS).sqrt()


def restyled(x: Tensor, mean: Tensor, std: Tensor, new_mean: Tensor, new_std: Tensor) -> Tensor:
    """(x - mean) / std * new_std + new_mean, as one product and one sum over the map."""
    scale = new_std / std
    exact = x if x.dtype == scale.dtype else x.to(scale.dtype)
    return _Affine.apply(exact, scale, new_mean - mean * scale).to(x.dtype)


def perturbed(x: Tensor, mean_scale: Tensor, std_scale: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
    """The map with mean + noise * mean_scale and std + noise * std_scale; scales (1, C, 1, 1), noise (B, C, 1, 1) each."""
    mean, std = statistics(x)
    return restyled(x, mean, std, mean + noise[0] * mean_scale, std + noise[1] * std_scale)


def dsu(x: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
    """Perturbed by what the batch itself varies (Li et al., ICLR 2022); the gradient flows through that too."""
    mean, std = statistics(x)
    return restyled(x, mean, std, mean + noise[0] * spread(mean), std + noise[1] * spread(std))


def towards(direction: Tensor, intensity: Tensor) -> Tensor:
    """`direction` (1, C, 1, 1) with the length over the channels that `intensity` has."""
    return direction / direction.norm(dim=1, keepdim=True).clamp(min=EPS) * intensity.norm(dim=1, keepdim=True)


def mixstyle(x: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """Statistics mixed with those of another image of the batch (Zhou et al., ICLR 2021), without gradient.

    share (B, 1, 1, 1): of the image's own statistics. partner (B,): the index of the other image.
    """
    mean, std = (s.detach() for s in statistics(x))
    return restyled(x, mean, std, share * mean + (1 - share) * mean[partner], share * std + (1 - share) * std[partner])


def efdmix(x: Tensor, share: Tensor, partner: Tensor) -> Tensor:
    """As mixstyle for the whole distribution (Zhang et al., CVPR 2022): the k-th largest value meets the other's k-th."""
    flat = x.flatten(2)
    ordered, place = flat.detach().sort(dim=-1)
    theirs = torch.empty_like(ordered).scatter_(-1, place, ordered[partner])
    mixed = flat + (1 - share.flatten(1)[..., None]).to(x.dtype) * (theirs - flat.detach())
    return mixed.view_as(x)
