"""Balanced classes: how often each is seen and how much it weighs; turns; a frozen net; what cannot be balanced."""

import pytest
import torch

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.data.balance import Oversampled, Turned
from marrow.data.combine import Unlabelled
from marrow.data.views import Augment
from marrow.tasks.classify import Classify
from marrow.tasks.hybrid_classify import HybridClassify
from marrow.teach.olconvnet import OLConvNet, class_weights

LABELS = [0] * 12 + [1] * 3 + [2] * 5


class Rare(Source):
    classes = ["common", "rare", "some"]

    def __init__(self, labels: list[int] = LABELS):
        self.labels = labels
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (len(labels), 3, 32, 32), generator=draw, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": self.labels[index], "objects": torch.full((4,), float(index))}

    def label(self, index: int) -> int:
        return self.labels[index]

    def fraction(self, index: int) -> float:
        return (index + 0.5) / len(self)

    def name(self, index: int) -> str:
        return f"cell {index}"


def backbone() -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create("cnn_3l", img_size=32, widths=(4, 4, 4), hidden=8, drop_rate=0.0)


def engine(steps: int = 3) -> Engine:
    return Engine(Settings(steps=steps, batch=12, optim={"main": Optim("sgd", lr=0.1)}), device="cpu")


def test_every_class_is_seen_as_often_as_the_largest():
    source = Oversampled(Rare(), "data.train")
    seen = [source.label(i) for i in source.order(torch.Generator().manual_seed(0)).tolist()]
    assert [seen.count(c) for c in range(3)] == [12, 12, 12]
    copies = [source.name(i) for i in range(len(source))]
    assert {copies.count(f"cell {i}") for i in range(12, 15)} == {4}
    assert {copies.count(f"cell {i}") for i in range(15, 20)} == {2, 3}
    order = source.order(torch.Generator().manual_seed(0)).tolist()
    assert sum(copies[a] == copies[b] for a, b in zip(order, order[1:])) < 6  # copies are spread over the epoch


def test_weights_give_every_class_the_same_sum_and_a_mean_of_one():
    weight, counts = class_weights([12, 3, 5]), torch.tensor([12.0, 3.0, 5.0])
    assert torch.allclose(weight * counts, torch.full((3,), 20 / 3)) and float(weight @ counts) == pytest.approx(20)


def test_the_weighted_loss_by_hand():
    method = OLConvNet(Classify(backbone(), classes=3), balance="weights")
    method.fit(engine(1), Data({"train": Rare()}))
    batch = {"image": Rare().images, "label": torch.tensor(LABELS)}
    [loss] = method(batch, Clock(0, 0, 0.0)).losses.values()
    each = -method.task(batch)["logits"].log_softmax(1)[torch.arange(20), batch["label"]]
    torch.testing.assert_close(loss, sum(each[batch["label"] == c].mean() for c in range(3)) / 3)


def test_without_balance_the_loss_is_the_tasks_own():
    method = OLConvNet(Classify(backbone(), classes=3), balance=None)
    batch = {"image": Rare().images, "label": torch.tensor(LABELS)}
    assert method(batch, Clock(0, 0, 0.0)).losses.keys() == {"cross_entropy"}


def test_views_are_the_eight_symmetries_and_carry_the_measures():
    view, example = Turned(Augment((32, 32), crop=None)), Rare()[0]
    torch.manual_seed(0)
    seen = [view(dict(example)) for _ in range(200)]
    assert len({s["image"].numpy().tobytes() for s in seen}) == 8
    assert all(torch.equal(s["objects"], example["objects"]) for s in seen)
    tall = Turned(Augment((32, 16), crop=None))
    assert {tuple(tall(dict(example))["image"].shape) for _ in range(20)} == {(3, 32, 16)}


def test_a_frozen_net_stays_and_the_perceptron_learns():
    task = HybridClassify(backbone(), classes=3, objects=4, hidden=8)
    before = {k: v.clone() for k, v in task.state_dict().items()}
    method = OLConvNet(task, frozen=True)
    method.fit(engine(), Data({"train": Rare()}))
    after = task.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items() if k.startswith("backbone."))
    assert not torch.equal(before["head.0.weight"], after["head.0.weight"])
    assert after["object_scale.seen"].tolist() == [36.0] * 4


@pytest.mark.parametrize("balance", ["oversample", "weights"])
def test_what_cannot_be_balanced_is_refused(balance):
    method = OLConvNet(Classify(backbone(), classes=3), balance=balance)
    with pytest.raises(MarrowError, match="data.train: class 'rare' has no example, so it cannot be balanced"):
        method.fit(engine(), Data({"train": Rare([0, 0, 2, 2])}))
    with pytest.raises(MarrowError, match="data.train: classes cannot be balanced without labels"):
        method.fit(engine(), Data({"train": Unlabelled(Rare())}))


def test_an_unknown_balance_is_refused():
    with pytest.raises(
        MarrowError, match="olconvnet.balance: unknown way 'smote'; known: oversample, weights, or null"
    ):
        OLConvNet(Classify(backbone(), classes=3), balance="smote")
