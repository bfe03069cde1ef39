import pytest
import torch
from torch import nn
from torch.nn import functional as F

from marrow.core.artifact import save
from marrow.core.contracts import Backbone, Clock, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.ship.onnx import Onnx
from marrow.tasks.retrieve import Retrieve
from marrow.teach.matryoshka import Matryoshka
from marrow.teach.supervised import Supervised


class Flat(Backbone):
    """The four pixels of a 2 x 2 grey image as features."""

    spec, dim, gives, input = {"source": "test:flat"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


class Perceptron(Backbone):
    """Eight by eight means of a picture, through one hidden layer."""

    spec, dim, gives, input = {"source": "test:perceptron"}, 16, frozenset({"pooled"}), Input(size=(32, 32))

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, self.dim))

    def features(self, x, *, maps=()):
        return Features(self.net(F.avg_pool2d(x[:, 0].float() / 255, 4).flatten(1)))


def batch(*pixels: tuple[float, ...], label: tuple[int, ...]) -> dict:
    return {"image": torch.tensor(pixels).view(-1, 1, 2, 2), "label": torch.tensor(label)}


def test_the_embedding_has_length_one_and_the_loss_is_that_of_cosines():
    torch.manual_seed(0)
    task, given = (
        Retrieve(Flat(), classes=3, temperature=0.5),
        batch((3.0, 0.0, 4.0, 0.0), (0.0, 5.0, 0.0, 0.0), label=(2, 0)),
    )
    out = task(given)
    torch.testing.assert_close(out["embedding"], torch.tensor([[0.6, 0.0, 0.8, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    cosine = torch.stack([F.cosine_similarity(out["embedding"], d[None]) for d in task.directions], 1)
    torch.testing.assert_close(task.losses(out, given)["cross_entropy"], F.cross_entropy(cosine / 0.5, given["label"]))


def test_a_cut_embedding_is_compared_with_directions_cut_as_short():
    task, given = Retrieve(Flat(), classes=3, temperature=0.5), batch((3.0, 1.0, 4.0, 0.0), label=(1,))
    cut = {"embedding": task(given)["embedding"][:, :2]}
    cosine = torch.stack([F.cosine_similarity(torch.tensor([[3.0, 1.0]]), d[None, :2]) for d in task.directions], 1)
    torch.testing.assert_close(task.losses(cut, given)["cross_entropy"], F.cross_entropy(cosine / 0.5, given["label"]))


def test_nothing_beyond_the_largest_size_is_answered_or_waits_for_a_training():
    task, given = Retrieve(Flat(), classes=3, sizes=(1, 2)), batch((3.0, 4.0, 9.0, 9.0), label=(1,))
    assert task.directions.shape == (3, 2)
    out = task(given)
    torch.testing.assert_close(out, {"embedding": torch.tensor([[0.6, 0.8]]), "embedding_1": torch.tensor([[1.0]])})
    torch.testing.assert_close(task.decode(out, given), out)
    task.losses(out, given)["cross_entropy"].backward()
    assert task.directions.grad.any(0).all()


def test_training_by_its_own_losses_is_training_for_every_size():
    torch.manual_seed(0)
    plain = Retrieve(Flat(), classes=3)
    task = Retrieve(Flat(), classes=3, sizes=(1, 2, 4))
    task.load_state_dict(plain.state_dict())
    given, clock = batch((3.0, 1.0, 4.0, 0.0), (1.0, 5.0, 9.0, 2.0), label=(1, 2)), Clock(0, 0, 0.0)
    alone, nested = Supervised(task)(given, clock), Matryoshka(Supervised(plain), sizes=(1, 2, 4))(given, clock)
    assert alone.losses.keys() == {"cross_entropy_1", "cross_entropy_2", "cross_entropy"}
    assert nested.losses.keys() == {"cross_entropy_1", "cross_entropy_2", "cross_entropy_4"}
    torch.testing.assert_close(sum(alone.losses.values()), sum(nested.losses.values()))
    again = Matryoshka(Supervised(task))(given, clock)  # a task that is nested already counts no size twice
    torch.testing.assert_close(again.losses, nested.losses)


def test_the_rows_of_smaller_sizes_are_those_of_models_of_that_size():
    torch.manual_seed(0)
    images = torch.rand(40, 4)
    given = {"image": images.view(-1, 1, 2, 2), "label": torch.arange(40) % 7}
    first = {"image": torch.cat([images[:, :2], torch.zeros(40, 2)], 1).view(-1, 1, 2, 2), "label": given["label"]}
    measured = []
    for task, seen in ((Retrieve(Flat(), classes=7, sizes=(2, 4)), given), (Retrieve(Flat(), classes=7), first)):
        metric = task.metric()
        for part in (slice(0, 25), slice(25, 40)):
            few = {name: value[part] for name, value in seen.items()}
            metric.update(task.decode(task(few), few), few)
        measured.append(metric.compute())
    nested, short = measured
    assert [r["metric"] for r in nested] == [*(r["metric"] for r in short), "recall_at_1_2"]
    assert nested[-1] == {**short[0], "metric": "recall_at_1_2"}


def test_an_exported_file_answers_and_is_measured_at_every_size(tmp_path):
    torch.manual_seed(0)
    net = TimmBackbone.create("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    task, engine = Retrieve(net, classes=10, sizes=(4, 8, 16)).eval(), Engine(device="cpu")
    digits, facts = open_source({"images": "digits", "split": "val"}), {}

    def fill(folder):
        facts.update(Onnx(parity_images=8).export({"model": task}, Data({"parity": digits}), engine, folder))

    runner = save(tmp_path / "file", facts, fill=fill).load()
    assert runner.outputs == ["embedding", "embedding_4", "embedding_8"]
    mine, theirs = (engine.evaluate(model, digits) for model in (task, runner))
    assert [r["metric"] for r in mine[-2:]] == ["recall_at_1_4", "recall_at_1_8"]
    assert [r["value"] for r in theirs] == pytest.approx([r["value"] for r in mine], abs=0.01)


def test_metric_by_hand():
    # Nearest of the first: the third, then the second; of the second: the third, then the first; of the third: the first.
    images = ((9.0, 0.0, 0.0, 0.0), (9.0, 9.0, 0.0, 0.0), (9.0, 3.0, 0.0, 0.0), (0.0, 0.0, 9.0, 0.0))
    task, given = Retrieve(Flat(), classes=3), batch(*images, label=(0, 0, 1, 2))
    metric = task.metric()
    metric.update(task.decode(task(given), given), given)
    rows = {row["metric"]: row["value"] for row in metric.compute()}
    assert rows == {"recall_at_1": 0.0, "recall_at_5": 1.0, "recall_at_10": 1.0, "map": pytest.approx(0.5),
                    "map_at_10": pytest.approx(0.05)}  # fmt: skip
    assert {row["n"] for row in metric.compute()} == {2}


def test_training_brings_classes_together():
    torch.manual_seed(0)
    task = Retrieve(Perceptron(), classes=10)
    engine = Engine(Settings(steps=60, batch=32, optim={"main": Optim("adamw", lr=1e-2)}), device="cpu")
    test = open_source({"images": "digits", "split": "val"})
    before = engine.evaluate(task, test)
    engine.train(Supervised(task, pad=2), Data({"train": open_source({"images": "digits", "split": "train"})}))
    after = engine.evaluate(task, test)
    assert after[3]["metric"] == "map" and after[3]["value"] > before[3]["value"] + 0.1


def test_what_makes_no_sense_is_refused():
    for wrong, sentence in (({"temperature": 0.0}, "0.0 is not a positive number"), ({"classes": 1}, "1 classes cannot be told"),
                            ({"sizes": (2, 8)}, "retrieve.sizes: size 8 > embedding width 4")):  # fmt: skip
        with pytest.raises(MarrowError, match=sentence):
            Retrieve(Flat(), **({"classes": 3} | wrong))
    task, given = Retrieve(Flat(), classes=3), batch((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), label=(0, 1))
    metric = task.metric()
    metric.update(task.decode(task(given), given), given)
    with pytest.raises(MarrowError, match="no two of 2 labelled images have the same label"):
        metric.compute()
    for asked in (lambda: task.losses(task(given), {}), lambda: metric.update(task.decode(task(given), given), {})):
        with pytest.raises(MarrowError, match="the batch has no 'label'"):
            asked()
