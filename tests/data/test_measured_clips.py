"""The clips and crops that a classifier of videos is measured on."""

import pytest
import torch

from marrow.core.clip_input import ClipInput
from marrow.data.measured_clips import MeasuredClips


def numbered(length: int, height: int, width: int) -> torch.Tensor:
    """Frame t has the value t in its left half and 100 + t in its right one."""
    video = torch.arange(length).view(-1, 1, 1, 1).expand(length, 3, height, width).clone()
    video[..., width // 2 :] += 100
    return video.to(torch.uint8)


def made(video: torch.Tensor, clips: int, crops: int, **input) -> torch.Tensor:
    input = {"size": (8, 8), "frames": 4, "stride": 2, **input}
    return MeasuredClips(ClipInput(**input), clips, crops)({"image": video, "label": 3})["image"]


def test_clips_reach_from_the_first_frame_to_the_last():
    found = made(numbered(17, 8, 8), 3, 1)
    assert found.shape == (3, 4, 3, 8, 8) and found.dtype == torch.uint8
    assert found[:, :, 0, 0, 0].tolist() == [[0, 2, 4, 6], [5, 7, 9, 11], [10, 12, 14, 16]]


def test_one_clip_is_the_one_in_the_middle():
    assert made(numbered(17, 8, 8), 1, 1)[0, :, 0, 0, 0].tolist() == [5, 7, 9, 11]


def test_crops_go_along_the_longer_side():
    left, middle, right = made(numbered(7, 8, 24), 1, 3)[:, 0, 0]
    assert (left == 0).all() and (right == 100).all()
    assert (middle[:, :4] == 0).all() and (middle[:, 4:] == 100).all()
    standing = made(numbered(7, 8, 24).mT.contiguous(), 1, 3)[:, 0, 0]
    assert torch.equal(standing.mT, torch.stack([left, middle, right]))


def test_frames_are_scaled_until_they_cover_the_input():
    assert made(numbered(7, 20, 44), 2, 3).shape == (6, 4, 3, 8, 8)
    assert made(numbered(7, 4, 4), 1, 1).shape == (1, 4, 3, 8, 8)


def test_a_short_video_runs_through_again():
    assert made(numbered(5, 8, 8), 2, 1)[:, :, 0, 0, 0].tolist() == [[0, 2, 4, 1]] * 2


@pytest.mark.parametrize("clips, crops", [(1, 2), (10, 3)])
def test_as_many_as_asked_for(clips, crops):
    assert len(made(numbered(24, 8, 12), clips, crops)) == clips * crops
