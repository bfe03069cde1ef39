"""By hand, and on two processes with different data as on one with the joint batch."""

import math
import sys
from pathlib import Path

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.launch import run
from marrow.nn.info_nce import info_nce, nt_xent

SCRIPT = Path(__file__).with_name("info_nce_run.py")


def views(count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, generator=draw), torch.randn(count, 4, generator=draw)


def test_orthogonal_examples_by_hand():
    x = 3 * torch.eye(4)
    assert info_nce(x, 2 * x, 0.5).item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-6)
    assert nt_xent(x, 2 * x, 0.5).item() == pytest.approx(math.log(1 + 6 * math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("own", [False, True])
def test_against_a_written_out_loop(own):
    a, b = (torch.nn.functional.normalize(v, dim=1) for v in views())
    every, lost = (torch.cat([a, b]) if own else None), []
    for i in range(5):
        for mine, theirs, place in ((a, b, i), (b, a, 5 + i)):
            others = [every[j] for j in range(10) if j != place] if own else list(theirs)
            total = sum(math.exp(float(mine[i] @ o) / 0.2) for o in others)
            lost.append(math.log(total) - float(mine[i] @ theirs[i]) / 0.2)
    found = (nt_xent if own else info_nce)(*views(), 0.2)
    assert found.item() == pytest.approx(sum(lost) / 10, rel=1e-5)


def test_one_example_has_nothing_to_be_told_apart_from():
    for loss in (info_nce, nt_xent):
        with pytest.raises(MarrowError, match="a batch of 1 has no other examples"):
            loss(*views(1))


def test_two_processes_equal_one_with_the_joint_batch(tmp_path):
    assert run([sys.executable, str(SCRIPT), str(tmp_path)], 2) == 0
    two = [torch.load(tmp_path / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)]
    one = torch.load(tmp_path / "alone.pt", weights_only=True)
    for name, value in one.items():
        mean = (two[0][name] + two[1][name]) / 2
        torch.testing.assert_close(
            mean, value, rtol=1e-4, atol=1e-6 * float(value.abs().max()), msg=lambda m, name=name: f"{name}: {m}"
        )
    assert {"info_nce", "nt_xent", "k-jem"} <= set(one)
