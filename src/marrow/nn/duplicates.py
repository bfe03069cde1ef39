"""Near-duplicate images: a perceptual hash, and its combination with embeddings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def difference_hash(image: Tensor) -> Tensor:
    """Images (B, C, H, W), any range -> (B, 64) bool: is a cell of the 8 x 9 grey thumbnail brighter than its left one.

    Brighter by 2 % of the thumbnail's contrast at least, or the noise of flat areas would be hashed.
    """
    grey = image.float().mean(1, keepdim=True)
    small = F.interpolate(grey, size=(8, 9), mode="bilinear", antialias=True)[:, 0]  # (B, 8, 9)
    contrast = small.amax((1, 2), keepdim=True) - small.amin((1, 2), keepdim=True)
    return (small.diff(dim=2) > 0.02 * contrast).flatten(1)


def near_duplicates(
    a: Tensor, b: Tensor, cosine: float, *, a_hash: Tensor, b_hash: Tensor, bits: int, chunk: int = 4096
) -> Tensor:
    """Which rows of a (N, D) have a near-duplicate among b (M, D): (N,) bool.

    Both must agree: embeddings at least `cosine` alike and hashes at most `bits` apart. Embeddings alone would call every
    confident image of a class the same, hashes alone any two smooth ones. `chunk` rows of b are compared at a time.
    """
    found = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    a, a_hash = F.normalize(a.float(), dim=-1), a_hash.float()
    for start in range(0, len(b), chunk):
        alike = a @ F.normalize(b[start : start + chunk].float(), dim=-1).T >= cosine
        other = b_hash[start : start + chunk].float()
        apart = a_hash @ (1 - other).T + (1 - a_hash) @ other.T  # (N, chunk) Hamming distance
        found |= (alike & (apart <= bits)).any(-1)
    return found
