import pytest
import torch

from marrow.backbones.concatenated import CatBackbone
from marrow.backbones.shortened import ShortenedBackbone
from marrow.core.artifact import Artifact, save
from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.runtime import Runner
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.examine.knn import KNN
from marrow.ship.onnx import Onnx
from marrow.tasks.classify import Classify
from marrow.tasks.embed import Embed


class Flat(Backbone):
    """The four pixels of a 2 x 2 grey image as features."""

    spec, dim, gives, input = {"source": "test:flat"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


def batch(*pixels: tuple[float, ...], label: tuple[int, ...] | None = None) -> dict:
    image = torch.tensor(pixels).view(-1, 1, 2, 2)
    return {"image": image} | ({} if label is None else {"label": torch.tensor(label)})


def measured(task: Embed, *batches: dict) -> list[dict]:
    metric = task.metric()
    for b in batches:
        metric.update(task.decode(task(b), b), b)
    return metric.compute()


def net() -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8).eval()


def test_the_answer_is_the_backbones_and_decoded_it_has_length_one():
    task, images = Embed(Flat()), batch((3.0, 0.0, 4.0, 0.0), (0.0, 0.5, 0.0, 0.0))
    assert task(images)["embedding"].tolist() == [[3.0, 0.0, 4.0, 0.0], [0.0, 0.5, 0.0, 0.0]]
    decoded = task.decode(task(images), images)["embedding"]
    torch.testing.assert_close(decoded, torch.tensor([[0.6, 0.0, 0.8, 0.0], [0.0, 1.0, 0.0, 0.0]]))


def test_metric_by_hand():
    # The third's nearest is the first, of another class; the fourth's nearest is the third, of its own.
    images = ((9.0, 0.0, 0.0, 0.0), (9.0, 0.5, 0.0, 0.0), (9.0, 0.0, 2.0, 0.0), (2.0, 0.0, 9.0, 0.0))
    labels = (0, 0, 1, 1)
    wanted = [{"metric": "recall_at_1", "value": 0.75, "n": 4}]
    task = Embed(Flat())
    assert measured(task, batch(*images, label=labels)) == wanted
    assert measured(task, *(batch(i, label=(k,)) for i, k in zip(images, labels))) == wanted


def test_copies_are_each_others_neighbours_and_not_their_own():
    copies = [(1.0, 2.0, 0.0, 0.0)] * 3
    assert measured(Embed(Flat()), batch(*copies, label=(0, 1, 2)))[0]["value"] == 0.0
    assert measured(Embed(Flat()), batch(*copies, label=(5, 5, 5)))[0]["value"] == 1.0


def test_an_exported_file_gives_the_same_embeddings_and_is_measured_in_the_same_way(tmp_path):
    task, engine = Embed(net()), Engine(device="cpu")
    digits = open_source({"images": "digits", "split": "val"})
    facts: dict = {}

    def fill(folder):
        facts.update(Onnx(parity_images=8).export({"model": task}, Data({"parity": digits}), engine, folder))

    runner = save(tmp_path / "exported", facts, fill=fill).load()
    assert isinstance(runner, Runner) and runner.outputs == ["embedding"]
    images = {"image": torch.stack([digits[i]["image"] for i in range(5)])}
    torch.testing.assert_close(runner(images)["embedding"], task(images)["embedding"].detach(), rtol=1e-4, atol=1e-5)
    [row] = engine.evaluate(runner, digits)
    assert row["value"] == pytest.approx(engine.evaluate(task, digits)[0]["value"], abs=0.01)
    streams = {name: open_source({"images": "digits", "split": name}) for name in ("train", "test")}
    rows = [KNN(k=5).run({"model": m}, Data(streams), engine).rows[0]["value"] for m in (runner, task)]
    assert rows[0] == pytest.approx(rows[1], abs=0.01)


def test_a_saved_one_opens_again(tmp_path):
    task = Embed(net())
    again = Artifact.open(save(tmp_path / "embed", task).path).load()
    images = {"image": torch.rand(2, 3, 32, 32)}
    assert isinstance(again, Embed)
    assert torch.equal(again(images)["embedding"], task(images)["embedding"])


def test_what_makes_no_sense_is_refused(tmp_path):
    task = Embed(Flat())
    with pytest.raises(MarrowError, match="an embedding has no loss of its own. Train its backbone"):
        task.losses({}, {})
    members = CatBackbone([Flat(), Flat()])
    for whole in (members, ShortenedBackbone(members, 6)):
        with pytest.raises(MarrowError, match="embed.sizes: the first features of concatenated backbones"):
            Embed(whole, sizes=(2, 4))
    with pytest.raises(MarrowError, match="the batch has no 'label'"):
        measured(task, batch((1.0, 0.0, 0.0, 0.0)))
    with pytest.raises(MarrowError, match="1 labelled images have no neighbours"):
        measured(task, batch((1.0, 0.0, 0.0, 0.0), label=(0,)))


def test_a_file_that_only_classifies_has_no_embeddings(tmp_path):
    task, engine = Classify(net(), classes=10), Engine(device="cpu")
    digits = open_source({"images": "digits", "split": "val"})
    meta = Onnx(parity_images=8).export({"model": task}, Data({"parity": digits}), engine, tmp_path)
    runner = Runner(tmp_path, {"runtime": meta, "input": meta["input"], "labels": None})
    with pytest.raises(MarrowError, match="gives logits and no embedding. Export {task: embed"):
        KNN().run({"model": runner}, Data({"train": digits, "test": digits}), engine)
