import json
from pathlib import Path

import pytest
import torch

from marrow.backbones.vit_resnas_space import Architecture, SearchSpace, macs
from marrow.backbones.vit_resnas_subnet import supernet
from marrow.core.artifact import Artifact
from marrow.core.cost import cost
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Settings
from marrow.core.source import Source
from marrow.core.spec import apply, cut
from marrow.core.timm_backbone import TimmBackbone
from marrow.run import run
from marrow.shrink.sub_net_latency import every_piece, milliseconds
from marrow.shrink.sub_net_score import Judge, Remembered
from marrow.shrink.vit_resnas_search import SubNet, VitResNASSearch
from marrow.tasks.classify import Classify

NET = dict(
    img_size=16, patch_size=4, dims=(8, 12, 16), head_dims=(4, 4, 4), heads=((4, 4),) * 3, hidden=((16, 16),) * 3
)
SPACE = {"dims": (1.0, 0.75), "heads": (1.0, 0.5), "hidden": (1.0, 0.75, 0.5)}
SEARCH = {"initial": 4, "population": 3, "generations": 2, "budget": 7.6e5, **SPACE}


class Noise(Source):
    classes = ["a", "b", "c"]

    def __init__(self):
        self.images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index % 3}

    def fraction(self, index):
        return (index + 0.5) / 40

    def name(self, index):
        return str(index)

    def label(self, index):
        return index % 3


@pytest.fixture
def task() -> Classify:
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create("vit_res_tiny", **NET), classes=3)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return task.eval()


def plan(task: Classify, seed: int = 0, cache: Path | None = None, workers: int = 0, **changed):
    engine = Engine(Settings(seed=seed, workers=workers), device="cpu", cache=cache)
    return VitResNASSearch(**{**SEARCH, **changed}).plan({"task": task}, Data({"holdout": Noise()}), engine)


def test_it_finds_the_best_of_its_rows_and_keeps_the_budget(task):
    planned = plan(task)
    assert len(planned.rows) == 4 + 2 * 2 * 3
    assert planned.rows[0]["score"] == max(row["score"] for row in planned.rows) > min(r["score"] for r in planned.rows)
    assert all(0.975 * 7.6e5 <= row["macs"] <= 7.6e5 for row in planned.rows)
    small = cut([task], planned)
    assert cost(small.backbone).macs == planned.rows[0]["macs"]
    [row] = Engine(device="cpu").evaluate(small.eval(), Noise())[:1]
    assert row["value"] == pytest.approx(planned.rows[0]["score"])
    assert " ".join(map(str, supernet(small).dims)) == planned.rows[0]["dims"]


def test_the_seed_decides(task):
    assert plan(task) == plan(task)
    assert plan(task).rows != plan(task, seed=1).rows


@pytest.mark.slow
def test_processes_score_alike(task):
    assert plan(task, workers=2, generations=0) == plan(task, generations=0)


def test_an_interrupted_search_asks_for_nothing_twice(task, tmp_path):
    wanted = plan(task, cache=tmp_path)
    [file] = tmp_path.glob("scores-*.jsonl")
    lines = file.read_text().splitlines()
    assert len(lines) == len(wanted.rows)
    # As it is when killed in the middle of a line; two scores are altered, to be seen to be read.
    altered = [json.dumps([json.loads(line)[0], 2.0 + i]) for i, line in enumerate(lines[:2])]
    file.write_text("\n".join([*altered, *lines[2:5], lines[5][:9]]))
    again = plan(task, cache=tmp_path)
    assert [row["score"] for row in again.rows[:2]] == [3.0, 2.0]
    file.write_text("\n".join([*lines[:5], lines[5][:9]]))
    assert plan(task, cache=tmp_path).rows == wanted.rows
    assert len(file.read_text().splitlines()) == len(lines)


def test_scores_of_another_supernet_are_not_taken(task, tmp_path):
    plan(task, cache=tmp_path)
    with torch.no_grad():
        task.head.weight.neg_()
    plan(task, cache=tmp_path)
    assert len(list(tmp_path.glob("scores-*.jsonl"))) == 2


def test_an_architecture_is_scored_once(task, tmp_path):
    engine = Engine(device="cpu")
    judge = Judge.of(task, Noise(), engine, str(tmp_path))
    space = SearchSpace.of(supernet(task), **SPACE, removable=None)
    small, large = map(space.architecture, space.ends())
    scores = Remembered(judge, engine)
    assert scores([small, large, small]) == [judge(small), judge(large), judge(small)]
    assert list(scores.known) == [small, large]


def test_fresh_weights_are_those_of_no_supernet(task):
    inherited, planned = plan(task), plan(task, fresh=True)
    torch.rand(1)  # the seed of the search decides, not what was drawn before
    assert all(torch.equal(v, planned.weights[k]) for k, v in plan(task, fresh=True).weights.items())
    assert planned.edit == inherited.edit and inherited.weights is None
    name = "backbone.net.stages.0.blocks.0.mlp.fc1.weight"
    small = cut([task], planned)
    assert torch.equal(small.state_dict()[name], planned.weights[name])
    dims = planned.weights[name].shape
    assert not torch.allclose(planned.weights[name], task.state_dict()[name][: dims[0], : dims[1]])


def test_a_budget_in_milliseconds(task):
    net = supernet(task)
    space = SearchSpace.of(net, **SPACE, removable=None)
    pieces = every_piece(space)
    times = milliseconds(net, pieces, "cpu")
    assert len(set(pieces)) == len(pieces) == len(times) and min(times) > 0
    architecture = space.architecture(space.ends()[1])
    assert {p for p in pieces if macs(net, p) == 0} == set() and len(architecture.blocks[0]) == 2
    with pytest.raises(MarrowError, match=r"the sub-nets cost from [\d.]+ to [\d.]+ milliseconds, none of them 9,999"):
        plan(task, unit="milliseconds", budget=9999.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"budget": 10.0}, r"cost from ([\d,]+) to [\d.e+,]+ macs, none of them 10; the nearest budget is \1"),
        ({"budget": 1e12}, r"cost from [\d,]+ to ([\d.e+,]+) macs, none of them 1e\+12; the nearest budget is \1"),
        ({"initial": 0}, "0 random sub-nets and 2 generations of 3 make no search"),
        ({"generations": -1}, "make no search"),
        ({"removable": (0, 1)}, "cannot both be removable"),
    ],
)
def test_what_does_not_fit_is_named(task, changed, words):
    with pytest.raises(MarrowError, match=words):
        plan(task, **changed)


@pytest.mark.parametrize(
    ("dims", "blocks", "words"),
    [
        ((8, 12, 17), (((0, 1, 1),),) * 3, "17 is outside of the supernet's 16 channels"),
        ((8, 12, 16), (((0, 5, 1),),) * 3, "5 is outside of the supernet's 4 heads"),
        ((8, 12, 16), (((0, 1, 0),),) * 3, "0 is outside of the supernet's 16 hidden units"),
        ((8, 12, 16), (((2, 1, 1),),) * 3, "3 is outside of the supernet's 2 blocks"),
        ((8, 12, 16), (((1, 1, 1), (0, 1, 1)),) * 3, "once each, in order"),
        ((8, 12, 16), ((), (), ()), "one at least"),
        ((8, 12), (((0, 1, 1),),) * 2, "3 stages"),
    ],
)
def test_an_edit_that_does_not_fit_its_supernet_is_named(task, dims, blocks, words):
    with pytest.raises(MarrowError, match=words):
        apply(SubNet(dims, blocks), [task])


def test_the_artifact_holds_the_candidates(tmp_path):
    backbone = {"backbone": "vit_res_tiny", **{k: _listed(v) for k, v in NET.items()}}
    stage = {
        "shrink": "vit_resnas_search",
        "task": {"task": "classify", "backbone": backbone, "classes": 10},
        "data": {"holdout": [{"images": "digits", "split": "val", "fraction": 0.2}]},
        "args": {k: _listed(v) for k, v in {**SEARCH, "generations": 0}.items()},
    }
    [made] = run({"seed": 0, "stages": [stage]}, tmp_path / "run", device="cpu", quiet=True)
    rows = json.loads((made.path / "rows.json").read_text())
    assert len(rows) == 4 and rows[0]["macs"] <= 7.6e5
    opened = Artifact.open(made.path)
    assert "rows.json" in opened.meta["files"] and opened.meta["spec"]["edit"] == "vit_resnas_search"
    net = supernet(opened.load())
    blocks = [[[i, h, m] for i, h, m in stage] for stage in opened.meta["spec"]["values"]["blocks"]]
    own = Architecture(net.dims, tuple(tuple((i, b.attn.heads, b.mlp.fc1.out_features) for (i, *_), b in zip(k, s.blocks))
                                       for k, s in zip(blocks, net.stages)))  # fmt: skip
    assert [[list(b) for b in stage] for stage in own.blocks] == blocks


def _listed(value):
    return [_listed(v) for v in value] if isinstance(value, tuple) else value
