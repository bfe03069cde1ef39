import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.nn.class_map import check_class_map, map_logits

MAP = (0, 2, 0, -1, 1)


def test_posterior_is_summed_within_groups_and_normalised():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = map_logits(logits, torch.tensor(MAP), 3).softmax(-1)
    q = logits.softmax(-1)
    wanted = torch.stack([q[:, 0] + q[:, 2], q[:, 4], q[:, 1]], -1)
    torch.testing.assert_close(found, wanted / wanted.sum(-1, keepdim=True))


def test_a_permutation_only_moves_logits():
    logits = torch.randn(4, 3)
    torch.testing.assert_close(map_logits(logits, torch.tensor([2, 0, 1]), 3), logits[:, [1, 2, 0]], rtol=0, atol=0)


def test_a_class_far_below_the_winner_stays_finite():
    logits = torch.tensor([[500.0, -500.0, -510.0]])
    torch.testing.assert_close(map_logits(logits, torch.tensor([0, 1, 1]), 2), torch.tensor([[500.0, -500.0]]))


@pytest.mark.parametrize(
    "class_map, words",
    [
        ((0, 1), "2 entries, the teacher has 5 outputs"),
        ((0, 1, 2, 3, 0), "names class 3, the student has 0..2"),
        ((0, 0, 1, 1, -1), "no teacher's class to the student's class 2"),
    ],
)
def test_a_wrong_map_is_refused(class_map, words):
    with pytest.raises(MarrowError, match=words):
        check_class_map(class_map, teacher=5, student=3, where="class_map")
