import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from marrow.nn.block_attention import Attended
from marrow.nn.token_relations import relation_kl, relation_logits, relation_mse, token_relations


def tokens(seed: int, heads: int = 4, count: int = 10, width: int = 6, batch: int = 2, **kind) -> Attended:
    draw = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, batch, heads, count, width, generator=draw, **kind)
    return Attended(torch.zeros(batch, count, 1), q, k, v)


def cut(qkv: torch.Tensor, heads: int) -> Attended:
    """(B, N, 3C) in the order q, k, v, then head, then channel."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return Attended(qkv, q, k, v)


@pytest.mark.parametrize(("dtype", "rtol", "grad_rtol"), [(torch.float64, 1e-6, 1e-6), (torch.float32, 1e-4, 1e-3)])
def test_golden(golden, dtype, rtol, grad_rtol):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "tinymim" / "relation_loss.npz").items()}
    heads, close = int(case["num_heads"]), {"rtol": rtol, "atol": 1e-8 if dtype == torch.float64 else 1e-6}
    x = case["student_x"].to(dtype).requires_grad_()
    qkv = F.linear(x, case["student_qkv_weight"].to(dtype), case["student_qkv_bias"].to(dtype))
    student, teacher = cut(qkv, heads), cut(case["teacher_qkv"].to(dtype), heads)
    for kind in ("qk", "vv"):
        for side, each in (("student", student), ("teacher", teacher)):
            wanted = case[f"rel_{kind}_{side}"].to(dtype)
            torch.testing.assert_close(token_relations(each)[kind].detach(), wanted, **close)
    losses = {kind: relation_kl(student, teacher, kind) for kind in ("qk", "vv")}
    for kind, loss in losses.items():
        torch.testing.assert_close(loss.detach(), case[f"loss_{kind}"].to(dtype), **close)
    sum(losses.values()).backward()
    torch.testing.assert_close(x.grad, case["grad_student_x"].to(dtype), rtol=grad_rtol, atol=close["atol"])


@pytest.mark.parametrize("kind", ["qk", "vv", "qq", "kk"])
def test_the_gradient_is_that_of_the_plain_formula(kind):
    student, teacher = (tokens(seed, dtype=torch.float64) for seed in (0, 1))
    gradients = []
    for formula in (lambda s: relation_kl(s, teacher, kind),
                    lambda s: F.kl_div(relation_logits(getattr(s, kind[0]), getattr(s, kind[1])).log_softmax(-1),
                                       token_relations(teacher, (kind,))[kind], reduction="none").sum(-1).mean()):  # fmt: skip
        mine = Attended(*(part.clone().requires_grad_() for part in student))
        (3 * formula(mine)).backward()
        gradients.append([part.grad for part in mine[1:]])
    for ours, plain in zip(*gradients):
        assert (ours is None) == (plain is None)
        if ours is not None:
            torch.testing.assert_close(ours, plain)


def test_how_many_heads_at_once_changes_nothing():
    student, teacher = tokens(0), tokens(1, width=3)
    torch.testing.assert_close(relation_kl(student, teacher, "qk", most=1), relation_kl(student, teacher, "qk"))


def test_equal_nets_have_no_loss_and_no_gradient():
    same = tokens(0)
    mine = Attended(*(part.clone().requires_grad_() for part in same))
    loss = relation_kl(mine, same, "qk") + relation_kl(mine, same, "vv")
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert max(part.grad.abs().max() for part in mine[1:]) < 1e-6


def test_a_uniform_student_of_a_uniform_teacher_has_no_loss():
    student, teacher = tokens(0), tokens(1)
    zero = torch.zeros_like(student.q)
    assert relation_kl(student._replace(q=zero), teacher._replace(q=zero), "qk").item() == pytest.approx(0.0, abs=1e-7)


def test_a_uniform_student_of_a_sure_teacher_loses_the_logarithm_of_all_tokens():
    student = tokens(0, count=197)
    student = student._replace(q=torch.zeros_like(student.q))
    one = torch.eye(197).expand(2, 4, -1, -1)
    teacher = Attended(student.x, 1e4 * one, one, one)
    assert relation_kl(student, teacher, "qk").item() == pytest.approx(math.log(197), abs=1e-5)


def test_half_precision_where_a_softmax_underflows_stays_finite():
    student, teacher = tokens(0), tokens(1)
    student = Attended(*(part.to(torch.bfloat16).requires_grad_() for part in student))
    teacher = Attended(*((100 * part).to(torch.bfloat16) for part in teacher))
    with torch.autocast("cpu", torch.bfloat16):
        loss = relation_kl(student, teacher, "qk")
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss) and loss > 1
    assert torch.isfinite(student.q.grad).all() and student.q.grad.dtype == torch.bfloat16


def test_without_softmax_by_hand():
    """Two tokens of one head: products 1, 0, 0, 4 over sqrt(4) against those of a width of 1: 1, 2, 2, 4."""
    q = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]])[None, None]
    student = Attended(torch.zeros(1, 2, 4), q, torch.zeros_like(q), q)
    teacher = Attended(torch.zeros(1, 2, 1), *torch.tensor([1.0, 2.0]).view(1, 1, 2, 1).expand(3, -1, -1, -1, -1))
    wanted = ((0.5 - 1) ** 2 + 2 * (0 - 2) ** 2 + (2 - 4) ** 2) / 4
    assert relation_mse(student, teacher, "qq").item() == pytest.approx(wanted)
    assert relation_mse(student, teacher, "qk").item() == pytest.approx(
        (1 + 4 + 4 + 16) / 4
    )  # the student's keys are 0
    assert relation_mse(teacher, teacher, "qk").item() == 0.0


def test_products_are_compared_in_float32_under_autocast():
    student, teacher = tokens(0), tokens(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = relation_mse(student, teacher, "vv")
    assert loss.dtype == torch.float32 and torch.equal(loss, relation_mse(student, teacher, "vv"))
