"""Near-duplicate images: a perceptual hash, its combination with embeddings, and groups of images that look alike."""

from __future__ import annotations

from typing import Iterator

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


def alike_groups(thumbnails: Tensor, bits: int = 4) -> Tensor:
    """Grey thumbnails (N, H, W) uint8 -> (N,) long: the first of those that show the same picture, re-encoded or resized.

    Two are alike when their hashes are at most `bits` apart and their pixels correlate: twelve times more closely than
    an image and its nearest neighbour usually do in this set (handwritten ones are close), by 0.98 at least and 0.998 at
    most. Flat images correlate with nothing.
    """
    if not len(thumbnails):
        return torch.empty(0, dtype=torch.long)
    distinct, member = thumbnails.flatten(1).unique(dim=0, return_inverse=True)
    pixels = distinct.float()
    pixels = F.normalize(pixels - pixels.mean(1, keepdim=True), dim=1)  # (n, HW)
    apart = min(max(_usual_distance(pixels) / 12, 0.002), 0.02)
    parent = list(range(len(distinct)))
    for a, b in near_pairs(difference_hash(distinct.view(-1, 1, *thumbnails.shape[1:])), bits):
        alike = (pixels[a] * pixels[b]).sum(1) >= 1 - apart
        for i, j in zip(a[alike].tolist(), b[alike].tolist()):
            parent[_root(parent, i)] = _root(parent, j)
    group = torch.tensor([_root(parent, i) for i in range(len(parent))])[member]
    first = torch.full((len(distinct),), len(member)).scatter_reduce(0, group, torch.arange(len(member)), "amin")
    return first[group]


def near_pairs(hashes: Tensor, bits: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of rows of (N, D) bool at most `bits` apart, as two equally long index tensors at a time; some come twice.

    Such rows agree in full on one of `bits` + 1 bands of columns, so only rows that share a band are compared.
    """
    for band in hashes.tensor_split(bits + 1, dim=1):
        key, order = (band.long() << torch.arange(band.shape[1])).sum(1).sort()
        at, step = torch.arange(len(key)), 0
        while len(at):
            step += 1
            at = at[at + step < len(key)]
            at = at[key[at] == key[at + step]]
            a, b = order[at], order[at + step]
            close = (hashes[a] ^ hashes[b]).sum(1) <= bits
            yield a[close], b[close]


def _usual_distance(pixels: Tensor, looked_at: int = 400) -> float:
    """The median, over rows (n, D) of length 1, of 1 - cosine to the nearest other row."""
    rows = torch.arange(0, len(pixels), -(-len(pixels) // looked_at))
    cosine = pixels[rows] @ pixels.T
    cosine[torch.arange(len(rows)), rows] = -1
    return float(1 - cosine.amax(1).median())


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
