import hashlib

import torch

from marrow.data.blocks import by_blocks
from marrow.data.hashing import fraction, salted


def test_fraction_is_the_top_of_a_blake2b_hash():
    digest = hashlib.blake2b(b"pixels", digest_size=8).digest()
    assert abs(fraction(b"pixels") - int.from_bytes(digest, "little") / 2**64) < 2**-52
    assert fraction(b"") == fraction(bytearray()) == fraction(memoryview(b""))


def test_fractions_are_spread_evenly_and_salted_ones_are_independent():
    plain = torch.tensor([fraction(str(i).encode()) for i in range(4000)], dtype=torch.float64)
    other = torch.tensor([salted(v, "1") for v in plain.tolist()], dtype=torch.float64)
    for values in (plain, other):
        assert (values >= 0).all() and (values < 1).all()
        assert (torch.histc(values, 10, 0, 1) - 400).abs().max() < 80
    assert torch.corrcoef(torch.stack([plain, other]))[0, 1].abs() < 0.05
    assert salted(0.25, "1") == salted(0.25, "1") != salted(0.25, "2")


def test_blocks_hold_each_example_once_and_only_near_ones():
    order = by_blocks([7, 5, 8], torch.Generator().manual_seed(0), block=5)
    again = by_blocks([7, 5, 8], torch.Generator().manual_seed(0), block=5)
    assert sorted(order.tolist()) == list(range(20)) and torch.equal(order, again)
    for start in range(0, 20, 5):
        groups = {0 if i < 7 else 1 if i < 12 else 2 for i in order[start : start + 5].tolist()}
        assert len(groups) <= 2
