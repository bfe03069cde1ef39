import pytest
import torch

from marrow.nn.whitened import whitened_mse, whitened_smooth_l1


def test_by_hand():
    # mean 2, deviation 1 -> -1 and 1; distances of 1 and 4 with beta 2: 1 / 4 and 4 - 1
    loss = whitened_smooth_l1(torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 3.0]]))
    assert loss.item() == pytest.approx((0.25 + 3) / 2, abs=1e-4)


def test_scale_and_offset_of_the_teacher_do_not_matter():
    student, teacher = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        whitened_smooth_l1(student, 50 * teacher + 3), whitened_smooth_l1(student, teacher), rtol=1e-4, atol=0
    )


def test_squares_by_hand():
    # mean 2, deviation 1 -> -1 and 1; distances of 1 and 4
    loss = whitened_mse(torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 3.0]]))
    assert loss.item() == pytest.approx((1 + 16) / 2, abs=1e-3)
    half = whitened_mse(
        torch.tensor([[0.0, 5.0]], dtype=torch.bfloat16), torch.tensor([[1.0, 3.0]], dtype=torch.bfloat16)
    )
    assert half.dtype == torch.float32 and half.item() == pytest.approx(loss.item(), rel=1e-5)
