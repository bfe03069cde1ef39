import pickle
import random

import numpy as np
import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.data.randaugment import RandAugmented
from marrow.data.views import Augment

PLAIN = Augment((24, 32), crop=None, flip=False)
IMAGE = torch.randint(0, 256, (3, 24, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def views(magnitude: int, count: int = 30) -> list[torch.Tensor]:
    random.seed(0), np.random.seed(0)
    view = RandAugmented(PLAIN, magnitude)
    return [view({"image": IMAGE, "label": 3})["image"] for _ in range(count)]


def test_pictures_change_and_stay_pictures():
    seen = views(10)
    assert all(v.shape == IMAGE.shape and v.dtype == torch.uint8 for v in seen)
    unchanged = sum(torch.equal(v, IMAGE) for v in seen)
    assert 0 < unchanged < 25  # two operations, each carried out half of the time


def test_the_same_seeds_give_the_same_views_also_in_another_process():
    assert all(torch.equal(a, b) for a, b in zip(views(10), views(10), strict=True))
    random.seed(1), np.random.seed(1)
    copy = pickle.loads(pickle.dumps(RandAugmented(PLAIN, 10)))({"image": IMAGE})["image"]
    random.seed(1), np.random.seed(1)
    assert torch.equal(RandAugmented(PLAIN, 10)({"image": IMAGE})["image"], copy)


def test_fifteen_is_more_than_ten():
    assert not all(torch.equal(a, b) for a, b in zip(views(10), views(15), strict=True))


def test_what_does_not_fit_is_named():
    with pytest.raises(MarrowError, match="magnitude 31 is outside 1..30"):
        RandAugmented(PLAIN, 31)
    with pytest.raises(MarrowError, match="a mask would not follow"):
        RandAugmented(PLAIN, 9)({"image": IMAGE, "mask": torch.zeros(24, 32, dtype=torch.int64)})
