import pytest
import torch

from marrow.nn.dice import dice


def test_by_hand_with_a_void_pixel():
    # p(class 1) = 3/4 on each pixel; the third pixel is void
    logits = torch.tensor([0.0, torch.tensor(3.0).log().item()]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    ids = torch.tensor([[[1, 0, -1]]])
    # class 0: 2 * 1/4 / (1/2 + 1) = 1/3; class 1: 2 * 3/4 / (3/2 + 1) = 3/5
    assert dice(logits, ids, -1).item() == pytest.approx(1 - (1 / 3 + 3 / 5) / 2)


def test_right_answers_cost_nothing_and_wrong_ones_everything():
    ids = torch.tensor([[[0, 1], [2, -1]], [[1, 1], [1, 1]]])
    right = 100.0 * torch.nn.functional.one_hot(ids.clamp(min=0), 4).movedim(-1, 1)
    assert dice(right, ids, -1).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert dice(right.roll(1, 1), ids, -1).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_an_image_without_a_known_pixel_costs_nothing():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = dice(logits, torch.full((1, 4, 4), -1), -1)
    loss.sum().backward()
    assert loss.item() == 0 and not logits.grad.any()
