import pickle

import torch

from marrow.data import open_source
from marrow.data.hashing import RANGES


def test_digits_are_what_scikit_learn_has():
    source = open_source({"images": "digits"})
    assert len(source) == 1797 and source.classes == [str(i) for i in range(10)]
    example = source[0]
    assert example["image"].shape == (3, 32, 32) and example["image"].dtype == torch.uint8 and example["label"] == 0
    # Enlarged by 4: the mean over each 4x4 block is close to the stored value.
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images[7] * 255 / 16).float()
    blocks = source[7]["image"][0].float().view(8, 4, 8, 4).mean((1, 3))
    assert (blocks - small).abs().mean() < 12


def test_splits_are_ranges_of_the_hash_and_cover_everything():
    whole = open_source({"images": "digits"})
    fractions = sorted(whole.fraction(i) for i in range(len(whole)))
    found = []
    for split, (low, high) in RANGES.items():
        part = open_source({"images": "digits", "split": split})
        assert all(low <= part.fraction(i) < high for i in range(len(part)))
        assert abs(len(part) / len(whole) - (high - low)) < 0.02
        found += [part.fraction(i) for i in range(len(part))]
    assert sorted(found) == fractions


def test_pickle_keeps_the_pixels():
    source = open_source({"images": "digits", "split": "val"})
    assert torch.equal(pickle.loads(pickle.dumps(source))[3]["image"], source[3]["image"])
