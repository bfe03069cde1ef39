"""A training that is killed again and again ends exactly where the uninterrupted one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from marrow.core import checkpoint
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings

from .engine_pieces import Pictures, SmallNet, Sort, Supervise


def differing(a, b, name=""):
    """Where two nested states are not equal to the bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) and a.dtype == b.dtype else [name]
    if isinstance(a, dict):
        return [d for k in a.keys() | b.keys() for d in differing(a.get(k), b.get(k), f"{name}.{k}")]
    if isinstance(a, list):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differing(x, y, f"{name}[{i}]")]
    return [] if a == b else [name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the killed and the whole runs, and what the script says of each case."""
    folder = tmp_path_factory.mktemp("runs")
    script = Path(__file__).with_name("resume_run.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return folder, dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("case", ["single", "duel"])
def test_kill_9_and_resume_equal_the_uninterrupted_run(case, runs):
    """BatchNorm, dropout, random views, EMA, validation; `duel` has two players; 0 workers against 2 throughout."""
    folder, said = runs[0] / case, runs[1][case]
    assert said.endswith("codes -9 -9 -9 130 0 0"), said
    killed, whole = (checkpoint.read(folder / f"{name}.pt") for name in ("killed", "whole"))
    assert whole["step"] == 60
    assert {"method", "optimizers", "average", "best", "rng", "window"} <= whole.keys()
    assert differing(killed, whole) == [], said
    weights = [torch.load(folder / f"{name}.weights", weights_only=True) for name in ("killed", "whole")]
    assert differing(*weights) == []
    assert (folder / "killed.csv").read_text() == (folder / "whole.csv").read_text()


def train(folder, method=None, settings=Settings(steps=6, batch=6, log_every=2), data=None, **engine):
    torch.manual_seed(0)
    method = method or Supervise(Sort(SmallNet()))
    engine = Engine(settings, device="cpu", checkpoint=folder / "a.pt", resume=True, **engine)
    engine.train(method, data or Data({"train": Pictures(20)}))
    return engine, method


def test_a_changed_run_is_refused_with_all_differences(tmp_path):
    train(tmp_path)
    changed = Settings(steps=8, batch=6, log_every=1, workers=1, optim={"main": Optim(lr=0.5)})
    with pytest.raises(MarrowError) as error:
        train(tmp_path, settings=changed, data=Data({"train": Pictures(20, seed=9)}))
    for words in ("a.pt: ", "settings.steps was 6, is 8", "settings.optim.main.lr was 0.001, is 0.5", "data.train was",
                  "--allow-changed"):  # fmt: skip
        assert words in str(error.value)
    assert "workers" not in str(error.value) and "log_every" not in str(error.value)
    engine, _ = train(tmp_path, settings=changed, data=Data({"train": Pictures(20, seed=9)}), allow_changed=True)
    assert engine.history["steps"] == 8


def test_a_number_of_threads_is_part_of_the_run(tmp_path):
    threads = torch.get_num_threads()
    train(tmp_path)
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(MarrowError, match=f"threads was {threads}, is {threads + 1}"):
            train(tmp_path)
    finally:
        torch.set_num_threads(threads)


def test_two_trainings_of_one_engine_resume_in_the_second(tmp_path):
    class Twice(Supervise):
        def fit(self, engine, data):
            engine.train(self, data)
            self.task.head.weight.data.mul_(0.5)
            engine.train(self, data)

    def fit(folder):
        torch.manual_seed(0)
        method = Twice(Sort(SmallNet()))
        method.fit(Engine(Settings(steps=6, batch=6), device="cpu", checkpoint=folder / "a.pt", resume=True),
                   Data({"train": Pictures(20)}))  # fmt: skip
        return method.state_dict()

    whole = fit(tmp_path)
    assert (tmp_path / "a.pt").is_file() and (tmp_path / "a-1.pt").is_file()
    (tmp_path / "a-1.pt").unlink()  # as if killed between the two
    assert differing(dict(fit(tmp_path)), dict(whole)) == []


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(tmp_path)
    file = tmp_path / "a.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MarrowError, match="a.pt: the checkpoint is damaged"):
        train(tmp_path)


def test_a_checkpoint_refuses_what_pickle_would_have_to_know(tmp_path):
    with pytest.raises(MarrowError, match="Settings cannot be kept in a checkpoint"):
        checkpoint.write(tmp_path / "x.pt", {"a": [Settings()]})
    assert not (tmp_path / "x.pt").exists()
