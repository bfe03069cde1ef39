"""Labels of a stage's data: those of other classes are refused, those that nobody reads are named."""

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.data import open_source
from marrow.run import run
from marrow.stage_labels import check_learned, check_measured, different
from marrow.tasks.classify import Classify
from marrow.tasks.retrieve import Retrieve
from marrow.teach.mae import MAE
from marrow.teach.matryoshka import Matryoshka
from marrow.teach.pixpro import PixPro
from marrow.teach.ssld import SSLD
from marrow.teach.supervised import Supervised

from .common import pieces

LOW, HIGH, TEN = ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"], [str(i) for i in range(10)]


def digits(only=None, split="train", **more):
    return open_source({"images": "digits", "split": split, **({"only": only} if only else {}), **more})


def net():
    return pieces.backbone("resnet10t")


def classifier(classes=5, labels=None, cls=Classify):
    task = cls(net(), classes=classes)
    task.labels = labels
    return task


def learned(method, data, **models):
    return check_learned(method, models, data, "stages[0]")


def test_where_two_lists_of_names_differ():
    assert different(LOW, LOW) == ""
    assert different(LOW, HIGH) == "class 0 is '0' there and '5' here"
    assert different(LOW, TEN) == "'5' is only here" and different(TEN, LOW) == "'5' is only there"


def test_validation_images_of_other_classes_are_refused():
    task = classifier()
    with pytest.raises(
        MarrowError, match=r"stages\[0\].data.val: the classes are not those of 'train': class 0 is '0' there"
    ):
        learned(Supervised(task), Data({"train": digits(LOW)}, digits(HIGH, "val")), task=task)
    assert learned(Supervised(task), Data({"train": digits(LOW)}, digits(LOW, "val")), task=task) == []


def test_a_task_that_knows_other_names_is_refused():
    task = classifier(labels=LOW)
    with pytest.raises(
        MarrowError, match=r"data.train: the classes are not those that task knows: class 0 is '0' there"
    ):
        learned(Supervised(task), Data({"train": digits(HIGH)}), task=task)
    with pytest.raises(MarrowError, match=r"data.train: task has 5 classes, the data has 10"):
        learned(Supervised(task), Data({"train": digits()}), task=task)


def test_what_is_searched_may_be_of_other_classes():
    task = classifier(cls=Retrieve)
    assert learned(Supervised(task), Data({"train": digits(LOW)}, digits(split="val")), task=task) == []
    check_measured({"model": task}, Data({"train": digits(), "test": digits(split="test")}), "probe")
    with pytest.raises(MarrowError, match="task has 5 classes, the data has 10"):
        learned(Supervised(task), Data({"train": digits()}), task=task)


def test_methods_that_read_no_labels_say_whose_they_ignore():
    labelled = Data({"train": digits(LOW)})
    assert learned(PixPro(net(), stage=1), labelled) == ["train"]
    assert learned(PixPro(net(), stage=1), Data({"train": digits(labels=False)})) == []
    one = Data({"train": digits(["0"], per_class=1)})  # a single class, a single picture of it
    assert learned(MAE(pieces.backbone("vit_tiny_patch16_224")), one) == ["train"]


def test_a_wrapper_reads_labels_as_what_it_wraps():
    torch.manual_seed(0)
    student, teacher = classifier(10), classifier(10)
    pieces.sharpen(teacher)
    distilled = Matryoshka(SSLD(student, teacher))
    assert learned(distilled, Data({"train": digits(LOW)}), inner=distilled.inner) == ["train"]
    with pytest.raises(MarrowError, match="has 10 classes, the data has 5"):
        task = classifier(10)
        learned(Matryoshka(Supervised(task)), Data({"train": digits(LOW)}), inner=Supervised(task))


@pytest.mark.parametrize("known, asked", [(LOW, HIGH), (TEN, LOW), (LOW, TEN)])
def test_streams_that_a_probe_compares_count_the_same_classes(known, asked):
    data = Data({"train": digits(known), "test": digits(asked, "test")})
    with pytest.raises(MarrowError, match="data.test: the classes are not those of 'train'"):
        check_measured({"model": net()}, data, "stages[1]", answers=False)


def test_of_several_kinds_each_counts_for_itself():
    data = {f"{kind}_{part}": digits(only, part) for kind, only in (("common", LOW), ("salient", HIGH))
            for part in ("train", "test")}  # fmt: skip
    check_measured({}, Data(data), "probe", answers=False)
    with pytest.raises(MarrowError, match="data.salient_test: the classes are not those of 'salient_train'"):
        check_measured({}, Data({**data, "salient_test": digits(LOW, "test")}), "probe", answers=False)


def test_a_probe_of_features_takes_a_classifier_of_other_classes():
    data = Data({"train": digits(HIGH), "test": digits(HIGH, "test")})
    check_measured({"model": classifier(5, LOW)}, data, "probe", answers=False)
    with pytest.raises(MarrowError, match="are not those that model knows"):
        check_measured({"model": classifier(5, LOW)}, data, "probe", answers=True)


def test_a_run_says_that_labels_are_ignored(tmp_path, capsys):
    net = {"backbone": "resnet10t", "img_size": 64, "channels": [8, 8, 8, 8], "stem_width": 8}
    stage = {"teach": "pixpro", "name": "net", "backbone": net, "args": {"hidden": 8, "out": 8}, "optim": {"sgd": {"lr": 0.1}},
             "data": {"train": [{"images": "digits", "only": ["0"], "per_class": 16}], "batch": 8}, "steps": 1}  # fmt: skip
    run({"seed": 0, "stages": [stage]}, tmp_path / "run")
    assert "net: pixpro does not use labels; those of train are ignored" in capsys.readouterr().err
