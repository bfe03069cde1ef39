"""Nested sizes and their classifiers, against the published code's numbers and by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from marrow.core.errors import MarrowError
from marrow.nn.nested import NestedHeads, TiedHead, check_sizes, nested_sizes

NEAR = {"rtol": 1e-6, "atol": 1e-8}


def case(golden, name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(golden / "mrl" / f"{name}.npz").items()}


@torch.no_grad()
def published(case: dict[str, torch.Tensor]) -> NestedHeads | TiedHead:
    """A head with the weights of a golden case."""
    sizes, classes = case["dims"].tolist(), case["logits_0"].shape[1]
    if "weight" in case:
        head = TiedHead(sizes, classes).double()
        head.whole.weight.copy_(case["weight"])
        head.whole.bias.copy_(case["bias"])
        return head
    head = NestedHeads(sizes, classes).double()
    for i, linear in enumerate(head.heads):
        linear.weight.copy_(case[f"weight_{i}"])
        linear.bias.copy_(case[f"bias_{i}"])
    return head


@pytest.mark.parametrize("name", ["mrl_linear_ce", "mrl_e_linear_ce"])
def test_logits_loss_and_gradient_are_the_published_ones(golden, name):
    known = case(golden, name)
    x = known["x"].clone().requires_grad_()
    said = published(known)(x)
    for i, logits in enumerate(said):
        torch.testing.assert_close(logits.detach(), known[f"logits_{i}"], **NEAR)
    smoothing = float(known["label_smoothing"])
    loss = sum(weight * F.cross_entropy(logits, known["target"], label_smoothing=smoothing)
               for weight, logits in zip(known["relative_importance"], said))  # fmt: skip
    loss.backward()
    torch.testing.assert_close(loss.detach(), known["loss"], **NEAR)
    torch.testing.assert_close(x.grad, known["grad_x"], **NEAR)


def test_sizes_are_halved_down_to_about_eight():
    assert nested_sizes(2048) == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert nested_sizes(768) == (12, 24, 48, 96, 192, 384, 768)
    assert nested_sizes(100) == (12, 25, 50, 100) and nested_sizes(8) == (8,) and nested_sizes(3) == (3,)


def test_weights_of_the_papers_heads():
    sizes = nested_sizes(2048)
    with torch.device("meta"):
        counts = [sum(p.numel() for p in kind(sizes, 1000).parameters()) for kind in (NestedHeads, TiedHead)]
    assert counts == [4_097_000, 2_049_000]


@pytest.mark.parametrize("kind", [NestedHeads, TiedHead])
def test_a_feature_is_trained_by_the_sizes_above_it_only(kind):
    torch.manual_seed(0)
    x = torch.randn(3, 8, requires_grad=True)
    for size, logits in zip((2, 4, 8), kind((2, 4, 8), 5)(x)):
        [gradient] = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        assert gradient[:, :size].any(0).all() and not gradient[:, size:].any()


@pytest.mark.parametrize("kind", [NestedHeads, TiedHead])
def test_what_starts_from_a_classifier_says_the_same_at_its_width(kind):
    torch.manual_seed(0)
    whole, x = nn.Linear(8, 5), torch.randn(3, 8)
    head = kind((2, 8), 5)
    head.start_from(whole)
    small, large = head(x)
    torch.testing.assert_close(large, whole(x))
    torch.testing.assert_close(small, F.linear(x[:, :2], whole.weight[:, :2], whole.bias))
    torch.testing.assert_close(head.at(2)(x[:, :2]), small)


def test_only_the_tied_head_knows_sizes_in_between():
    x = torch.randn(3, 8)
    tied = TiedHead((2, 8), 5)
    torch.testing.assert_close(tied.at(5)(x[:, :5]), F.linear(x[:, :5], tied.whole.weight[:, :5], tied.whole.bias))
    with pytest.raises(MarrowError, match="size 1 is outside 2 to 8"):
        tied.at(1)
    with pytest.raises(MarrowError, match="no classifier of size 5; the sizes are 2, 8"):
        NestedHeads((2, 8), 5).at(5)


@pytest.mark.parametrize(("sizes", "sentence"), [((8, 512), "size 512 > embedding width 256"), ((0, 8), "size 0 holds no feature"),
                                                 ((16, 8), "16, 8 are not in ascending order"), ((8, 8), "8, 8 are not in ascending"),
                                                 ((), "one nested size or more")])  # fmt: skip
def test_sizes_that_make_no_sense_are_refused(sizes, sentence):
    with pytest.raises(MarrowError, match=f"^here: {sentence}"):
        check_sizes(sizes, 256, "here")
