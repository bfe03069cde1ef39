"""Where does a ViT look, and do its heads look at different things? Needs no labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Probe, Report, Task
from ..core.errors import MarrowError
from ..core.training import evaluating
from ..nn.block_attention import attended, check_bare, plan_of, without_prefix
from ..nn.map_channels import map_shape
from ..nn.token_relations import token_relations

AT_ONCE = 32  # pictures; the maps of all layers of a ViT-B at 224 pixels then take a few GB


def distances(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Pixels between the centres of any two patches of a grid over a picture of this size, (N, N)."""
    y, x = (torch.arange(count) * side / count for count, side in zip(grid, size))
    centres = torch.cartesian_prod(y, x)
    return (centres[:, None] - centres[None]).square().sum(-1).sqrt()


def mean_distance(attention: Tensor, distance: Tensor) -> Tensor:
    """How far queries look, the mean over them, of maps (..., N, N) whose rows sum to 1."""
    return (attention * distance).sum(-1).mean(-1)


def shared_information(attention: Tensor) -> Tensor:
    """NMI = I(q; k) / sqrt(H(q) H(k)) of p(q, k) = A / N: 0 where all queries look alike, 1 where each has its own key.

    Maps in which all queries look at one single key have H(k) = 0 and no information: 0.
    """
    tokens = attention.shape[-1]
    of_key = attention.mean(-2)
    entropy_key = torch.special.entr(of_key).sum(-1)
    information = entropy_key - torch.special.entr(attention).sum(-1).mean(-1)  # I(q; k) = H(k) - H(k | q)
    return information.clamp_min(0) / (math.log(tokens) * entropy_key).sqrt().clamp_min(1e-6)


def head_similarity(attention: Tensor) -> Tensor:
    """The mean cosine between the maps of two different heads, (B,) of (B, H, N, N); 1 for a single head."""
    maps = F.normalize(attention.flatten(2), dim=-1)
    heads = maps.shape[1]
    total = maps.sum(1).square().sum(-1) - heads
    return total / (heads * (heads - 1)) if heads > 1 else torch.ones_like(total)


def summed(attention: Tensor, distance: Tensor) -> dict[str, Tensor]:
    """The three measures, summed over the pictures of maps (B, H, N, N): two of each head (H,), one of all."""
    return {
        "attention_distance": mean_distance(attention, distance).sum(0),
        "query_key_information": shared_information(attention).sum(0),
        "head_similarity": head_similarity(attention).sum(),
    }


class AttentionDiversity(Probe):
    """Distance, normalised mutual information and likeness of heads of each layer's attention among patches.

    The three measures by which Hybrid Distillation compares its teachers (sec. 2; the information is that of Park et al.,
    "What Do Self-Supervised Vision Transformers Learn?", 2023). Attention is the softmax over patches alone, without class
    token and registers.

    Rows for each layer: `attention_distance` in pixels, `query_key_information` in 0..1, `head_similarity`. Tensors: the
    same of each layer, the first two of each head, too, (L, H).
    """

    needs = {"model": {"maps", "qkv"}}
    streams = ("test",)

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        model = _backbone(models["model"])
        plan, grid = plan_of(model, "attention_diversity.model"), map_shape(model)[1:]
        check_bare(model, "attention_diversity.model")
        distance = distances(grid, model.input.size).to(engine.device)
        layers, count = range(plan.depth), 0
        sums: list[dict[str, Tensor]] = [{} for _ in layers]
        with evaluating(model, engine.device), torch.inference_mode():
            for batch in engine.batches(data.streams["test"], model.input, AT_ONCE):
                with attended(model, layers) as found:
                    model.features(batch["image"])
                for layer, total in zip(layers, sums):
                    attention = token_relations(without_prefix(found[layer], plan.prefix), ("qk",))["qk"]
                    for name, value in summed(attention, distance).items():
                        total[name] = total[name] + value if name in total else value
                count += len(batch["image"])
        if not count:
            raise MarrowError("the stream 'test' holds no picture", where="attention_diversity")
        rows = [{"metric": name, "value": float(value.mean() / count), "layer": layer, "n": count}
                for layer, total in enumerate(sums) for name, value in total.items()]  # fmt: skip
        return Report(rows, {name: torch.stack([total[name] for total in sums]).cpu() / count for name in sums[0]})


def _backbone(model: Any) -> Backbone:
    inside = [model] if isinstance(model, Backbone) else []
    if isinstance(model, Task):
        inside = [m for m in model.children() if isinstance(m, Backbone)]
    if len(inside) != 1:
        raise MarrowError(f"attention is that of one backbone, and here are {len(inside)}", where="attention_diversity.model",
                          hint="Name one with `part:`.")  # fmt: skip
    return inside[0]
