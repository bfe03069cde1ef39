"""A probe inside a training: its curve, that the training does not notice it, that it resumes, and what is refused."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

import marrow
import marrow.backbones
from marrow.core.contracts import Probe, Report
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.fit_check import check_fit
from marrow.core.loader import Data
from marrow.core.loggers import CsvLogger
from marrow.core.recipe import Recipe
from marrow.core.settings import Settings
from marrow.core.static_check import check_static
from marrow.core.watch import Watch, roles
from marrow.data.combine import Unlabelled
from marrow.examine.knn import KNN
from marrow.examine.knn_agreement import KNNAgreement
from marrow.examine.separation import Separation

from .engine_pieces import Pictures, Rows, SmallNet, Sort, Supervise


class Noticed(Probe):
    """Says what it found, after drawing from every generator."""

    needs = {"model": set()}

    def __init__(self):
        self.modes, self.sums = [], []

    def run(self, models, data, engine):
        torch.rand(3)
        [batch] = engine.batches(data.streams["test"], models["model"].input)
        self.modes.append(models["model"].training)
        self.sums.append(sum(float(p.sum()) for p in models["model"].state_dict().values()))
        rows = [{"metric": "sum", "value": self.sums[-1]}, {"metric": "unknown", "value": None}]
        return Report([*rows, {"metric": "iou", "class": 1, "value": 0.5 * len(batch["label"])}])


def looking(probe, percent=25, **models):
    test = Pictures(24, seed=1)
    return Watch(probe, Data({"train": Pictures(40), "test": test}), percent, models)


def trained(watch, logger=None, **settings):
    torch.manual_seed(0)
    method = Supervise(Sort(SmallNet()))  # BatchNorm, dropout, random views and a random log
    given = Settings(**{"steps": 20, "batch": 8, "log_every": 4, **settings})
    engine = Engine(given, device="cpu", logger=logger)
    engine.train(method, Data({"train": Pictures(40)}, watch=watch))
    return method


def test_a_training_does_not_notice_the_probe():
    plain, seen = Rows(), Rows()
    without, with_it = trained(None, plain), trained(looking(KNN(k=3)), seen)
    for (name, a), b in zip(without.state_dict().items(), with_it.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert plain.rows == [row for row in seen.rows if not any(k.startswith("probe/") for k in row[1])]
    assert list(seen.column("probe/knn_top1")) == [0, 5, 10, 15, 20]
    assert len(set(seen.column("probe/knn_top1").values())) > 1


def test_it_looks_at_what_the_training_would_leave():
    for settings in ({}, {"ema": 0.9}):
        probe = Noticed()
        left = trained(looking(probe), **settings).task
        assert probe.sums[-1] == sum(float(p.sum()) for p in left.state_dict().values())
        assert len(set(probe.sums)) == 5 and left.training


def test_rows_without_a_value_are_left_out_and_classes_are_named():
    rows = Rows()
    trained(looking(Noticed(), percent=100), rows)
    assert rows.column("probe/iou_1") == {0: 12.0, 20: 12.0}
    assert not any("probe/unknown" in values for _, values in rows.rows)


class Failing(Supervise):
    """Loses its power at a step, once."""

    left = 11

    def forward(self, batch, clock, player="main"):
        if clock.step == self.left:
            self.left = -1
            raise RuntimeError("no power")
        return super().forward(batch, clock, player)


def test_a_resumed_training_has_the_same_curve(tmp_path):
    logs = {}
    for name, at in (("whole", -1), ("broken", 11)):
        torch.manual_seed(0)
        method, fresh = Failing(Sort(SmallNet())), Failing(Sort(SmallNet()))
        method.left, fresh.left = at, -1
        for attempt in (method, fresh):
            logger = CsvLogger(tmp_path / f"{name}.csv")
            engine = Engine(Settings(steps=20, batch=8, log_every=4, checkpoint_seconds=0.0), device="cpu", logger=logger,
                            checkpoint=tmp_path / f"{name}.pt", resume=True)  # fmt: skip
            try:
                engine.train(attempt, Data({"train": Pictures(40)}, watch=looking(KNN(k=3), percent=20)))
            except RuntimeError:
                continue
            finally:
                logger.close()
            break
        logs[name] = (tmp_path / f"{name}.csv").read_text()
    assert logs["broken"] == logs["whole"] and logs["whole"].count("probe/knn_top1") == 6


def test_what_the_probe_lacks_is_told_before_the_first_step():
    watch = looking(KNN(k=3))
    blind = Watch(
        watch.probe, Data({**watch.data.streams, "test": Unlabelled(Pictures(24))}), 50, where="stages[0].probe"
    )
    torch.manual_seed(0)
    method = Supervise(Sort(SmallNet()))
    before = {k: v.clone() for k, v in method.state_dict().items()}
    with pytest.raises(MarrowError, match=r"stages\[0\].probe: knn: the stream 'test' has images without labels"):
        Engine(Settings(steps=4, batch=8), device="cpu").train(method, Data({"train": Pictures(40)}, watch=blind))
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_a_role_that_is_left_out_is_the_model_under_training_or_its_part():
    net = SmallNet()
    assert roles(KNN, net, {}) == {"model": net}
    assert roles(KNNAgreement, net, {"teacher": 1}) == {"student": net, "teacher": 1}
    both = torch.nn.ModuleDict({"common": SmallNet(), "salient": SmallNet()})
    assert roles(Separation, both, {}) == dict(both)
    with pytest.raises(MarrowError, match="knn_agreement compares student and teacher, and one of them"):
        roles(KNNAgreement, net, {})
    with pytest.raises(MarrowError, match="all models of knn are given"):
        roles(KNN, net, {"model": net})


NET = {"backbone": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
FEW = {"images": "digits", "split": "train", "per_class": 4}
LOOK = {"examine": "knn", "every_percent": 50, "args": {"k": 3},
        "data": {"train": [FEW], "test": [{"images": "digits", "split": "val", "per_class": 2}]}}  # fmt: skip


def recipe(probe, **stage):
    mae = {"teach": "mae", "name": "net", "encoder": NET, "data": {"train": [{**FEW, "labels": False}], "batch": 8},
           "args": {"width": 16, "depth": 1, "heads": 2}, "steps": 4, "probe": probe, **stage}  # fmt: skip
    return {"seed": 0, "stages": [mae]}


def problems(probe, **stage):
    given = recipe({**LOOK, **probe}, **stage)
    return check_static(given) or check_fit(Recipe.from_dict(given))[0]


def test_a_recipe_with_a_probe_is_checked_and_runs(tmp_path):
    assert problems({}) == []
    marrow.run(recipe(LOOK), tmp_path / "run", device="cpu", quiet=True)
    with open(tmp_path / "run" / "logs" / "net.csv", newline="") as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["name"] == "probe/knn_top1"]
    assert steps == ["0", "2", "4"]
    teacher = {
        "backbone": "resnet10t",
        "img_size": 32,
        "channels": [8, 8, 8, 8],
        "stem_width": 8,
    }  # drawn, as are MAE's own weights
    compared = {"examine": "knn_agreement", "every_percent": 50, "teacher": teacher, "args": {"k": 3},
                "data": {"reference": [FEW], "test": LOOK["data"]["test"]}}  # fmt: skip
    marrow.run(recipe(compared), tmp_path / "compared", device="cpu", quiet=True)
    weights = [(tmp_path / name / "net" / "weights.safetensors").read_bytes() for name in ("run", "compared")]
    assert weights[0] == weights[1] and "probe/knn_agreement" in (tmp_path / "compared/logs/net.csv").read_text()


def test_a_given_model_of_the_probe_is_checked_too():
    agreement = {"examine": "knn_agreement", "data": {"reference": [FEW], "test": LOOK["data"]["test"]}, "args": {}}
    assert problems({**agreement, "teacher": {"backbone": "resnet10t", "img_size": 32}}) == []
    assert "knn_agreement compares student and teacher" in problems(agreement)[0]
    assert problems({**agreement, "teacher": {"stage": 0}}) == [
        "stages[0].probe.teacher.stage: no earlier stage 0; there is no stage before this one"
    ]


@pytest.mark.parametrize(("probe", "said"), [
    ({"examine": "kmn"}, "stages[0].probe.examine: unknown probe 'kmn'; did you mean"),
    ({"every_percent": 0}, "stages[0].probe.every_percent: a number above 0 and up to 100 is needed, got 0"),
    ({"args": {"kk": 3}}, "stages[0].probe.args.kk: KNN has no argument 'kk'"),
    ({"args": {"temperature": -1.0}}, "stages[0].probe.args.temperature: -1.0 is not a positive number"),
    ({"data": {"train": [FEW]}}, "stages[0].probe.data: the stream 'test' is missing"),
    ({"data": {"train": [FEW], "test": [{"images": "digits", "split": "test"}]}},
     "stages[0].probe.data.test[0].split: a training is watched on validation images, never on test ones"),
    ({"teach": "mae"}, "stages[0].probe: a stage has exactly one of"),
    ({"name": "look"}, "stages[0].probe.name: a probe inside a training has no 'name'"),
    ({"steps": 3}, "stages[0].probe.steps: 'steps' is for teach stages"),
])  # fmt: skip
def test_a_probe_that_does_not_fit_is_refused_before_any_work(probe, said):
    found = problems(probe)
    assert len(found) == 1 and said in found[0], found


def test_the_trained_model_must_give_what_the_probe_needs():
    net = {"backbone": "resnet10t", "img_size": 64}
    stage = {"teach": "pixpro", "backbone": net, "data": {"train": [FEW]}, "steps": 2, "args": {"stage": -2},
             "probe": {"examine": "attention_diversity", "every_percent": 50, "data": {"test": LOOK["data"]["test"]}}}  # fmt: skip
    [said] = check_fit(Recipe.from_dict({"seed": 0, "stages": [stage]}))[0]
    assert said.startswith("stages[0].probe.model: attention_diversity needs") and "resnet10t gives" in said


def test_a_method_with_a_loop_of_its_own_has_no_probe():
    select = {"teach": "ssld_select", "teacher": {"task": "classify", "backbone": NET, "classes": 10}, "probe": LOOK,
              "data": {"pool": [FEW], "held_out": [FEW]}}  # fmt: skip
    assert check_static({"stages": [select]}) == [
        "stages[0].probe: ssld_select has a loop of its own, in which no probe looks on"
    ]


def test_other_values_are_refused():
    assert check_static(recipe("knn"))[0].startswith("stages[0].probe: a mapping such as {examine: knn")
    assert check_static(recipe({"every_percent": 10}))[0].startswith("stages[0].probe: a probe says what it examines")
    examine = {"examine": "knn", "model": NET, "data": LOOK["data"], "probe": LOOK}
    assert check_static({"stages": [examine]}) == ["stages[0].probe: 'probe' is for teach stages"]


def test_the_recipes_with_a_probe_ask_it_of_validation_images():
    folder = Path(__file__).parents[2] / "recipes"
    found = [s["probe"] for f in folder.glob("*.yaml") for s in yaml.safe_load(f.read_text())["stages"] if "probe" in s]
    assert len(found) >= 3
    assert all(s["split"] == "val" or "hash" in s for p in found for s in p["data"]["test"])
