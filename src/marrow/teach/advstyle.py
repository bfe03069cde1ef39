"""AdvStyle: training on images whose style, inside the net, is made as hard as possible.

Zhang et al., "Adversarial Style Augmentation for Domain Generalization", 2023. Beside it stand what the paper compares
with: DSU (Li et al., 2022), MixStyle (Zhou et al., 2021), EFDMix (Zhang et al., 2022), and random scales as a control.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import Any, Iterator, Literal, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.contracts import Backbone, Clock, Method, Step, Task, stem_of
from ..core.errors import MarrowError
from ..data.views import Augment
from ..nn.inner_maps import InnerMap, inner_maps
from ..nn.style import dsu, efdmix, gradient_reverse, mixstyle, restyled, spread, statistics, towards

SAME, LEARNED, BATCH = "same", "learned", "batch"  # what a place does to the style in one step

# kind -> what a place does with equal probability in a step
BRANCHES = {
    "advstyle": (SAME, LEARNED, BATCH),
    "direction": (SAME, LEARNED),
    "random": (SAME, LEARNED, BATCH),
    "dsu": (SAME, BATCH),
    "mixstyle": (SAME, BATCH),
    "efdmix": (SAME, BATCH),
}
MIXED = {"mixstyle": mixstyle, "efdmix": efdmix}
MIX = 0.1  # both parameters of the Beta distribution of a mixture's share


class StylePlace(nn.Module):
    """The style of the maps (B, C, H, W) at one place of a net, changed in training and left alone in eval.

    mean_scale, std_scale (1, C, 1, 1): how far the noise reaches, learned by ascent on the loss; there for "advstyle" and
    "direction" only. They start at what the first batch that needs them varies.
    """

    first: Tensor

    def __init__(self, channels: int, kind: str, weight: float):
        super().__init__()
        self.channels, self.kind, self.weight = channels, kind, weight
        self.begun = False  # in this step; the method then makes the ranks agree
        if kind in ("advstyle", "direction"):
            self.mean_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
            self.std_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
            self.register_buffer("first", torch.tensor(True))

    def forward(self, x: Tensor, branch: str, noise: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """noise: (B, C, 1, 1) twice, drawn where it is not given."""
        if branch == SAME or not self.training:
            return x
        if self.kind in MIXED:
            return self._mixed(x)
        noise = noise or (x.new_empty(len(x), self.channels, 1, 1, dtype=_exact(x)).normal_(),
                          x.new_empty(len(x), self.channels, 1, 1, dtype=_exact(x)).normal_())  # fmt: skip
        if branch == BATCH:
            return dsu(x, noise)
        mean, std = statistics(x)
        new_mean, new_std = (s + n * scale for s, n, scale in zip((mean, std), noise, self._scales(mean, std)))
        return restyled(x, mean, std, new_mean, new_std)

    def _scales(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        intensity = spread(mean.detach()), spread(std.detach())
        if self.kind == "random":
            a, b = (towards(torch.randn_like(i), i) for i in intensity)
            return a, b
        if bool(self.first):
            with torch.no_grad():
                self.mean_scale.copy_(intensity[0])
                self.std_scale.copy_(intensity[1])
                self.first.fill_(False)
            self.begun = True
        a, b = (gradient_reverse(s, self.weight) for s in (self.mean_scale, self.std_scale))
        return (a, b) if self.kind == "advstyle" else (towards(a, intensity[0]), towards(b, intensity[1]))

    def _mixed(self, x: Tensor) -> Tensor:
        share = torch.distributions.Beta(MIX, MIX).sample((len(x), 1, 1, 1)).to(x.device, _exact(x))
        return MIXED[self.kind](x, share, torch.randperm(len(x), device=x.device))


def _exact(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class AdvStyle(Method):
    """The task's own losses, while places inside its backbone change the style of their maps; the product is the plain task.

    At each place and step, the whole batch is left alone, has mean and deviation of its channels moved by noise whose
    scales climb the loss (a reversed gradient, so no second pass), or by noise as wide as the batch itself varies (DSU).
    All ranks and micro-batches of a step do the same.

    style: "advstyle" learns the scales; "direction" learns which way over the channels, with the batch's intensity;
    "random" draws that way anew, the control for the learning. "dsu", "mixstyle" and "efdmix" act in half of the steps.
    at: modules of the backbone's net; "stem" is its first convolution. Empty: that and all stages of its `feature_info`
    whose maps have more than one place. The paper's places in a ResNet are conv1, maxpool, layer1 to layer4. The blocks of
    a ViT count as stages: the style of a channel is then that over the patch tokens, which the paper does not try.
    crop, pad, flip: the view, as in `supervised`.

    Deviation: where a place's scales were not used in a step their gradient is zero instead of none, as in older versions
    of torch, so momentum and weight decay act on them in every step.
    """

    def __init__(
        self,
        task: Task,
        *,
        style: Literal["advstyle", "direction", "random", "dsu", "mixstyle", "efdmix"] = "advstyle",
        at: tuple[str, ...] = (),
        adv_weight: float = 10.0,
        crop: tuple[float, float] | None = None,
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        if adv_weight <= 0:
            raise MarrowError(f"{adv_weight} is not above 0: the scales would go down the loss with the net",
                              where="advstyle.adv_weight")  # fmt: skip
        backbones = [m for m in task.children() if isinstance(m, Backbone)]
        if len(backbones) != 1:
            raise MarrowError(f"{stem_of(type(task))} has {len(backbones)} backbones; the style of one is changed",
                              where="advstyle.task")  # fmt: skip
        self.task = task
        self.places: list[InnerMap] = inner_maps(backbones[0], at, "advstyle.at")
        if not self.places:
            raise MarrowError("advstyle needs maps of more than one place inside the backbone, and at this input size "
                              f"{backbones[0].spec.get('source', 'it')} has none", where="advstyle.at")  # fmt: skip
        self.branches = BRANCHES[style]
        self.styles = nn.ModuleList(StylePlace(p.channels, style, adv_weight) for p in self.places)
        self.view = Augment(task.input.size, crop=crop, flip=flip, pad=pad)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        if self.training and len(batch["image"]) < 2:
            raise MarrowError("one image alone has no other style to go to; batches (and micro-batches) of two or more "
                              "are needed", where="advstyle")  # fmt: skip
        with self._restyling(torch.rand(len(self.places), generator=clock.rng).tolist()):
            losses = dict(self.task.losses(self.task(batch), batch))
        if learned := [p for place in self.styles for p in place.parameters()]:
            # A place that did something else this time has no gradient, and with several ranks none may be missing.
            name = next(iter(losses))
            losses[name] = losses[name] + 0.0 * torch.stack([p.sum() for p in learned]).sum()
        return Step(losses, self._reach())

    @contextmanager
    def _restyling(self, draws: list[float]) -> Iterator[None]:
        """Hooks for one forward pass; every place has to be run through, or it would be left out unseen."""
        root = next(m for m in self.task.children() if isinstance(m, Backbone)).root
        hooks, left = [], set()
        for found, place, draw in zip(self.places, self.styles, draws):
            branch = self.branches[int(draw * len(self.branches))]
            if branch != SAME:
                left.add(found.module)
                hook = partial(_restyle, place=place, branch=branch, found=found, left=left)
                hooks.append(root.get_submodule(found.module).register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()
        if left:
            raise MarrowError(f"the net did not run through '{min(left)}' as a module", where="advstyle.at",
                              hint="With checkpoint_gradients timm goes around its stages: leave it out.")  # fmt: skip

    def _reach(self) -> dict[str, Tensor]:
        """How far the learned scales of the means reach, in the mean over places and channels."""
        scales = [p.mean_scale.detach().abs().mean() for p in self.styles if "mean_scale" in dict(p.named_parameters())]
        return {"mean_scale": torch.stack(scales).mean()} if scales else {}

    def after_step(self, clock: Clock) -> None:
        for place in self.styles:
            if place.begun and dist.is_initialized():  # each rank began with what its own images vary
                for parameter in place.parameters():
                    dist.all_reduce(parameter.data)
                    parameter.data /= dist.get_world_size()
            place.begun = False

    def views(self) -> Augment:
        return self.view

    def product(self) -> Task:
        return self.task


def _restyle(
    module: nn.Module, args: Any, out: Tensor, *, place: StylePlace, branch: str, found: InnerMap, left: set[str]
) -> Tensor:
    left.discard(found.module)
    return found.changed(out, lambda x: place(x, branch))
