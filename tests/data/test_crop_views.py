import pickle

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.photo import Photo
from marrow.data.colours import Colours
from marrow.data.crop_views import CropViews, shares

PLAIN = Colours(jitter=0.0, grey=0.0)


def gradient(height: int = 60, width: int = 80) -> torch.Tensor:
    """Red is the column, green the row, from 0 at the first pixel to 240 at the last."""
    across = torch.linspace(0, 240, width).expand(height, width)
    down = torch.linspace(0, 240, height)[:, None].expand(height, width)
    return torch.stack([across, down, torch.zeros(height, width)]).round().to(torch.uint8)


def plain(**args) -> CropViews:
    return CropViews((16, 16), first=PLAIN, second=PLAIN, **args)


@pytest.mark.parametrize("photo", [False, True])
def test_boxes_say_where_a_view_lies(photo):
    """The colours of its corners are their places, mirrored or not."""
    view, image = plain(crop=(0.2, 0.6)), gradient()
    example = {"image": Photo(60, 80, lambda scale: image[:, ::scale, ::scale]) if photo else image}
    mirrored = 0
    for seed in range(20):
        torch.manual_seed(seed)
        made = view(example)
        for n in (1, 2):
            shown, (x0, y0, x1, y1) = made[f"view_{n}"].float() / 240, made[f"box_{n}"].tolist()
            found = [shown[0, 8, 0], shown[1, 0, 8], shown[0, 8, -1], shown[1, -1, 8]]
            assert torch.tensor(found).sub(torch.tensor([x0, y0, x1, y1])).abs().max() < (0.08 if photo else 0.04)
            mirrored += x0 > x1
    assert 10 < mirrored < 30


def test_boxes_by_hand():
    assert shares((0, 0, 5, 9), 5, 9, False).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert shares((2, 4, 3, 5), 5, 9, True).tolist() == [1.0, 0.5, 0.5, 1.0]
    assert shares((0, 0, 1, 1), 1, 1, False).tolist() == [0.0, 0.0, 0.0, 0.0]


def test_other_fields_stay_and_the_picture_goes():
    torch.manual_seed(0)
    made = pickle.loads(pickle.dumps(CropViews((8, 8))))({"image": gradient(), "mask": torch.zeros(60, 80), "label": 3})
    assert set(made) == {"view_1", "view_2", "box_1", "box_2", "label"}
    assert made["view_1"].shape == (3, 8, 8) and made["view_2"].dtype == torch.uint8


def test_each_change_of_colours_does_what_it_says():
    image = gradient()
    assert torch.equal(PLAIN(image), image)
    grey = Colours(jitter=0.0, grey=1.0)(image)
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[1], grey[2])
    solarised = Colours(jitter=0.0, grey=0.0, solarise=1.0)(image)
    assert torch.equal(solarised, torch.where(image >= 128, 255 - image, image))
    noise = torch.randint(0, 256, (3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.manual_seed(0)
    assert Colours(jitter=0.0, grey=0.0, blur=1.0)(noise).float().std() < noise.float().std()


def test_the_strength_bounds_the_brightness():
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    found = [int(Colours((0.4, 0.0, 0.0, 0.0), jitter=1.0, grey=0.0)(image)[0, 0, 0]) for _ in range(60)]
    assert 60 <= min(found) < 70 and 130 < max(found) <= 140


def test_bad_settings_are_refused():
    with pytest.raises(MarrowError, match="is not a range of shares"):
        CropViews((8, 8), crop=(0.0, 1.0))
    with pytest.raises(MarrowError, match="how often a change happens is a share within 0..1"):
        Colours(blur=1.5)
    with pytest.raises(MarrowError, match="are outside 0..1, or 0..0.5 for the hue"):
        Colours((0.4, 0.4, 0.4, 0.6))
