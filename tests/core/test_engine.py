"""The loop: what reaches the weights, what is kept, and what ends a training."""

import dataclasses
import io
import math

import pytest
import torch
from torch import nn

from marrow.core.contracts import Method, Step
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.progress import Progress
from marrow.core.settings import Optim, Settings
from marrow.core.table import Table
from marrow.core.timm_backbone import TimmBackbone

from .engine_pieces import SGD, Duel, Pictures, Plainly, Rows, SmallNet, Sort, Supervise, plainly, same, train


def test_the_loop_is_what_one_would_write_by_hand():
    ours, hand = plainly(), plainly()
    logger = Rows()
    engine = train(ours, logger=logger, log_every=2)
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    from marrow.core.loader import train_batches
    from marrow.core.preprocess import plain

    batches = train_batches(Data({"train": Pictures(40)}), ("train",), plain(SmallNet.input), engine.settings)
    losses = []
    for _ in range(5):
        loss = hand(next(batches), None).losses["cross_entropy"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    same(ours, hand, rtol=0, atol=0)
    expected = {2: sum(losses[:2]) / 2, 4: sum(losses[2:4]) / 2, 5: losses[4]}
    assert logger.column("cross_entropy") == pytest.approx(expected)
    assert logger.column("loss") == pytest.approx(expected)
    assert logger.column("lr") == {2: 0.1, 4: 0.1, 5: 0.1}


@pytest.mark.parametrize("micro_batch", [5, 6, 1])
def test_micro_batches_weigh_by_their_share(micro_batch):
    whole, parts = plainly(), plainly()
    first, second = Rows(), Rows()
    train(whole, logger=first, clip=0.5)
    engine = train(parts, logger=second, clip=0.5, micro_batch=micro_batch)
    same(whole, parts, rtol=1e-4, atol=1e-6)
    assert second.column("cross_entropy") == pytest.approx(first.column("cross_entropy"), rel=1e-5)
    assert second.column("grad_norm") == pytest.approx(first.column("grad_norm"), rel=1e-4)
    assert engine.history["micro_batch"] == micro_batch


class Joint(Plainly):
    """Needs its batch in one piece."""

    per_sample = False


class Both(Method):
    """Two streams of unequal size."""

    streams = ("few", "many")

    def __init__(self, task):
        super().__init__()
        self.task, self.seen = task, []

    def forward(self, batch, clock, player="main"):
        self.seen.append({stream: len(fields["label"]) for stream, fields in batch.items()})
        return Step({s: self.task.losses(self.task(b), b)["cross_entropy"] for s, b in batch.items()})

    def product(self):
        return self.task


def test_streams_are_split_alike():
    streams = {"few": Pictures(20), "many": Pictures(40, seed=1)}
    whole, parts = plainly(Both), plainly(Both)
    train(whole, streams=streams, batch={"few": 4, "many": 8})
    train(parts, streams=streams, batch={"few": 4, "many": 8}, micro_batch=6)
    assert whole.seen[0] == {"few": 4, "many": 8} and parts.seen[0] == {"few": 2, "many": 4}
    same(whole, parts, rtol=1e-4, atol=1e-6)


def test_a_loss_over_the_batch_cannot_be_cut():
    with pytest.raises(MarrowError, match="the loss of Joint needs the whole batch of 12 at once"):
        train(plainly(Joint), micro_batch=6)


def short_of_memory(base, most):
    class Short(base):
        def forward(self, batch, clock, player="main"):
            if len(batch["label"]) > most:
                raise torch.OutOfMemoryError(f"{len(batch['label'])} examples")
            return super().forward(batch, clock, player)

    return Short


def test_out_of_memory_goes_on_with_smaller_parts():
    logger = Rows()
    method = plainly(short_of_memory(Plainly, 4))
    engine = train(method, logger=logger)
    assert engine.history["micro_batch"] == 3
    assert logger.column("micro_batch") == {0: 3.0} or logger.rows[:2] == [
        (0, {"micro_batch": 6.0}),
        (0, {"micro_batch": 3.0}),
    ]
    expected = plainly()
    train(expected, micro_batch=3)
    same(method, expected, rtol=0, atol=0)


def test_a_retried_step_draws_the_same_numbers():
    method, expected = plainly(short_of_memory(Supervise, 6)), plainly(Supervise)
    logs = [Rows(), Rows()]
    train(method, logger=logs[0], log_every=1)
    train(expected, logger=logs[1], log_every=1, micro_batch=6)
    assert logs[0].column("drawn") == logs[1].column("drawn")


def test_out_of_memory_names_the_batch_that_fits():
    with pytest.raises(
        MarrowError,
        match="a batch of 12 does not fit into the memory, and Short needs all of it at once. A batch of 3 fits",
    ):
        train(plainly(short_of_memory(Joint, 4)))
    with pytest.raises(MarrowError, match="not even one example fits"):
        train(plainly(short_of_memory(Plainly, 0)))


class Watching(Duel):
    """Looks at which weights take gradients for each player."""

    def forward(self, batch, clock, player="task"):
        frozen = {"noise": not self.noise.requires_grad, "task": not self.task.head.weight.requires_grad}
        assert [name for name, is_frozen in frozen.items() if not is_frozen] == [player]
        return super().forward(batch, clock, player)


def test_players_alternate_and_the_others_are_frozen():
    torch.manual_seed(0)
    method = Watching(Sort(SmallNet()))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    logger = Rows()
    train(method, optim={"noise": Optim("sgd", 0.1), "task": Optim("adamw", 0.01)}, logger=logger)
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert {"noise", "mean", "task.head.weight"} <= moved
    assert {"noise/hurt", "task/cross_entropy", "noise/lr", "task/lr"} <= logger.rows[-1][1].keys()
    assert all(p.requires_grad for p in method.parameters())


def test_the_average_by_hand():
    method = plainly()
    kept = []

    class Kept(Plainly):
        def after_step(self, clock):
            kept.append([p.detach().clone() for p in self.parameters()])

    method = plainly(Kept)
    start = [p.detach().clone() for p in method.parameters()]
    train(method, ema=0.8)
    mean = start
    for weights in kept:
        mean = [0.8 * m + 0.2 * w for m, w in zip(mean, weights)]
    for p, m in zip(method.parameters(), mean):
        torch.testing.assert_close(p.detach(), m, rtol=1e-5, atol=1e-7)


class Breaks(Plainly):
    def forward(self, batch, clock, player="main"):
        loss = super().forward(batch, clock).losses["cross_entropy"]
        return Step({"cross_entropy": loss, "entropy": loss * (math.nan if clock.step == 3 else 0.1)})


def test_a_loss_that_is_not_finite_names_step_term_and_examples():
    method, logger = plainly(Breaks), Rows()
    with pytest.raises(MarrowError) as error:
        train(method, logger=logger)
    assert error.value.where == "train"
    from marrow.core.loader import train_batches

    stream = train_batches(Data({"train": Pictures(40)}), ("train",), None, Settings(steps=5, batch=12))
    pairs = stream.keys(3)["train"]
    assert {epoch for epoch, _ in pairs} == {0, 1}
    for words in ("the loss 'entropy' is not finite at step 3", f"train {pairs[0]}, train {pairs[1]}", "and 4 more"):
        assert words in str(error.value)
    assert all(torch.isfinite(p).all() for p in method.parameters())


@pytest.mark.parametrize("duration, steps", [({"steps": 7}, 7), ({"epochs": 1.5}, 5), ({"examples": 25}, 3)])
def test_durations(duration, steps):
    clocks = []

    class Timed(Plainly):
        def after_step(self, clock):
            clocks.append(clock)

    engine = train(plainly(Timed), **{"steps": None, **duration})
    assert engine.history["steps"] == steps == len(clocks)
    assert [c.step for c in clocks] == list(range(steps))
    assert [c.epoch for c in clocks] == [12 * i // 40 for i in range(steps)]
    assert [c.progress for c in clocks] == [i / steps for i in range(steps)]


@pytest.mark.parametrize("settings, words", [
    ({"steps": None}, "one of steps, epochs, examples is needed, got none"),
    ({"epochs": 2.0}, "one of steps, epochs, examples is needed, got steps, epochs"),
    ({"steps": 0}, "steps 0 is not above 0"),
    ({"precision": "fp16"}, "unknown precision 'fp16'"),
    ({"precision": "16-mixed"}, "16-mixed needs a GPU"),
    ({"checkpoint_gradients": True}, "SmallNet cannot checkpoint gradients"),
])  # fmt: skip
def test_bad_settings_are_named(settings, words):
    with pytest.raises(MarrowError, match=words):
        train(plainly(), **settings)


def test_devices_that_are_not_there_are_named():
    with pytest.raises(MarrowError, match="2 devices need 2 processes, and the launcher started 1"):
        Engine(device="cpu", devices=2)
    with pytest.raises(MarrowError, match="no device 'tpu' here"):
        Engine(device="tpu")


class Precise(Plainly):
    def forward(self, batch, clock, player="main"):
        out = self.task(batch)
        self.dtype, self.form = out["logits"].dtype, batch["image"].is_contiguous(memory_format=torch.channels_last)
        return Step({"sum": out["logits"].pow(2).mean().bfloat16(), "other": out["logits"].float().mean()})


def test_bf16_runs_forward_in_bf16_and_sums_losses_in_fp32():
    method, logger = plainly(Precise), Rows()
    train(method, precision="bf16-mixed", channels_last=True, logger=logger, log_every=1)
    assert method.dtype == torch.bfloat16 and method.form
    assert method.task.head.weight.dtype == torch.float32
    row = logger.rows[-1][1]
    assert row["loss"] == pytest.approx(row["sum"] + row["other"], rel=1e-6)


class Timm(Plainly):
    pass


def timm_method():
    torch.manual_seed(0)
    net = TimmBackbone.create("resnet10t", img_size=32, channels=(8, 16, 16, 16), stem_width=8)
    return Timm(Sort(net))


def test_checkpointed_gradients_are_the_same():
    whole, saved = timm_method(), timm_method()
    train(whole, steps=2)
    train(saved, steps=2, checkpoint_gradients=True)
    assert saved.task.backbone.net.grad_checkpointing
    weights = [dict(m.named_parameters()) for m in (whole, saved)]
    for name, p in weights[0].items():
        torch.testing.assert_close(p, weights[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_net_trains_alike_and_is_left_as_it_was():
    whole, compiled = plainly(), plainly()
    train(whole)
    train(compiled, compile=True)
    same(whole, compiled, rtol=1e-4, atol=1e-5)
    assert compiled.task.backbone._compiled_call_impl is None


class Dream(Method):
    """Makes examples out of nothing."""

    streams = ()

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.ones(2, 3))

    def forward(self, batch, clock, player="main"):
        assert batch == {}
        return Step({"energy": self.image.square().sum() + torch.rand((), generator=clock.rng)})

    def product(self):
        return Table({"image": self.image.detach()})


def test_a_method_without_data():
    method, data = Dream(), Data()
    engine = Engine(Settings(steps=20, optim=SGD), device="cpu")
    engine.train(method, data)
    assert method.product().columns["image"].abs().max() < 0.5
    with pytest.raises(MarrowError, match="reads no data, so it is trained for `steps`"):
        Engine(Settings(epochs=1), device="cpu").train(method, data)
    with pytest.raises(MarrowError, match="product of Dream has no weights to average"):
        engine.with_(ema=0.9).train(method, data)


def test_an_engine_inside_a_fit_has_settings_of_its_own():
    class Rounds(Plainly):
        def fit(self, engine, data):
            inner = engine.with_(steps=2)
            for _ in range(3):
                inner.train(self, data)
            self.inner = inner
            engine.train(self, data)

    method = plainly(Rounds)
    engine = Engine(Settings(steps=4, batch=8, optim=SGD), device="cpu")
    method.fit(engine, Data({"train": Pictures(20)}))
    assert method.inner.history["steps"] == 2 and engine.history["steps"] == 4
    assert dataclasses.replace(engine.settings, steps=2) == method.inner.settings


def test_the_same_seed_gives_the_same_numbers_and_the_callers_are_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3).tolist()
    found = []
    for seed in (1, 1, 2):
        method, logger = plainly(Supervise), Rows()
        torch.manual_seed(7)
        train(method, seed=seed, logger=logger, log_every=1)
        assert torch.rand(3).tolist() == expected
        found.append(logger.column("drawn"))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_map_keeps_the_order_and_lets_errors_through(workers):
    engine = Engine(Settings(workers=workers), device="cpu")
    assert engine.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
    with pytest.raises(TypeError, match="bad operand"):
        engine.map(abs, [1, "x", 2])


def test_history_and_progress():
    stream = io.StringIO()
    streams = {"train": Pictures(40, broken={1, 2})}
    engine = train(plainly(), streams=streams, steps=20, progress=Progress("student", stream))
    history = engine.history
    assert {"steps", "seconds", "images_per_second", "data_wait_share", "best", "stopped_early", "micro_batch",
            "unreadable", "param_count", "teacher_cache"} == history.keys()  # fmt: skip
    assert history["unreadable"] == 2 and history["best"] is None
    assert history["images_per_second"] == pytest.approx(20 * 12 / history["seconds"])
    assert 0 < history["data_wait_share"] < 1
    lines = stream.getvalue().splitlines()
    assert "student 1/20" in lines[0] and "student 20/20" in lines[-2] and lines[-1].startswith("student done")
