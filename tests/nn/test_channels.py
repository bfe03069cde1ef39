import pytest
import torch

from marrow.nn.channels import kept_count, strongest


@pytest.mark.parametrize(
    "channels, ratio, round_to, groups, kept",
    [
        (64, 0.5, 16, 1, 32),
        (96, 0.3, 16, 1, 64),  # 67.2 lies nearer to 64 than to 80
        (48, 0.5, 16, 1, 32),  # halves go up
        (64, 0.95, 16, 1, 16),  # one multiple stays
        (12, 0.5, 16, 1, 12),  # narrower than one multiple
        (12, 0.5, 1, 1, 6),
        (128, 0.3, 16, 32, 96),  # of 32 groups of 4, each keeps 3
        (24, 0.5, 16, 3, 12),  # no multiple of 16 and 3 lies below 24
        (3, 0.3, 1, 1, 2),
        (3, 0.95, 1, 1, 1),
    ],
)
def test_how_many_channels_stay(channels, ratio, round_to, groups, kept):
    assert kept_count(channels, ratio, round_to, groups) == kept


def test_the_strongest_stay_in_order_and_ties_prefer_the_first():
    assert strongest(torch.tensor([3.0, 1.0, 2.0, 5.0]), 2) == [0, 3]
    assert strongest(torch.ones(4), 2) == [0, 1]


def test_groups_keep_the_same_positions():
    score = torch.tensor([9.0, 1.0, 2.0, 0.0, 1.0, 5.0])  # mean over two groups: 4.5, 1, 3.5
    assert strongest(score, 4, groups=2) == [0, 2, 3, 5]
