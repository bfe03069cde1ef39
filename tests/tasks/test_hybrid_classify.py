"""A perceptron on a backbone's features, on measures, or on both: any backbone, metrics by hand, export, bad input."""

import subprocess
import sys

import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.runtime import Runner
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.ship.bench import bench
from marrow.ship.int8 import Int8
from marrow.ship.onnx import Onnx
from marrow.shrink.prune import MagnitudePrune
from marrow.tasks.hybrid_classify import HybridClassify
from marrow.teach.supervised import Supervised

NETS = {
    "cnn_3l": {"widths": (8, 8, 8), "hidden": 16},
    "resnet10t": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "vit_tiny_patch16_224": {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3},
}
MEASURES = 6


class Cells(Source):
    """Noise whose class only the second measure tells; the fourth is missing in every third example."""

    classes = ["small", "large"]

    def __init__(self, count: int = 48):
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
        self.objects = 100 + 30 * torch.randn(count, MEASURES, generator=draw)
        self.objects[:, 1] = torch.tensor([400.0, 900.0])[torch.arange(count) % 2] + self.objects[:, 0]
        self.objects[::3, 3] = float("nan")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "objects": self.objects[index], "label": self.label(index)}

    def label(self, index: int) -> int:
        return index % 2

    def fraction(self, index: int) -> float:
        return (index + 0.5) / len(self)

    def name(self, index: int) -> str:
        return f"cell {index}"


def task(name: str = "cnn_3l", mode: str = "hybrid") -> HybridClassify:
    torch.manual_seed(0)
    backbone = TimmBackbone.create(name, img_size=32, **NETS[name])
    return HybridClassify(backbone, classes=2, mode=mode, objects=MEASURES, hidden=16)


def engine(steps: int = 30) -> Engine:
    return Engine(Settings(steps=steps, batch=16, optim={"main": Optim("adamw", lr=1e-2)}), device="cpu")


def trained(name: str = "cnn_3l", mode: str = "hybrid", steps: int = 30) -> HybridClassify:
    found = task(name, mode)
    engine(steps).train(Supervised(found), Data({"train": Cells()}))
    return found.eval()


def value(rows: list[dict], metric: str) -> float:
    return next(r["value"] for r in rows if r["metric"] == metric)


@pytest.mark.parametrize("name", NETS)
def test_any_backbone_learns_what_only_the_measures_tell(name):
    assert value(engine().evaluate(trained(name), Cells()), "macro_auc") > 0.98


def test_modes_read_what_they_say():
    batch = {"image": torch.rand(2, 3, 32, 32), "objects": torch.rand(2, MEASURES)}
    other = {"image": torch.rand(2, 3, 32, 32), "objects": 9 * torch.rand(2, MEASURES)}
    for mode, reads in (("deep", {"image"}), ("object", {"objects"}), ("hybrid", {"image", "objects"})):
        model = task(mode=mode).eval()
        said = model(batch)["logits"]
        changed = {k for k in batch if not torch.equal(model({**batch, k: other[k]})["logits"], said)}
        assert changed == reads


def test_a_batch_that_lacks_measures_or_has_others_is_refused():
    with pytest.raises(MarrowError, match="the batch has no 'objects'. Give 'objects: CLASS ID' with a source"):
        task()({"image": torch.rand(1, 3, 32, 32)})
    with pytest.raises(MarrowError, match=r"'objects' has shape \(1, 5\), the task reads 6 measures of each object"):
        task()({"image": torch.rand(1, 3, 32, 32), "objects": torch.rand(1, 5)})
    with pytest.raises(MarrowError, match="unknown mode 'both'; known: hybrid, deep, object"):
        task(mode="both")


def test_metrics_by_hand():
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    probability = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1],
                                [0.1, 0.3, 0.6]])  # fmt: skip
    metric = HybridClassify.metric()
    for part in (slice(0, 2), slice(2, 6)):
        decoded = {"label": probability[part].argmax(1), "probability": probability[part]}
        metric.update(decoded, {"label": label[part]})
    rows = {r["metric"]: r["value"] for r in metric.compute()}
    # F1: class 0 has 2 right of 3 asked and 3 said, class 1 one of two and two, class 2 is perfect.
    assert rows["top1"] == pytest.approx(4 / 6)
    assert rows["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 1) / 6)
    assert rows["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # Pairs in order: class 0: 8 of 9, class 1: 7 of 8, class 2: all.
    assert rows["macro_auc"] == pytest.approx((8 / 9 + 7 / 8 + 1) / 3)


def test_a_class_that_is_missing_does_not_count_and_one_class_has_no_area():
    probability = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    metric = HybridClassify.metric()
    metric.update({"label": probability.argmax(1), "probability": probability}, {"label": torch.tensor([0, 1])})
    assert [r["value"] for r in metric.compute()] == [1.0] * 5
    metric = HybridClassify.metric()
    metric.update({"label": torch.tensor([0]), "probability": probability[:1]}, {"label": torch.tensor([0])})
    area = metric.compute()[-1]
    assert area["metric"] == "macro_auc" and area["value"] is None and area["reason"] == "all examples are of one class"


SAYS = """
import sys, torch
from safetensors.torch import load_file, save_file
from marrow.core.artifact import Artifact
folder = sys.argv[1]
with torch.inference_mode():
    save_file(dict(Artifact.open(folder + "/task").load()(load_file(folder + "/batch"))), folder + "/said")
"""


def test_it_says_the_same_in_a_fresh_process(tmp_path):
    from safetensors.torch import load_file, save_file

    model, cells = trained(steps=4), Cells(6)
    batch = {"image": cells.images, "objects": cells.objects}
    save(tmp_path / "task", model)
    save_file(batch, tmp_path / "batch")
    subprocess.run([sys.executable, "-c", SAYS, str(tmp_path)], check=True)
    with torch.inference_mode():
        assert torch.equal(load_file(tmp_path / "said")["logits"], model(batch)["logits"])


@pytest.mark.parametrize("mode", ["hybrid", "object"])
def test_its_int8_file_agrees_and_is_timed_beside_it(tmp_path, mode):
    pytest.importorskip("onnxruntime")
    model, cells, meta = trained(mode=mode, steps=20), Cells(), {}
    exporter, data = Int8(calibration_images=16, parity_images=16), Data({"calibration": cells, "parity": cells})

    def fill(folder):
        meta.update(exporter.export({"model": model}, data, engine(), folder))

    file = save(tmp_path / "int8", meta, labels=cells.classes, fill=fill)
    assert meta["inputs"] == ["image", "objects"]
    assert meta["parity"]["agreement"] == 1.0
    rows = bench([save(tmp_path / "task", model), file], seconds=0.02)
    assert [(r["runtime"], r["precision"]) for r in rows][:2] == [("torch", "fp32"), ("onnxruntime", "int8")]
    assert all(r["median"] > 0 for r in rows)


def test_pruned_it_is_by_its_backbone():
    pytest.importorskip("torch_pruning")
    for mode in ("hybrid", "deep"):
        with pytest.raises(
            MarrowError, match="hybrid_classify.* measured statistics.* Prune its backbone, {..., part: backbone}"
        ):
            MagnitudePrune().plan({"model": task(mode=mode)}, None, None)
    net = TimmBackbone.create("cnn_3l", img_size=32, **NETS["cnn_3l"])
    narrow = MagnitudePrune(ratio=0.5, round_to=2).plan({"model": net}, None, None).edit.apply([net])
    model = HybridClassify(narrow, classes=2, objects=MEASURES, hidden=16)
    engine().train(Supervised(model), Data({"train": Cells()}))
    assert narrow.dim < 16 and value(engine().evaluate(model.eval(), Cells()), "macro_auc") > 0.98


@pytest.mark.parametrize(("mode", "inputs"), [("hybrid", ["image", "objects"]), ("deep", ["image"])])
def test_the_file_takes_image_and_measures_and_agrees(tmp_path, mode, inputs):
    pytest.importorskip("onnxruntime")
    model, cells = trained(mode=mode, steps=4), Cells()
    meta = Onnx(parity_images=16).export({"model": model}, Data({"parity": cells}), engine(), tmp_path)
    assert meta["inputs"] == inputs and meta["parity"]["agreement"] == 1.0
    runner = Runner(tmp_path, {"runtime": meta, "input": meta["input"], "labels": None})
    theirs, ours = engine().evaluate(runner, cells), engine().evaluate(model, cells)
    assert [r["value"] for r in theirs] == pytest.approx([r["value"] for r in ours], abs=1e-6)
    assert Artifact.open(save(tmp_path / "task", model).path).load().mode == mode
