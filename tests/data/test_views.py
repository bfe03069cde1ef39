import math
import pickle

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.source import VOID
from marrow.data.views import Augment, random_box, resize


def gradient(height, width):
    """Red is the row, green the column."""
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).expand(height, width)
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)


def test_same_seed_same_view_and_another_seed_another():
    view, example = Augment((24, 24)), {"image": gradient(40, 60), "label": 3}
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(pickle.loads(pickle.dumps(view))(example))
    assert torch.equal(drawn[0]["image"], drawn[1]["image"]) and not torch.equal(drawn[0]["image"], drawn[2]["image"])
    assert drawn[0]["image"].shape == (3, 24, 24) and drawn[0]["image"].dtype == torch.uint8 and drawn[0]["label"] == 3


def test_crops_cover_the_stated_share_of_the_area():
    torch.manual_seed(0)
    view = Augment((32, 32), crop=(0.2, 0.5))
    for _ in range(300):
        top, left, height, width = random_box(100, 150, view.crop)
        assert 0 <= top <= 100 - height and 0 <= left <= 150 - width
        assert 0.19 < height * width / 15000 < 0.51 and 0.7 < width / height < 1.4


def test_places_and_ratios_of_crops_are_spread_evenly():
    torch.manual_seed(0)
    boxes = torch.tensor([random_box(1000, 1000, (0.25, 0.25)) for _ in range(2000)]).float()
    top, _, height, width = boxes.T
    assert abs((top / (1000 - height)).mean() - 0.5) < 0.03 and abs((width / height).log().mean()) < 0.02


def test_an_odd_aspect_ratio_gets_its_whole_centre():
    torch.manual_seed(0)
    top, left, height, width = random_box(10, 1000, (1.0, 1.0))
    assert (height, width) == (10, 13) and (top, left) == (0, (1000 - 13) // 2)


def test_pad_and_cut_shifts_by_at_most_the_padding():
    torch.manual_seed(0)
    image, shifts = gradient(32, 32) + 1, set()
    for _ in range(400):
        view = Augment((32, 32), crop=None, flip=False, pad=4)({"image": image})["image"]
        down, right = int(view[0, 16, 16]) - 17, int(view[1, 16, 16]) - 17
        shifts.add((down, right))
        inside = image[:, max(0, down) : 32 + min(0, down), max(0, right) : 32 + min(0, right)]
        kept = view[:, max(0, -down) : 32 - max(0, down), max(0, -right) : 32 - max(0, right)]
        assert torch.equal(kept, inside)
    assert {d for d, _ in shifts} == {r for _, r in shifts} == set(range(-4, 5))


def test_half_of_the_views_are_mirrored():
    torch.manual_seed(0)
    image = gradient(16, 16)
    views = [Augment((16, 16), crop=None)({"image": image})["image"] for _ in range(400)]
    mirrored = sum(torch.equal(v, image.flip(-1)) for v in views)
    assert all(torch.equal(v, image) or torch.equal(v, image.flip(-1)) for v in views) and 160 < mirrored < 240


def test_without_crop_another_size_is_covered():
    torch.manual_seed(0)
    view = Augment((16, 16), crop=None, flip=False)({"image": gradient(40, 80)})["image"]
    assert view.shape == (3, 16, 16)
    assert view[0, -1, 0] > 35 and int(view[1, 0, -1]) - int(view[1, 0, 0]) in range(
        36, 40
    )  # all rows, half the columns


@pytest.mark.parametrize("view", [Augment((20, 20)), Augment((20, 20), crop=None, pad=3)])
def test_a_mask_moves_along(view):
    image = gradient(30, 45)
    mask = (image[1] >= 20).long()
    for seed in range(20):
        torch.manual_seed(seed)
        out = view({"image": image, "mask": mask})
        green, ids = out["image"][1].float(), out["mask"]
        assert ids.dtype == torch.int64 and ids.shape == (20, 20) and set(ids.unique().tolist()) <= {VOID, 0, 1}
        real = out["image"].sum(0) > 0
        assert (ids[real] != VOID).all()
        assert (ids[real & (green > 23)] == 1).all() and (ids[real & (green < 17)] == 0).all()


def test_resize_is_an_average_over_what_becomes_one_pixel():
    board = torch.zeros(1, 64, 64, dtype=torch.uint8)
    board[:, ::2, ::2] = board[:, 1::2, 1::2] = 200  # every pixel of the small picture sees both colours alike
    assert ((resize(board, (8, 8)).float() - 100).abs() <= 2).all()


def test_arguments_that_do_not_fit():
    with pytest.raises(MarrowError, match="^Augment.crop"):
        Augment((8, 8), crop=(0.5, 0.2))
    with pytest.raises(MarrowError, match="^Augment.pad: padding goes with crop=None"):
        Augment((8, 8), pad=4)
    assert math.isclose(Augment((8, 8)).crop[0], 0.08)
