"""What a model of clips expects."""

from __future__ import annotations

import dataclasses

from .contracts import Input


@dataclasses.dataclass(frozen=True)
class ClipInput(Input):
    """Clips (B, T, 3, H, W): `frames` of a video, `stride` apart; what is said of pictures holds for each frame."""

    modality: str = "video"
    frames: int = 16
    stride: int = 2

    @classmethod
    def of(cls, picture: Input, frames: int, stride: int) -> "ClipInput":
        return cls(**{**vars(picture), "modality": "video"}, frames=frames, stride=stride)

    @property
    def picture(self) -> Input:
        """What is expected of each frame."""
        of_frames = {f.name: getattr(self, f.name) for f in dataclasses.fields(Input)}
        return Input(**{**of_frames, "modality": "image"})
