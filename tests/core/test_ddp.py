"""Two processes that share a batch do what one does with the whole of it."""

import sys
from pathlib import Path

import pytest
import torch

from marrow.core import checkpoint
from marrow.core.launch import run

SCRIPT = Path(__file__).with_name("ddp_run.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    assert run([sys.executable, str(SCRIPT), str(folder)], 2) == 0
    return folder


@pytest.fixture(scope="module")
def two(folder):
    """What each of the two processes found."""
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one(folder):
    """The same trainings in one process with the same batches."""
    return torch.load(folder / "alone.pt", weights_only=True)


@pytest.mark.parametrize("case", ["plain", "micro", "players", "idle", "cached"])
def test_two_processes_equal_one_with_twice_the_batch(case, one, two):
    for found in two:
        for name, value in one[case].items():
            torch.testing.assert_close(
                found[case][name], value, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
            )
    for name, value in two[0][case].items():
        assert torch.equal(value, two[1][case][name]), name


def test_losses_are_those_of_the_joint_batch_and_only_one_process_writes(folder, two):
    def rows(path):
        return {tuple(line.split(",")[:2]): float(line.split(",")[2]) for line in path.read_text().splitlines()[1:]}

    alone, together = rows(folder / "one" / "plain-0.csv"), rows(folder / "two" / "plain-0.csv")
    assert alone.keys() == together.keys() and ("20", "val/top1") in alone
    assert together == pytest.approx(alone, rel=1e-4)
    assert rows(folder / "two" / "plain-1.csv") == {}


def test_the_processes_agree_on_the_best_weights(two):
    assert two[0]["plain best"] == two[1]["plain best"] != "None"


def test_a_checkpoint_holds_the_random_numbers_of_both(folder, two):
    saved = checkpoint.read(folder / "two" / "plain.pt")
    assert saved["facts"]["ranks"] == 2 and saved["step"] == 20
    assert len(saved["rng"]) == 2
    assert not torch.equal(saved["rng"][0]["torch"], saved["rng"][1]["torch"])


def test_memory_is_agreed_upon(one, two):
    for found in two:
        assert found["short parts"] == 1
        for name, value in one["micro"].items():
            torch.testing.assert_close(found["short"][name], value, rtol=1e-4, atol=1e-6)
        assert (
            "a batch of 8 does not fit into the memory, and Joint needs all of it at once. A batch of 2 fits."
            in found["joint"]
        )


def test_map_is_shared_and_ordered(two):
    assert [found["map"] for found in two] == [[5, 4, 3, 2, 1]] * 2


def test_the_exit_code_of_a_process_comes_through():
    assert run([sys.executable, "-c", "raise SystemExit(2)"], 2) == 2
    assert run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"], 2) == 130


def test_processes_share_out_what_the_teacher_is_asked(one, two):
    """A trial, then 30 pictures under two views: each process one view in batches of 4, alone both in batches of 8."""
    for found in two:
        assert found["asked"] == [1 + 8, {"rows": 60, "asked": 60}]
    assert one["asked"] == [1 + 2 * 4, {"rows": 60, "asked": 60}]
