"""Two processes with different data against one with the joint batch, in fp32 and without BatchNorm.

InfoNCE, NT-Xent and SepCLR stand in tests/nn/test_info_nce.py.
"""

import sys
from pathlib import Path

import pytest
import torch

from marrow.core.launch import run

SCRIPT = Path(__file__).with_name("two_processes_run.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found with everything, and each of the two with its half."""
    folder = tmp_path_factory.mktemp("ranks")
    assert run([sys.executable, str(SCRIPT), str(folder)], 2) == 0
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in ("alone", "found-0", "found-1")]


def close(mean, value):
    torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6 * float(value.abs().max()))


def test_risks_of_domains_are_those_of_the_joint_batch(found):
    alone, *two = (each["vrex"] for each in found)
    for name, value in alone.items():
        close((two[0][name] + two[1][name]) / 2, value)
        if name in ("risk", "variance"):  # each process knows it whole
            close(two[0][name], value)


@pytest.mark.parametrize("case", ["cvrl", "learned_style"])
def test_loss_and_gradients_are_those_of_the_joint_batch(case, found):
    alone, *two = (each[case] for each in found)
    assert not torch.allclose(two[0]["loss"], two[1]["loss"], rtol=1e-3)  # the halves do differ
    for name, value in alone.items():
        close((two[0][name] + two[1][name]) / 2, value)


def test_style_scales_begin_with_the_mean_of_what_each_process_saw(found):
    """Not with the deviation of the joint batch: that would cost an exchange in the middle of the first pass."""
    one, two = (each["beginning"] for each in found[1:])
    assert not torch.allclose(one["own"], two["own"], rtol=1e-3)
    assert torch.equal(one["agreed"], two["agreed"])
    torch.testing.assert_close(one["agreed"], (one["own"] + two["own"]) / 2)
