import pytest
import timm
import torch
from safetensors.torch import save_file

import marrow.backbones  # noqa: F401  registers cifar_resnet20
from marrow.core.contracts import Backbone, Features, Input
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify


class Flat(Backbone):
    """The four pixels of a 2 x 2 grey image as features."""

    spec, dim, gives, input = {"source": "test:flat"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


@pytest.fixture
def task() -> Classify:
    task = Classify(Flat(), classes=3)
    with torch.no_grad():
        task.head.weight.copy_(torch.eye(3, 4))
        task.head.bias.zero_()
    return task


def batch(pixels: list, label: list | None = None) -> dict:
    image = torch.tensor(pixels).view(-1, 1, 2, 2)
    return {"image": image} | ({} if label is None else {"label": torch.tensor(label)})


def measured(task: Classify, *batches: dict) -> dict:
    metric = task.metric()
    for b in batches:
        metric.update(task.decode(task(b), b), b)
    return {row["metric"]: row for row in metric.compute()}


def test_loss_by_hand(task):
    # logits (0, ln 2, 0): probabilities 1/4, 1/2, 1/4
    b = batch([[0.0, 0.6931472, 0.0, 5.0]], [1])
    assert task.losses(task(b), b)["cross_entropy"].item() == pytest.approx(0.6931472)
    smooth = Classify(task.backbone, classes=3, label_smoothing=0.3)
    smooth.head = task.head
    # 0.8 on the label and 0.1 on each other: 0.8 ln 2 + 0.2 ln 4
    assert smooth.losses(smooth(b), b)["cross_entropy"].item() == pytest.approx(1.2 * 0.6931472)


def test_decode_gives_the_class_and_every_probability(task):
    b = batch([[0.0, 0.6931472, 0.0, 5.0], [9.0, 0.0, 0.0, 0.0]])
    decoded = task.decode(task(b), b)
    assert decoded["label"].tolist() == [1, 0]
    torch.testing.assert_close(decoded["probability"][0], torch.tensor([0.25, 0.5, 0.25]))


def test_metric_by_hand(task):
    first = batch([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 9.0, 0, 0]], [0, 0, 0])
    second = batch([[0, 9.0, 0, 0], [9.0, 0, 0, 0], [9.0, 0, 0, 0]], [1, 1, 0])
    metric = task.metric()
    for b in (first, second):
        metric.update(task.decode(task(b), b), b)
    top1, balanced = metric.compute()
    assert (top1["metric"], top1["value"], top1["n"]) == ("top1", pytest.approx(4 / 6), 6)
    # recalls 3/4 and 1/2; the third class has no example and does not count
    assert (balanced["metric"], balanced["value"], balanced["n"]) == ("balanced_top1", pytest.approx(5 / 8), 6)
    assert metric.confusion.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_decode_and_metric_need_no_network():
    out = {"logits": torch.tensor([[1.0, 3.0], [2.0, 0.0]])}
    metric = Classify.metric()
    metric.update(Classify.decode(out, {}), {"label": torch.tensor([1, 1])})
    assert metric.compute()[0]["value"] == 0.5


def test_metric_agrees_with_torchmetrics():
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    draw = torch.Generator().manual_seed(0)
    logits, label = torch.randn(200, 5, generator=draw), torch.randint(0, 5, (200,), generator=draw)
    metric = Classify.metric()
    for part in torch.arange(200).split(64):
        metric.update(Classify.decode({"logits": logits[part]}, {}), {"label": label[part]})
    top1, balanced = (row["value"] for row in metric.compute())
    assert top1 == pytest.approx(multiclass_accuracy(logits, label, 5, average="micro").item())
    assert balanced == pytest.approx(multiclass_accuracy(logits, label, 5, average="macro").item())
    assert torch.equal(metric.confusion, multiclass_confusion_matrix(logits, label, 5))


def test_exported_gives_the_logits_alone(task):
    b = batch([[1.0, 2.0, 3.0, 4.0]])
    (logits,) = task.exported()(b["image"])
    assert torch.equal(logits, task(b)["logits"])


def test_a_classifier_that_came_with_the_backbone_is_the_start(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("cifar_resnet20", num_classes=6).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    backbone = TimmBackbone.create("cifar_resnet20", weights=str(tmp_path / "w.safetensors"))
    image = torch.rand(2, 3, 32, 32)
    same = Classify(backbone, classes=6).eval()({"image": image})["logits"]
    torch.testing.assert_close(same, net(backbone.normalized(image)))
    assert Classify(backbone, classes=4).eval()({"image": image})["logits"].shape == (2, 4)


def test_the_names_of_its_classes_come_with_the_classifier(tmp_path):
    save_file(timm.create_model("cifar_resnet20", num_classes=3).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "w.labels.txt").write_text("cat\ndog\nowl\n", encoding="utf-8")
    backbone = TimmBackbone.create("cifar_resnet20", weights=str(tmp_path / "w.safetensors"))
    assert Classify(backbone, classes=3).labels == ["cat", "dog", "owl"]
    assert Classify(backbone, classes=4).labels is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"classes": 1}, "1 classes cannot be told apart"),
        ({"classes": 3, "label_smoothing": 1.0}, "1.0 is outside 0..1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(MarrowError, match=words):
        Classify(Flat(), **arguments)


def test_batches_that_do_not_fit_are_refused(task):
    unlabelled = batch([[1.0, 0, 0, 0]])
    with pytest.raises(MarrowError, match="no 'label'"):
        task.losses(task(unlabelled), unlabelled)
    with pytest.raises(MarrowError, match="no 'label'"):
        measured(task, unlabelled)
    with pytest.raises(MarrowError, match="labels run from 0 to 3, the model knows classes 0 to 2"):
        measured(task, batch([[1.0, 0, 0, 0], [1.0, 0, 0, 0]], [0, 3]))
    with pytest.raises(MarrowError, match="no labelled example"):
        task.metric().compute()
