"""What is measured on the way: which weights are kept by it, when it ends a training, and that it changes nothing."""

import pytest
import torch
from torch import nn

from marrow.core.contracts import Step
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.settings import Optim

from .engine_pieces import Accuracy, Pictures, Plainly, Rows, SmallNet, Sort, Supervise, plainly, same, train


class Worse(Plainly):
    """Gets worse from the third step on, on purpose."""

    def forward(self, batch, clock, player="main"):
        loss = self.task.losses(self.task(batch), batch)["cross_entropy"]
        return Step({"cross_entropy": loss if clock.step < 60 else -loss})


def test_the_best_weights_are_kept_and_patience_ends_the_training():
    method, logger = plainly(Worse), Rows()
    val = Pictures(60, seed=1)
    adamw = {"main": Optim("adamw", 0.02)}
    engine = train(method, val=val, steps=200, evaluate_percent=5, patience=3, logger=logger, optim=adamw)
    history, curve = engine.history, logger.column("val/top1")
    best = max(curve.values())
    assert history["stopped_early"] and history["steps"] == 10 * len(curve) < 200
    assert history["best"] == (next(s for s, v in curve.items() if v == best), "top1", best)
    assert history["steps"] == history["best"][0] + 30
    assert engine.evaluate(method.task, val)[0]["value"] == best > list(curve.values())[-1]


class TwoRows(Accuracy):
    def compute(self):
        value = super().compute()[0]["value"]
        return [{"metric": "top1", "value": value, "n": self.n}, {"metric": "wrong", "value": 1 - value, "n": self.n}]


class SortTwice(Sort):
    def metric(self):
        return TwoRows()


def selected(**settings):
    torch.manual_seed(0)
    logger, method = Rows(), Plainly(SortTwice(SmallNet(plain=True)))
    adamw = {"main": Optim("adamw", 0.02)}
    engine = train(
        method, val=Pictures(60, seed=1), logger=logger, steps=60, evaluate_percent=5, optim=adamw, **settings
    )
    return engine.history["best"], logger, method


def test_the_metric_that_is_selected_decides_what_is_kept():
    kept = {}
    for name, settings in {"top1": {}, "wrong": {"select": "wrong"}}.items():
        best, logger, method = selected(**settings)
        values = logger.column(f"val/{name}")
        assert best == (max(values, key=values.get), name, max(values.values()))
        assert len(set(values.values())) > 2
        kept[name] = best[0]
        rows = Engine(device="cpu").evaluate(method.product(), Pictures(60, seed=1))
        assert next(row["value"] for row in rows if row["metric"] == name) == best[2]
    assert kept["top1"] != kept["wrong"]


def test_patience_counts_by_the_selected_metric():
    measured = {name: len(selected(select=name, patience=2)[1].column(f"val/{name}")) for name in ("top1", "wrong")}
    assert measured["wrong"] < measured["top1"]


def test_an_unknown_metric_ends_the_training_at_the_first_measurement():
    with pytest.raises(MarrowError, match="^select: 'balanced' is not measured; known: top1, wrong$"):
        selected(select="balanced")


def test_measuring_changes_nothing():
    with_val, without = plainly(Supervise), plainly(Supervise)
    logs = [Rows(), Rows()]
    train(with_val, val=Pictures(10), evaluate_percent=20, logger=logs[0], log_every=1, steps=1)
    train(without, logger=logs[1], log_every=1, steps=1)
    same(with_val, without, rtol=0, atol=0)
    logs = [Rows(), Rows()]
    train(plainly(Supervise), val=Pictures(10), evaluate_percent=20, logger=logs[0], log_every=1)
    train(plainly(Supervise), logger=logs[1], log_every=1)
    assert logs[0].column("drawn") == logs[1].column("drawn")
    assert logs[0].column("cross_entropy") == logs[1].column("cross_entropy")


def test_evaluate_gives_modes_back():
    task = Sort(SmallNet())
    task.train()
    task.backbone.net[1].eval()
    engine = Engine(device="cpu")
    modes = [m.training for m in task.modules()]
    rows = engine.evaluate(task, Pictures(10), batch=4)
    assert [m.training for m in task.modules()] == modes
    assert rows[0]["n"] == 10
    assert [len(b["label"]) for b in engine.batches(Pictures(10), task.input, 4)] == [4, 4, 2]


class Counted:
    """What is measured like a task without being a module."""

    input, at_once, labels = SmallNet.input, 256, None

    def __call__(self, batch):
        return {"logits": nn.functional.one_hot(batch["label"], 4)}

    decode, metric = Sort.decode, Sort.metric


def test_evaluate_takes_a_runner():
    assert Engine(device="cpu").evaluate(Counted(), Pictures(10, broken={3})) == [
        {"metric": "top1", "value": 1.0, "n": 9}
    ]
