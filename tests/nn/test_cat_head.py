"""A head of heads: the reference's numbers, and what its members say."""

import numpy as np
import pytest
import torch
from torch import nn

from marrow.core.errors import MarrowError
from marrow.nn.cat_head import cat_head


def heads(*widths: int, classes: int = 4, bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(width, classes, bias=bias) for width in widths]


def test_it_is_the_references(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "rich" / "cat_head.npz").items()}
    members = []
    for weight, bias in zip(case["head_weights"], case["head_biases"]):
        head = nn.Linear(weight.shape[1], weight.shape[0]).double()
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        members.append(head)
    made = cat_head(members)
    near = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(made.weight.detach(), case["cat_weight"], **near)
    torch.testing.assert_close(made.bias.detach(), case["cat_bias"], **near)
    torch.testing.assert_close(made(torch.cat(list(case["features"]), 1)).detach(), case["cat_logits"], **near)


def test_it_says_the_mean_and_knows_what_each_member_says():
    members = heads(3, 5, 2)
    x = torch.randn(6, 10)
    said = [head(part) for head, part in zip(members, x.split([3, 5, 2], 1))]
    made = cat_head(members)
    torch.testing.assert_close(made(x), sum(said) / 3)
    torch.testing.assert_close(made.members(x), torch.stack(said, 1))


def test_after_training_the_mean_of_its_members_is_still_what_it_says():
    made = cat_head(heads(3, 5))
    with torch.no_grad():
        made.weight.add_(torch.randn_like(made.weight))
        made.bias.add_(1.0)
    x = torch.randn(6, 8)
    torch.testing.assert_close(made.members(x).mean(1), made(x))


def test_heads_without_bias_have_none_of_it():
    made = cat_head(heads(3, 5, bias=False))
    assert not made.bias.any() and not made.offsets.any()


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(MarrowError, match="cat: the classifiers have 4, 3 classes"):
        cat_head([*heads(2), *heads(2, classes=3)])
