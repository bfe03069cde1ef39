"""Checkpoints with anything in them changed: the training goes on from them, or refuses them in a sentence."""

import copy
import os
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marrow.core import checkpoint, optim
from marrow.core.engine import Engine
from marrow.core.errors import Interrupted, MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings

from ..core.engine_pieces import Duel, Pictures, SmallNet, Sort, Supervise
from .inputs import put, refusal
from .test_properties import ALWAYS, JSON, changed

SETTINGS = Settings(steps=8, batch=6, optim={"main": Optim("adamw", 0.01)}, ema=0.9, evaluate_percent=50, log_every=3)
KNOT: list = [1]
KNOT.append(KNOT)  # pickle allows that without any class
ODD = [torch.zeros(3), torch.tensor(float("nan")), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(5, device="meta"),
       torch.zeros(1).expand(10**9), torch.sparse_coo_tensor([[0]], [1.0], (4,)), float("nan"), float("inf"), 10**400,
       2**63, -1, [[[]]] * 3, {1: 2}, {"": {}}, "\x1b[2J", True]  # fmt: skip


class Until:
    """A logger that sends this process SIGTERM after a step."""

    def __init__(self, step):
        self.step = step

    def log(self, step, values):
        if step >= self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self):
        pass


def learn(cls=Supervise):
    torch.manual_seed(3)
    return cls(Sort(SmallNet()))


def train(path, method=None, how=SETTINGS, **more):
    data = Data({"train": Pictures(20)}, Pictures(8, seed=1))
    engine = Engine(how, device="cpu", checkpoint=path, resume=True, **more)
    engine.train(method or learn(), data)
    return engine.history


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint of six steps of eight, after a measurement and in the middle of a window of losses."""
    path = tmp_path_factory.mktemp("made") / "net.pt"
    with pytest.raises(Interrupted):
        train(path, logger=Until(4))
    return path


@pytest.fixture
def good(made):
    return checkpoint.read(made)


def test_as_it_is_it_goes_on(made, good, tmp_path):
    checkpoint.write(tmp_path / "net.pt", good)
    assert 0 < good["step"] < 8 and good["best"]["step"] == 4 and good["optimizers"]["main"]["state"]
    assert train(tmp_path / "net.pt")["steps"] == 8


def test_with_anything_changed(made, tmp_path):
    """Numbers that a training may have are believed: this says only that nothing breaks."""
    path, ends = tmp_path / "net.pt", {"went on": 0, "refused": 0}

    @settings(max_examples=150, **ALWAYS)
    @given(changed(checkpoint.read(made), JSON | st.sampled_from(ODD)), st.booleans())
    def holds(value, allowed):
        torch.save(value, path)
        try:
            assert train(path, allow_changed=allowed)["steps"] <= 8  # fewer where it is said to have stopped early
            ends["went on"] += 1
        except MarrowError as error:
            assert str(error)
            ends["refused"] += 1

    holds()
    assert min(ends.values()) > 10


def without(path):
    def change(state):
        for key in path[:-1]:
            state = state[key]
        del state[path[-1]]

    return change


def instead(path, value):
    return lambda state: put(state, path, value)


MAIN = ("optimizers", "main")


@pytest.mark.parametrize(("change", "said"), [
    (instead(("step",), 9), "it is at step 9 of 8"),
    (instead(("step",), -1), "it is at step -1 of 8"),
    (instead(("micro_batch",), 0), "micro_batch is 0"),
    (without(("method", "task.head.bias")), "method lacks 'task.head.bias'"),
    (instead(("method", "evil"), torch.ones(1)), "method has 'evil', which the training has not"),
    (instead(("method", "task.head.bias"), torch.ones(5)), r"task.head.bias is float32 5, and float32 4 is needed"),
    (instead(("method", "task.head.bias"), torch.ones(4, device="meta")), "task.head.bias is float32 4, and|is damaged"),
    (instead(("average",), None), "average is None"),
    (without((*MAIN, "state", 0, "exp_avg")), "optimizers.main.state.0 lacks 'exp_avg'"),
    (instead((*MAIN, "state", 0, "exp_avg_sq"), torch.ones(2)), r"state.0.exp_avg_sq is float32 2, and float32 8 x 3"),
    (instead((*MAIN, "state", 0, "step"), torch.tensor(-5.0)), r"state.0.step is -5.0"),
    (instead((*MAIN, "state", 0, "step"), torch.tensor(float("nan"))), r"state.0.step is nan"),
    (instead((*MAIN, "state", 99), {}), "optimizers.main.state.99 is of no weight"),
    (instead((*MAIN, "param_groups", 0, "params"), [5]), r"param_groups\[0\] is of other weights"),
    (instead((*MAIN, "param_groups"), []), "param_groups is no list of 1"),
    (instead(("optimizers",), {"other": {}}), "optimizers lacks 'main'"),
    (instead(("best", "weights"), {}), "best.weights lacks"),
    (instead(("best", "value"), "high"), "best has no metric, value and weights"),
    (instead(("best", "step"), 10**6), "best is of step 1000000"),
    (instead(("window", "steps"), [1, "2"]), "window"),
    (instead(("window", "losses"), [{"cross_entropy": "x"}] * 5), "window holds"),
    (instead(("rng",), []), "rng is empty"),
    (instead(("rng", 0, "numpy", "pos"), 10**9), "rng.numpy.pos is 1000000000"),
    (instead(("rng", 0, "torch"), torch.zeros(16, dtype=torch.uint8)), "rng.torch is uint8 16, and uint8"),
    (instead(("rng", 0, "torch"), torch.zeros(5056, dtype=torch.uint8)), "rng: "),
    (instead(("rng", 0, "python", "words"), torch.full((625,), -1)), "rng: "),
    (instead(("scaler",), {"scale": 0.0}), "scaler has 'scale'"),
    (instead(("unreadable",), {"a": 1}), "unreadable holds something that is no text"),
    (instead(("facts", "settings"), KNOT), "the run that is to be resumed was another"),
    (instead(("facts", 7), 3), "the run that is to be resumed was another"),
    (instead(("facts", "threads"), torch.ones(3)), "this is no checkpoint of a training"),
    (instead(("step",), 10**400), "this is no checkpoint of a training"),
])  # fmt: skip
def test_what_does_not_fit_is_named_with_the_file(good, tmp_path, change, said):
    change(good)
    torch.save(good, tmp_path / "net.pt")
    sentence = refusal(lambda: train(tmp_path / "net.pt"), said)
    assert "net.pt: " in sentence and ("Delete it to " in sentence or "--allow-changed" in sentence)


@pytest.mark.parametrize(("other", "said"), [
    ({"optim": {"main": Optim("sgd", 0.01)}}, "optimizers.main.state.0 lacks 'momentum_buffer'"),
    ({"ema": None}, "average is a dict, and None would fit"),
    ({"steps": 2}, "it is at step . of 2"),
])  # fmt: skip
def test_a_training_changed_too_far_for_allow_changed(made, tmp_path, other, said):
    path = tmp_path / "net.pt"
    path.write_bytes(made.read_bytes())
    how = Settings(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__dataclass_fields__}, **other})
    refusal(lambda: train(path, how=how, allow_changed=True), f"does not fit this training .{said}")


def test_how_an_optimiser_is_set_up_comes_from_the_recipe():
    def built(**args):
        method = learn()
        for p in method.parameters():
            p.grad = torch.ones_like(p)
        return optim.build(method, Settings(steps=1, optim={"main": Optim("adamw", 0.01, args)}))["main"]

    old, new = built(weight_decay=0.5, betas=[0.5, 0.6]), built(weight_decay=0.1)
    old.step()
    optim.restore(new, optim.state(old))
    assert [(g["weight_decay"], g["betas"]) for g in new.param_groups] == [(0.1, (0.9, 0.999)), (0.0, (0.9, 0.999))]
    pairs = zip(old.state.values(), new.state.values(), strict=True)
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in pairs)


@pytest.mark.parametrize("kind", ["sgd", "adam", "lamb", "adafactorbv", "lion", "muon", "radam", "nadamw", "adopt"])
def test_each_optimiser_goes_on_to_the_bit(kind, tmp_path):
    """Each keeps something else; what it keeps is found out by a step on zeros, and must be what a real one kept."""
    how = Settings(steps=6, batch=6, optim={"main": Optim(kind, 0.01)}, log_every=2)
    whole, stopped = learn(), learn()
    train(tmp_path / "whole.pt", whole, how)
    with pytest.raises(Interrupted):
        train(tmp_path / "net.pt", stopped, how, logger=Until(2))
    again = learn()
    train(tmp_path / "net.pt", again, how)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))


def test_two_players_go_on(tmp_path):
    how = Settings(steps=6, batch=6, optim={"noise": Optim("sgd", 0.1), "task": Optim("adamw", 0.01)}, log_every=2)
    with pytest.raises(Interrupted):
        train(tmp_path / "net.pt", learn(Duel), how, logger=Until(2))
    state = checkpoint.read(tmp_path / "net.pt")
    swapped = copy.deepcopy(state)
    swapped["optimizers"] = {"noise": state["optimizers"]["task"], "task": state["optimizers"]["noise"]}
    torch.save(swapped, tmp_path / "swapped.pt")
    refusal(lambda: train(tmp_path / "swapped.pt", learn(Duel), how), "does not fit this training .optimizers.noise")
    assert train(tmp_path / "net.pt", learn(Duel), how)["steps"] == 6


def test_the_trial_of_an_optimiser_draws_nothing():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    before = torch.get_rng_state()
    assert {"exp_avg", "exp_avg_sq", "step"} == set(optim.kept_of(weight, Optim("adamw", 0.1)))
    optim.kept_of(weight, Optim("kron", 0.1))
    assert torch.equal(torch.get_rng_state(), before)
