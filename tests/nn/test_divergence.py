import math

import numpy as np
import pytest
import torch

from marrow.nn.divergence import entropy, js, kl, soft_ce, sym_kl

EVEN, SURE = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[math.log(3.0), 0.0]]).double()


def some(rows: int = 5, classes: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(rows, classes, generator=draw, dtype=torch.float64) for _ in range(2))


def test_closed_forms():
    # p = (1/2, 1/2), q = (3/4, 1/4)
    assert kl(EVEN, SURE).item() == pytest.approx(0.130812, abs=1e-6)
    assert kl(SURE, EVEN).item() == pytest.approx(0.143841, abs=1e-6)
    assert sym_kl(EVEN, SURE).item() == pytest.approx(0.137327, abs=1e-6)
    assert js(EVEN, SURE).item() == pytest.approx(0.033822, abs=1e-6)
    assert soft_ce(EVEN, SURE).item() == pytest.approx(math.log(2.0), abs=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_golden(golden, dtype, rtol):
    case = np.load(golden / "ssld" / "divergences.npz")
    student, teacher = (torch.tensor(case[f"{k}_logits"], dtype=dtype) for k in ("student", "teacher"))
    student.requires_grad_()
    per_sample = sym_kl(student, teacher)
    np.testing.assert_allclose(per_sample.detach(), case["sym_kl_per_sample"], rtol=rtol)
    np.testing.assert_allclose(per_sample.mean().item(), case["sym_kl"], rtol=rtol)
    np.testing.assert_allclose(js(student, teacher).mean().item(), case["js"], rtol=rtol)
    np.testing.assert_allclose(soft_ce(student, teacher).mean().item(), case["soft_ce"], rtol=rtol)
    per_sample.mean().backward()
    np.testing.assert_allclose(student.grad, case["grad_sym_kl"], rtol=10 * rtol, atol=1e-6 if rtol > 1e-5 else 1e-8)


def test_gradient_is_that_of_the_paper():
    student, teacher = some()
    student.requires_grad_()
    sym_kl(student, teacher).mean().backward()
    p, q = student.detach().softmax(-1), teacher.softmax(-1)
    log_ratio = (p / q).log()
    by_hand = ((p - q) + p * (log_ratio - (p * log_ratio).sum(-1, keepdim=True))) / 2 / len(p)
    torch.testing.assert_close(student.grad, by_hand)


@pytest.mark.parametrize("divergence", [sym_kl, js, kl])
def test_zero_only_for_equal_posteriors(divergence):
    student, teacher = some()
    torch.testing.assert_close(divergence(student, student + 4.0), torch.zeros(5).double(), atol=1e-12, rtol=0)
    assert (divergence(student, teacher) > 1e-3).all()


@pytest.mark.parametrize("divergence", [sym_kl, js])
def test_symmetric(divergence):
    student, teacher = some()
    torch.testing.assert_close(divergence(student, teacher), divergence(teacher, student))


def test_kl_is_not_symmetric_and_misses_what_the_teacher_sees():
    sees_two = torch.tensor([[5.0, 5.0, -5.0]])
    sees_one = torch.tensor([[5.0, -5.0, -5.0]])
    assert kl(sees_one, sees_two) > 4 * kl(sees_two, sees_one)


def test_js_is_at_most_ln_2():
    far = js(torch.tensor([[1e4, 0.0, 0.0]]), torch.tensor([[0.0, 1e4, 0.0]]))
    assert far.item() == pytest.approx(math.log(2.0))


def test_soft_ce_exceeds_kl_by_the_teachers_entropy():
    student, teacher = some()
    torch.testing.assert_close(soft_ce(student, teacher), kl(student, teacher) + entropy(teacher))


def test_temperature_divides_both_logits():
    student, teacher = some()
    for divergence in (sym_kl, js, kl, soft_ce):
        torch.testing.assert_close(divergence(student, teacher, 2.5), divergence(student / 2.5, teacher / 2.5))


def test_extreme_logits_stay_finite():
    student, teacher = torch.tensor([[3e4, -3e4]], requires_grad=True), torch.tensor([[-3e4, 3e4]])
    for divergence in (sym_kl, js, kl, soft_ce):
        value = divergence(student, teacher)
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), student)[0]).all()


def test_half_precision_is_computed_in_float32():
    student, teacher = (x.bfloat16() for x in some())
    with torch.autocast("cpu", torch.bfloat16):
        value = sym_kl(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, sym_kl(student.float(), teacher.float()), rtol=0, atol=0)
