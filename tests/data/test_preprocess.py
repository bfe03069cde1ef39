import pickle

import pytest
import torch
from torchvision.transforms import v2

from marrow.core.contracts import Input
from marrow.core.errors import MarrowError
from marrow.core.preprocess import plain, with_channels


def image(height, width, channels=3):
    torch.manual_seed(height * width)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (100, 90), (224, 224), (1, 500)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_crop_is_resize_and_centre_crop_of_torchvision(shape, crop_pct):
    side = int(224 / crop_pct)
    reference = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(224)])
    x = image(*shape)
    assert torch.equal(plain(Input(crop_pct=crop_pct))({"image": x})["image"], reference(x))


def test_squash_ignores_the_aspect_ratio():
    x = image(50, 200)
    out = plain(Input(size=(32, 48), resize="squash", interpolation="bicubic"))({"image": x})["image"]
    assert torch.equal(out, v2.functional.resize(x, [32, 48], v2.InterpolationMode.BICUBIC, antialias=True))


def test_the_right_size_is_left_alone_and_fields_pass_through():
    example = {"image": image(32, 32), "label": 4, "name": "a"}
    out = plain(Input(size=(32, 32)))(example)
    assert (
        torch.equal(out["image"], example["image"]) and out["label"] == 4 and out["name"] == "a" and out is not example
    )


def test_replayed_after_pickle_and_with_another_seed():
    view, x = plain(Input(size=(40, 24))), image(99, 77)
    first = view({"image": x})["image"]
    torch.manual_seed(123)
    assert torch.equal(pickle.loads(pickle.dumps(view))({"image": x})["image"], first)
    assert first.shape == (3, 40, 24) and first.dtype == torch.uint8


def test_channels_are_adapted():
    grey, rgb = image(4, 4, 1), image(4, 4, 3)
    assert torch.equal(with_channels(grey, 3), grey.repeat(3, 1, 1))
    assert torch.equal(with_channels(torch.cat([rgb, grey]), 3), rgb) and with_channels(rgb, 1).shape == (1, 4, 4)
    with pytest.raises(MarrowError, match="5 channels does not fit a model that takes 3"):
        with_channels(image(4, 4, 5), 3)


@pytest.mark.parametrize("wrong, where", [
    ({"resize": "stretch"}, "input.resize"), ({"crop_pct": 0}, "input.crop_pct"), ({"modality": "graph"}, "input"),
    ({"interpolation": "cubic"}, "input.interpolation"),
])  # fmt: skip
def test_inputs_that_do_not_fit(wrong, where):
    with pytest.raises(MarrowError, match=f"^{where}: "):
        plain(Input(**wrong))
