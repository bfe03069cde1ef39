import pytest
import torch

from marrow.core.contracts import Input
from marrow.core.errors import MarrowError
from marrow.nn.shared_view import resized, shared_size


def test_the_shared_view_is_large_enough_for_both_on_each_side():
    assert shared_size(Input(size=(32, 64)), Input(size=(48, 40)), "x") == (48, 64)


def test_each_gets_its_own_size_and_a_fitting_view_is_not_touched():
    image = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8)
    assert resized(image, Input(size=(8, 8))) is image
    small = resized(image.float(), Input(size=(4, 4)))
    assert small.shape == (2, 3, 4, 4)
    torch.testing.assert_close(small.mean(), image.float().mean(), rtol=0.02, atol=0)


def test_other_channels_are_refused():
    with pytest.raises(MarrowError, match="ssld: teacher sees 1 channels, student 3"):
        shared_size(Input(), Input(channels=1), "ssld")
