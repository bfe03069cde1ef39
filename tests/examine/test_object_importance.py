"""What a group of measures is worth, where it is known: one that decides, and others that are not read."""

import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.data.object_features import feature_names
from marrow.examine.object_importance import ObjectImportance, exchanged
from marrow.tasks.hybrid_classify import HybridClassify

NAMES = feature_names()
AREA = NAMES.index("shape.area")


class Cells(Source):
    """The area says which of two classes it is; all else is noise."""

    classes = ["small", "large"]

    def __init__(self, measures: int = len(NAMES)):
        self.objects = torch.randn(80, measures, generator=torch.Generator().manual_seed(0))
        self.objects[:, AREA] = (torch.arange(80) % 2) * 2.0 - 1.0

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.zeros(1, 2, 2, dtype=torch.uint8), "objects": self.objects[index], "label": index % 2}

    def fraction(self, index: int) -> float:
        return index / 80

    def name(self, index: int) -> str:
        return f"cell {index}"


class Flat(Backbone):
    spec, dim, gives, input = {"source": "test:flat"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


def by_area() -> HybridClassify:
    """Says "large" where the area is positive."""
    task = HybridClassify(Flat(), classes=2, mode="object", hidden=1)
    with torch.no_grad():
        for layer in (task.head[0], task.head[2]):
            layer.weight.zero_()
            layer.bias.zero_()
        task.head[0].weight[0, AREA] = 1.0
        task.head[2].weight[1], task.head[2].bias[0] = 1.0, 0.5
    return task.eval()


def run(source: Source, **args) -> list[dict]:
    return ObjectImportance(**args).run({"model": by_area()}, Data({"test": source}), Engine(device="cpu")).rows


def test_only_the_group_that_decides_loses_and_by_half():
    rows = run(Cells(), repeats=40)
    assert rows[0] == {"metric": "top1", "value": 1.0, "n": 80}
    lost = {row["group"]: row["value"] for row in rows[1:]}
    assert lost["colour"] == lost["texture"] == 0.0
    assert lost["shape"] == pytest.approx(0.5, abs=0.03)


def test_the_columns_of_a_group_move_together():
    objects = torch.arange(20.0).view(5, 4)
    columns = torch.tensor([True, False, True, False])
    found = exchanged(objects, columns, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, ~columns], objects[:, ~columns])
    assert not torch.equal(found, objects) and sorted(found[:, 0].tolist()) == objects[:, 0].tolist()
    assert torch.equal(found[:, 2] - found[:, 0], torch.full((5,), 2.0))


def test_other_measures_and_unknown_metrics_are_refused():
    with pytest.raises(
        MarrowError, match="object_importance.test: the examples lack the field 'objects' with 52 measures"
    ):
        run(Cells(measures=60))
    with pytest.raises(MarrowError, match="no value of 'top5'; the task measures top1, balanced_top1, weighted_f1"):
        run(Cells(), metric="top5")
    with pytest.raises(MarrowError, match="0 exchanges show nothing"):
        run(Cells(), repeats=0)
