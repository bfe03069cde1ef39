"""The soft Dice loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot


def dice(logits: Tensor, ids: Tensor, void: int) -> Tensor:
    """1 - Dice coefficient of each image (B,), the mean over the classes that its mask shows.

    logits (B, C, H, W), ids (B, H, W); pixels with the id `void` count nowhere. After Milletari et al., V-Net, 3DV 2016,
    sec. 3. Deviation: probabilities are not squared in the denominator, the coefficient's own definition.
    """
    known = (ids != void)[:, None]
    probability = logits.softmax(1) * known
    target = one_hot(ids.clamp(min=0), logits.shape[1]).movedim(-1, 1) * known
    both = 2 * (probability * target).sum((2, 3))
    each = both / (probability + target).sum((2, 3)).clamp(min=1e-6)  # (B, C)
    shown = target.any(-1).any(-1)
    return ((1 - each) * shown).sum(1) / shown.sum(1).clamp(min=1)
