import pytest
import torch
from torchvision.io import decode_jpeg, encode_jpeg

from marrow.data import open_source
from marrow.nn.duplicates import alike_groups, difference_hash, near_duplicates, near_pairs


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    digits = open_source({"images": "digits", "split": "test"})
    return torch.stack([digits[i]["image"] for i in range(60)])


def hamming(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (difference_hash(a) ^ difference_hash(b)).sum(-1)


def test_a_hash_survives_compression_brightness_and_a_change_of_size(pictures):
    squeezed = torch.stack([decode_jpeg(encode_jpeg(p, quality=30)) for p in pictures])
    larger = torch.nn.functional.interpolate(pictures.float(), size=(48, 48), mode="bilinear")
    assert hamming(pictures, pictures.float() * 0.7 + 20).max() == 0
    assert hamming(pictures, larger).max() <= 4
    assert hamming(pictures, squeezed).max() <= 8
    assert hamming(pictures, pictures.roll(1, 0)).float().mean() > 12


def test_by_hand():
    ramp = torch.arange(9.0).expand(1, 3, 8, 9)  # brighter to the right in every cell
    assert difference_hash(ramp).shape == (1, 64)
    assert difference_hash(ramp).all() and not difference_hash(-ramp).any()


def test_both_signs_are_needed():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.1]])
    none, all_ = torch.zeros(1, 64, dtype=torch.bool), torch.ones(1, 64, dtype=torch.bool)
    found = near_duplicates(a, b, 0.9, a_hash=torch.cat([none, all_, none]), b_hash=none, bits=4)
    assert found.tolist() == [True, False, False]


def test_bits_are_counted_inclusively_and_chunks_change_nothing():
    ones = torch.ones(3, 4)
    hashes = torch.zeros(3, 64, dtype=torch.bool)
    hashes[1, :4] = True
    hashes[2, :5] = True
    other = torch.zeros(5, 64, dtype=torch.bool)
    for chunk in (1, 2, 5):
        found = near_duplicates(ones, torch.ones(5, 4), 0.99, a_hash=hashes, b_hash=other, bits=4, chunk=chunk)
        assert found.tolist() == [True, True, False]


def test_against_nothing_nothing_is_found():
    found = near_duplicates(torch.ones(2, 3), torch.empty(0, 3), 0.5, a_hash=torch.zeros(2, 64, dtype=torch.bool),
                            b_hash=torch.empty(0, 64, dtype=torch.bool), bits=64)  # fmt: skip
    assert found.tolist() == [False, False]


def small(pictures: torch.Tensor) -> torch.Tensor:
    shrunk = torch.nn.functional.interpolate(pictures, size=(32, 32), mode="bilinear", antialias=True)
    return shrunk.float().mean(1).byte()


def test_pairs_are_those_of_comparing_all_with_all():
    generator = torch.Generator().manual_seed(0)
    hashes = torch.rand(40, 64, generator=generator) < 0.5
    hashes = torch.cat([hashes, hashes ^ (torch.rand(40, 64, generator=generator) < 0.06)])  # about 4 bits apart
    apart = (hashes[:, None] ^ hashes).sum(-1)
    wanted = {(i, j) for i, j in (apart <= 4).nonzero().tolist() if i < j}
    found = {(min(i, j), max(i, j)) for a, b in near_pairs(hashes, 4) for i, j in zip(a.tolist(), b.tolist())}
    assert found == wanted and 10 < len(wanted) < 40


def test_copies_re_encoded_or_resized_are_grouped_and_distinct_digits_are_not(pictures):
    squeezed = torch.stack([decode_jpeg(encode_jpeg(p, quality=60)) for p in pictures])
    larger = torch.nn.functional.interpolate(pictures, size=(40, 40), mode="bilinear")
    thumbnails = torch.cat([small(pictures), small(squeezed), small(larger)])
    groups = alike_groups(thumbnails)
    assert groups[:60].tolist() == list(range(60))
    assert groups.view(3, 60).tolist() == [list(range(60))] * 3
    assert alike_groups(thumbnails.flip(0)).unique().numel() == 60


def test_flat_pictures_are_alike_only_when_equal():
    grey = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    assert alike_groups(torch.cat([grey, grey])).tolist() == [0, 1, 2, 0, 1, 2]
    assert alike_groups(grey[:1]).tolist() == [0] and alike_groups(grey[:0]).tolist() == []
