import pytest
import torch
from torch.nn import functional as F

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.errors import MarrowError
from marrow.tasks.classify import Classify
from marrow.tasks.nested_classify import NestedClassify


class Flat(Backbone):
    """The pixels of a 4 x 4 grey image as features."""

    spec, dim, gives, input = {"source": "test:flat"}, 16, frozenset({"pooled"}), Input(size=(4, 4), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


def batch(count: int = 6) -> dict:
    torch.manual_seed(0)
    return {"image": torch.rand(count, 1, 4, 4), "label": torch.arange(count) % 3}


@pytest.mark.parametrize("tied", [False, True])
def test_it_says_what_each_head_says(tied):
    torch.manual_seed(0)
    task, given = NestedClassify(Flat(), classes=3, sizes=(2, 5, 16), tied=tied), batch()
    out, x = task(given), given["image"].flatten(1)
    assert list(out) == ["logits", "logits_2", "logits_5"]
    for size in (2, 5, 16):
        torch.testing.assert_close(task.at(out, size), task.head.at(size)(x[:, :size]))
    losses = task.losses(out, given)
    assert list(losses) == ["cross_entropy", "cross_entropy_2", "cross_entropy_5"]
    torch.testing.assert_close(losses["cross_entropy_5"], F.cross_entropy(out["logits_5"], given["label"]))


def test_one_size_of_full_width_is_a_plain_classifier():
    torch.manual_seed(0)
    plain = Classify(Flat(), classes=3, label_smoothing=0.1)
    nested = NestedClassify(Flat(), classes=3, sizes=(16,), tied=True, label_smoothing=0.1)
    nested.head.start_from(plain.head)
    given = batch()
    assert nested.losses(nested(given), given) == plain.losses(plain(given), given)


def test_sizes_are_those_of_the_backbone_by_default():
    assert NestedClassify(Flat(), classes=3).sizes == (8, 16)


def test_it_starts_from_the_classifier_that_came_with_the_weights():
    net = Flat()
    net.classifier, net.classifier_labels = (torch.ones(3, 16), torch.zeros(3)), ["a", "b", "c"]
    task = NestedClassify(net, classes=3, sizes=(4, 16))
    assert task.labels == ["a", "b", "c"]
    assert task.head.at(4).weight.eq(1).all() and task.head.at(16).weight.eq(1).all()


def test_every_size_has_its_row():
    task, given = NestedClassify(Flat(), classes=3, sizes=(2, 16)), batch()
    out = {"logits": F.one_hot(given["label"], 3).float(), "logits_2": torch.eye(3)[[0, 1, 0, 0, 0, 0]]}
    metric = task.metric()
    metric.update(task.decode(out, given), given)
    rows = {row["metric"]: row["value"] for row in metric.compute()}
    assert rows == {"top1": 1.0, "balanced_top1": 1.0, "top1_2": 0.5}


def test_what_makes_no_sense_is_refused():
    with pytest.raises(MarrowError, match="nested_classify.sizes: size 17 > embedding width 16"):
        NestedClassify(Flat(), classes=3, sizes=(8, 17))
    with pytest.raises(MarrowError, match="the batch has no 'label'"):
        NestedClassify(Flat(), classes=3).losses({}, {})
