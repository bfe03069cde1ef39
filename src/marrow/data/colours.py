"""Random colours, blur and solarisation of a view, as contrastive methods draw them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ..core.errors import MarrowError

# The blur of BYOL: a deviation of up to 2 pixels on views of 224.
BLUR, BLURRED_SIDE = (0.1, 2.0), 224


@dataclasses.dataclass(frozen=True)
class Colours:
    """Each change happens by chance, in this order: jitter, grey, blur, solarisation; on uint8 (C, H, W).

    strength: of brightness, contrast, saturation (factors within 1 +- it) and hue (a shift in turns), in a drawn order.
    jitter, grey, blur, solarise: how often. A blur is as wide, relative to the view, as on views of 224.
    """

    strength: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter: float = 0.8
    grey: float = 0.2
    blur: float = 0.0
    solarise: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.jitter, self.grey, self.blur, self.solarise)):
            raise MarrowError("how often a change happens is a share within 0..1", where="colours")
        if not (all(0 <= s <= 1 for s in self.strength) and self.strength[3] <= 0.5):
            raise MarrowError(f"strengths {self.strength} are outside 0..1, or 0..0.5 for the hue", where="colours")

    def __call__(self, image: Tensor) -> Tensor:
        if _happens(self.jitter):
            image = self._jittered(image)
        if _happens(self.grey) and len(image) == 3:
            image = transforms.rgb_to_grayscale(image, num_output_channels=3)
        if _happens(self.blur):
            image = _blurred(image)
        return transforms.solarize(image, 128) if _happens(self.solarise) else image

    def _jittered(self, image: Tensor) -> Tensor:
        changes = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
        drawn = torch.rand(4).tolist()
        for i in torch.randperm(4).tolist():
            reach = self.strength[i] * (2 * drawn[i] - 1)
            if reach:
                image = transforms.adjust_hue(image, reach) if i == 3 else changes[i](image, 1 + reach)
        return image


FIRST = Colours(blur=1.0)  # the two views of BYOL
SECOND = Colours(blur=0.1, solarise=0.2)


def _happens(share: float) -> bool:
    return torch.rand(()).item() < share


def _blurred(image: Tensor) -> Tensor:
    side = min(image.shape[-2:])
    scale = side / BLURRED_SIDE
    sigma = scale * (BLUR[0] + torch.rand(()).item() * (BLUR[1] - BLUR[0]))
    radius = max(1, min(round(11 * scale), side - 1))  # a kernel of 23 at 224
    return transforms.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)
