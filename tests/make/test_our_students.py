"""Our networks as the student of the whole chain: taught, pruned, exported, quantized, measured."""

import pytest
import torch

import marrow
from marrow.core.errors import MarrowError

from ..common.pieces import tiny
from .pieces import COLOURS, photos

# Tiny nets, saved: by its name alone each would be of its published size.
NETS = {"cb_resnet50": {"base": "test_resnet"}, "vit_resnas_tiny": tiny("vit_resnas_tiny")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("students")
    torch.manual_seed(0)
    net = marrow.backbone("resnet10t", channels=(16, 16, 16, 16), stem_width=16, img_size=32)
    teacher = marrow.task("classify", backbone=net, classes=len(COLOURS))
    teacher.head.weight.data.mul_(100.0)  # untrained, but without doubts: methods refuse a teacher that knows nothing
    teacher.labels = sorted(COLOURS)
    marrow.save(root / "teacher", teacher)
    return root, photos(root / "photos", each=30)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_it_goes_through_the_whole_chain(place, name):
    root, data = place
    torch.manual_seed(0)
    marrow.save(root / name, marrow.backbone(name, img_size=32, **NETS[name]))
    report = marrow.make(str(data), teacher=str(root / "teacher"), student=str(root / name), img_size=32, batch=16, epochs=1,
                         skip=("baseline",), out=root / f"run-{name}", device="cpu", quiet=True)  # fmt: skip
    rows = {r["name"]: r for r in report["rows"]}
    assert {"student", "pruned", "int8", "fp32", "student_int8"} <= set(rows)
    assert rows["pruned"]["params"] < rows["student"]["params"] and rows["pruned"]["macs"] < rows["student"]["macs"]
    assert rows["int8"]["bytes"] < rows["fp32"]["bytes"] and all(r["latency_ms"]["median"] > 0 for r in rows.values()
                                                                 if r["value"] is not None)  # fmt: skip
    answer = marrow.predict(root / f"run-{name}" / report["ship"], [data / "ant" / "1.png"])
    assert answer[0]["label"] in COLOURS


def test_a_size_that_a_named_student_cannot_take_is_refused(place, tmp_path):
    root, data = place
    with pytest.raises(MarrowError, match="ViT-Res needs height and width divisible by 56, got 32; 56 would do"):
        marrow.make(str(data), teacher=str(root / "teacher"), student="vit_resnas_tiny", img_size=32, dry_run=True,
                    out=tmp_path / "run", quiet=True)  # fmt: skip
    assert not (tmp_path / "run").exists()
