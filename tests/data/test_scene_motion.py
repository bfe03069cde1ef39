"""Clips of digits: what is said about where they are and go is true of their pixels."""

import pytest
import torch
from torch.nn.functional import max_pool2d

from marrow.core.footage import Footage
from marrow.data.scene_objects import DOWN, LEFT, RIGHT, STILL, TURNING, UP, motion_of, reflected
from marrow.data.scenes import CLIP_FIELDS, DigitScenes

CLIP = {"frames": 6, "size": (48, 64), "side": (12, 20), "objects": (2, 4), "count": 40}
CROWDED = {**CLIP, "hidden": 0.9}
LEAVING = {**CLIP, "leave": True, "speed": (4, 7), "hidden": 1.0}
BETWEEN = {**CROWDED, "whole_pixels": False}


def fitted(mask: torch.Tensor) -> list[float]:
    """The smallest box around a mask, found from its pixels one by one."""
    rows, columns = mask.nonzero(as_tuple=True)
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


def moved(mask: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Where the pixels of a mask (H, W) go by a flow (2, H, W), to the nearest; what leaves the canvas is lost."""
    rows, columns = mask.nonzero(as_tuple=True)
    y, x = (rows + flow[1, rows, columns]).round().long(), (columns + flow[0, rows, columns]).round().long()
    inside = (y >= 0) & (x >= 0) & (y < mask.shape[0]) & (x < mask.shape[1])
    there = torch.zeros_like(mask)
    there[y[inside], x[inside]] = True
    return there


def wider(mask: torch.Tensor) -> torch.Tensor:
    return max_pool2d(mask[None].float(), 3, 1, 1)[0] > 0


@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_no_more_is_hidden_than_is_allowed(hidden):
    """The digit that stands in front of a moving one shows how much of it there was: it is seen whole elsewhere."""
    scenes = DigitScenes(**{**CLIP, "hidden": hidden, "frames": 8, "speed": (3, 5)})
    shares = []
    for i in range(len(scenes)):
        areas = scenes[i]["masks"].sum((-1, -2)).float()  # (N, T)
        shares.append(1 - areas.min(1).values / areas.max(1).values)
    worst = torch.cat(shares).max().item()
    assert worst <= hidden and (hidden == 0 or worst > 0.1)


def test_fields_of_a_clip():
    scenes = DigitScenes(**CLIP)
    scene = scenes[0]
    count = len(scene["labels"])
    assert set(scene) == {"image", *CLIP_FIELDS}
    assert scene["image"].shape == (6, 3, 48, 64) and scene["mask"].shape == (6, 48, 64)
    assert scene["masks"].shape == (count, 6, 48, 64) and scene["boxes"].shape == (count, 6, 4)
    assert scene["flow"].shape == (5, 2, 48, 64) and scene["flow_valid"].shape == (5, 48, 64)
    assert scene["tracks"].tolist() == list(range(1, count + 1))
    view = scenes.undecoded(0)["image"]
    assert isinstance(view, Footage) and torch.equal(view.frames([4, 1]), scene["image"][[4, 1]])


@pytest.mark.parametrize("args", [CROWDED, LEAVING, BETWEEN])
def test_boxes_of_clips_are_tight_where_a_digit_is_seen_and_zero_elsewhere(args):
    scenes = DigitScenes(**args)
    for i in range(15):
        scene = scenes[i]
        assert torch.equal(scene["visible"], scene["masks"].any(-1).any(-1))
        assert scene["visible"].any(1).all() and scene["masks"].sum(0).max() <= 1
        for mask, box, seen in zip(
            scene["masks"].flatten(0, 1), scene["boxes"].flatten(0, 1), scene["visible"].flatten()
        ):
            assert box.tolist() == (fitted(mask) if seen else [0.0] * 4)


@pytest.mark.parametrize("args", [CROWDED, LEAVING])
def test_flow_in_whole_pixels_is_exact(args):
    """What is valid shows the same colour and the same digit in the next frame; of a digit nothing else is seen there."""
    scenes = DigitScenes(**args)
    lost = 0
    for i in range(15):
        scene = scenes[i]
        rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
        for t, (flow, valid) in enumerate(zip(scene["flow"], scene["flow_valid"])):
            assert torch.equal(flow, flow.round())
            y, x = (rows + flow[1]).long()[valid], (columns + flow[0]).long()[valid]
            assert torch.equal(scene["image"][t + 1][:, y, x], scene["image"][t][:, valid])
            lost += int((~valid).sum())
            for masks in scene["masks"]:
                assert not (moved(masks[t] & valid, flow) & ~masks[t + 1]).any()
                hidden_or_out = masks[t] & ~valid
                assert not (moved(hidden_or_out, flow) & masks[t + 1]).any()
    assert lost > 1000, "nothing is hidden or leaves"


def test_a_digit_that_nothing_touches_is_moved_whole():
    """Alone on the canvas, the mask of a frame moved by the flow is the mask of the next one, to the pixel."""
    scenes = DigitScenes(**{**CLIP, "objects": (1, 1)})
    for i in range(15):
        scene = scenes[i]
        assert scene["flow_valid"][:, scene["masks"][0, 0]].shape[1] > 0
        for t, flow in enumerate(scene["flow"]):
            assert torch.equal(moved(scene["masks"][0, t], flow), scene["masks"][0, t + 1])


def test_flow_between_pixels_is_right_to_one_pixel():
    scenes, overlaps = DigitScenes(**{**BETWEEN, "objects": (1, 1)}), []
    for i in range(20):
        masks, flow = scenes[i]["masks"][0], scenes[i]["flow"]
        assert not torch.equal(flow, flow.round()) or scenes[i]["motions"].item() == STILL
        for t in range(5):
            there, wanted = moved(masks[t], flow[t]), masks[t + 1]
            assert not (there & ~wider(wanted)).any() and not (wanted & ~wider(there)).any()
            overlaps.append(((there & wanted).sum() / (there | wanted).sum()).item())
    assert min(overlaps) > 0.6 and sum(overlaps) / len(overlaps) > 0.85


def test_digits_leave_and_come_back():
    seen = [row for i in range(40) for row in DigitScenes(**{**LEAVING, "frames": 10})[i]["visible"].int().tolist()]
    steps = ["".join(map(str, row)).strip("0") for row in seen]
    assert sum("0" in row for row in steps) > 5, "none was seen, gone and seen again"
    assert any(row[0] == 0 for row in seen) and any(row[-1] == 0 for row in seen)


@pytest.mark.parametrize(
    ("path", "motion"),
    [
        (((0, 9), (0, 7), (1, 5)), LEFT),
        (((0, 0), (1, 2)), RIGHT),
        (((9, 0), (7, 0)), UP),
        (((0, 0), (0.5, 0.25)), DOWN),
        (((4, 4), (4, 4)), STILL),
        (((0, 2), (0, 0), (0, 2)), TURNING),
        (((0, 0), (2, 2)), TURNING),
    ],
)
def test_words_for_motions(path, motion):
    assert motion_of(path) == motion


def test_walls_turn_motion_around():
    assert [reflected(p, 0, 4) for p in range(-2, 11)] == [2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert reflected(7, 3, 3) == 3
