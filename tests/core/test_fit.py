"""The second pass: models and methods on the meta device."""

import pytest

import marrow.backbones  # noqa: F401  registers ours with timm
from marrow.core.artifact import save
from marrow.core.errors import MarrowError
from marrow.core.fit_check import check_fit, lacking, model_name
from marrow.core.models import backbone, resolve, task
from marrow.core.recipe import Recipe, override
from marrow.core.static_check import check_static

TINY = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 16, 24, 32], "stem_width": 8, "layers": [1, 1, 2, 1]}
TASK = {"task": "classify", "backbone": TINY, "classes": 10}
DATA = {"train": [{"images": "digits"}], "batch": 16}
GOOD = {
    "seed": 0,
    "stages": [
        {"teach": "supervised", "name": "teacher", "task": TASK, "data": DATA, "steps": 2},
        {"teach": "ssld", "student": TASK, "teacher": {"stage": 0}, "data": DATA, "steps": 2},
        {"shrink": "drop_blocks", "model": {"stage": 1}},
        {"teach": "ssld", "student": {"stage": 2}, "teacher": {"stage": "teacher"}, "data": DATA, "steps": 2},
    ],
}


def fit(path=None, value=None):
    values = override(GOOD, {path: value} if path else {})
    assert check_static(values) == []
    return check_fit(Recipe.from_dict(values))


def test_a_good_recipe_gives_a_row_for_each_model():
    problems, rows = fit()
    assert problems == []
    assert [(r["stage"], r["role"]) for r in rows] == [
        ("teacher", "task"), ("1-ssld", "student"), ("1-ssld", "teacher"), ("2-drop_blocks", "model"),
        ("3-ssld", "student"), ("3-ssld", "teacher"),
    ]  # fmt: skip
    *whole, cut, teacher = rows
    assert {r["model"] for r in (*whole, teacher)} == {"classify(resnet10t)"}
    assert len({(r["params"], r["macs"], r["bytes"]) for r in (*whole, teacher)}) == 1
    assert cut["model"] == "drop_blocks(classify(resnet10t))"
    assert all(cut[fact] < teacher[fact] for fact in ("params", "macs", "bytes"))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("stages.0.task.backbone.backbone", "resnet81", "stages[0].task.backbone: unknown backbone 'resnet81'; did you mean"),
        ("stages.0.task.backbone.num_classes", 3, "stages[0].task.backbone: 'num_classes' is not an argument of a backbone"),
        ("stages.0.task.backbone.depht", 3, "stages[0].task.backbone: timm's resnet10t does not take these arguments"),
        ("stages.0.task.backbone", {"backbone": "poolformer_s12", "depths": [1, 1, 1, 1]},
         "stages[0].task.backbone: timm's poolformer_s12 does not take these arguments (dict() got multiple values for keyword "
         "argument 'depths'). It takes device, dims"),
        ("stages.0.task.classes", 1, "stages[0].task: classify.classes: 1 classes cannot be told apart"),
        ("stages.1.student.classes", 7, "stages[1]: teacher has 10 outputs, student 7"),
        ("stages.1.args", {"temperature": -1}, "stages[1].args.temperature: -1 is not a positive number"),
        ("stages.0.args.crop", [0.0, 1.0], "stages[0].args.crop: (0.0, 1.0) is not a range of shares"),
        ("stages.0.cached_views", 2, "stages[0].cached_views: Supervised asks no frozen teacher, so there is nothing to store"),
        ("stages.1.teacher", {"stage": 0, "part": "hed"}, "stages[1].teacher.part: Classify has no part 'hed'; did you mean"),
        ("stages.1.teacher", {"stage": 0, "part": "backbone"},
         "stages[1].teacher: ssld needs a Task, TimmBackbone is a Backbone."),
        ("stages.1.student", {"task": "classify", "backbone": {"stage": 0}, "classes": 10},
         "stages[1].student.backbone: classify needs a Backbone, Classify is a Task. Add part: backbone."),
        ("stages.0.optim", {"adamv": {"lr": 1}}, "stages[0].optim: unknown optimiser 'adamv'; did you mean 'adam'"),
        ("stages.0.optim", {"adamw": {"weigth_decay": 1}},
         "stages[0].optim: adamw has no argument 'weigth_decay'; did you mean 'weight_decay'?"),
    ],
)  # fmt: skip
def test_one_problem_one_sentence(path, value, sentence):
    problems, _ = fit(path, value)
    assert len(problems) == 1, problems
    assert problems[0].startswith(sentence)


@pytest.mark.parametrize("stage, sentence", [
    ({"examine": "few_shot", "model": {"stage": 0}, "args": {"ways": 1}, "data": {"test": [{"images": "digits"}]}},
     "stages[4].args.ways: 1 classes cannot be told apart"),
    ({"shrink": "prune", "model": {"stage": 0}, "args": {"ratio": 1.5}}, "stages[4].args.ratio: "),
    ({"shrink": "drop_blocks", "model": {"stage": 2}},
     "stages[4].args.stage: no stage 'layer3' with more than one block; known: conv1"),
    ({"shrink": "drop_blocks", "model": {"stage": 0}, "args": {"stage": "conv1"}},
     "stages[4].args.stage: without the last 1 blocks of 'conv1' what follows no longer fits"),
])  # fmt: skip
def test_what_a_probe_or_a_shrinker_refuses_is_known_before_any_training(stage, sentence):
    problems, _ = check_fit(Recipe.from_dict({**GOOD, "stages": [*GOOD["stages"], stage]}))
    assert len(problems) == 1 and problems[0].startswith(sentence), problems


NESTED = {
    "teach": "matryoshka",
    "name": "nested",
    "inner": {"teach": "supervised", "task": TASK},
    "data": DATA,
    "steps": 2,
}
STREAMS = {"thresholds": [{"images": "digits", "split": "val"}], "test": [{"images": "digits", "split": "test"}]}


def cut(size, of="nested"):
    return {"shrink": "nested_size", "model": {"stage": of}, "args": {"size": size}}


@pytest.mark.parametrize("size", [9, 64, 0, -1])
def test_a_size_that_no_training_can_bring_is_refused_before_it(size):
    recipe = {"seed": 0, "stages": [{**NESTED, "args": {"sizes": [8, 32]}}, cut(size)]}
    said = f"stages[1].args.size: size {size} was not trained; "
    assert check_static(recipe) == [] and check_fit(Recipe.from_dict(recipe))[0] == [f"{said}one of 8, 32 fits"]
    tied = {"seed": 0, "stages": [{**NESTED, "args": {"sizes": [8, 32], "tied": True}}, cut(size)]}
    assert check_fit(Recipe.from_dict(tied))[0] == ([f"{said}a size from 8 to 32 fits"] if size != 9 else [])


@pytest.mark.parametrize("after", [
    {**cut(8, of="eight"), "name": "after"},
    {"examine": "adaptive_classification", "name": "after", "model": {"stage": "eight"}, "data": STREAMS},
])  # fmt: skip
def test_a_cut_model_is_nested_no_more(after):
    problems, _ = check_fit(Recipe.from_dict({"seed": 0, "stages": [NESTED, {**cut(8), "name": "eight"}, after]}))
    stem = after.get("shrink") or after["examine"]
    assert problems == [f"stages[2].model: {stem} needs 'nested' from model; nested_size(nested_classify(resnet10t)) gives "
                        "logits, maps, pooled, relu. Try what matryoshka trained."]  # fmt: skip


def test_the_cost_of_what_is_shipped_is_that_of_the_cut_model():
    file = {"ship": "onnx", "name": "file", "model": {"stage": 1}, "data": {"parity": [{"images": "digits"}]}}
    problems, rows = check_fit(Recipe.from_dict({"seed": 0, "stages": [NESTED, cut(8), file]}))
    assert problems == []
    whole, shipped = (next(r for r in rows if r["verb"] == verb) for verb in ("shrink", "ship"))
    assert whole["params"] - shipped["params"] == (32 + 1) * 10 + (16 + 1) * 10  # heads of 8, 16, 32 became one of 8


def test_what_only_a_run_tells_is_stood_for_by_the_model_it_starts_from():
    pruned = {"shrink": "prune", "name": "narrow", "model": {"stage": 0}}
    after = {"shrink": "drop_blocks", "model": {"stage": "narrow"}}
    problems, rows = check_fit(Recipe.from_dict({"seed": 0, "stages": [GOOD["stages"][0], pruned, after]}))
    assert problems == [] and rows[1]["params"] == rows[2]["params"]


@pytest.mark.parametrize("net", [
    {"backbone": "inception_v3", "img_size": 64},  # what its seventh stage is given is smaller than its kernel
    {"backbone": "efficientformer_l1", "img_size": 64},  # its attention is built for 224
])  # fmt: skip
def test_a_net_that_is_built_and_does_not_run_is_refused_in_one_sentence(net):
    problems, rows = fit("stages.0.task.backbone", net)
    assert len(problems) == 1 and "\n" not in problems[0]
    assert problems[0].startswith(f"stages[0].task: classify({net['backbone']}) does not run on pictures of 64 x 64 (")
    assert rows and all(r["model"] != f"classify({net['backbone']})" for r in rows)
    with pytest.raises(MarrowError, match=f"^backbone: {net['backbone']} does not run on pictures of 64 x 64"):
        assert resolve(net, {}, "backbone", meta=True).gives


def test_what_a_broken_stage_makes_is_not_blamed_on_later_ones():
    problems, rows = fit("stages.0.task.backbone.backbone", "resnet81")
    assert len(problems) == 1
    assert ("1-ssld", "student") in [(r["stage"], r["role"]) for r in rows]


def test_needs_against_gives():
    resnet = resolve(TINY, {}, "test", meta=True)
    assert lacking("tinymim", "student", {"qkv", "pooled"}, resnet) == (
        "tinymim needs 'qkv' from student; resnet10t gives maps, pooled, relu. Try vit_*, deit_*."
    )
    assert lacking("x", "student", {"pooled", "maps"}, resnet) == ""


def test_artifacts_are_built_from_their_spec(tmp_path):
    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    made = save(tmp_path / "teacher", task("classify", backbone=net, classes=10))
    problems, rows = fit("stages.1.teacher", {"artifact": str(made.path)})
    assert problems == []
    assert next(r for r in rows if (r["stage"], r["role"]) == ("1-ssld", "teacher"))["model"] == "classify(resnet10t)"
    part = resolve({"artifact": str(made.path), "part": "backbone"}, {}, "test", meta=True)
    assert all(p.is_meta for p in part.parameters())
    loaded = resolve({"artifact": str(made.path), "part": "backbone"}, {}, "test")
    assert not any(p.is_meta for p in loaded.parameters())


def test_weights_wait_for_the_run(tmp_path):
    problems, _ = check_fit(Recipe.from_dict(override(GOOD, {"stages.0.task.backbone.pretrained": True})))
    assert problems == []


def test_models_by_name():
    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    assert model_name(task("classify", backbone=net, classes=3).spec) == "classify(resnet10t)"
    with pytest.raises(MarrowError, match="unknown backbone 'resnet10x'"):
        backbone("resnet10x")
    with pytest.raises(MarrowError, match="backbone: classify needs a model, got a str"):
        task("classify", backbone="resnet18", classes=3)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"source": "timm:resnet18"}, "resnet18"),
        ({"edit": "drop_blocks", "values": {}, "of": [{"source": "timm:resnet18"}]}, "drop_blocks(resnet18)"),
        ({"part": "backbone", "of": [{"task": "classify", "backbone": {"source": "timm:a"}}]}, "classify(a).backbone"),
    ],
)
def test_a_spec_in_few_words(spec, name):
    assert model_name(spec) == name


def test_whether_a_teacher_can_be_stored_is_known_without_data():
    views = {"stages.1.cached_views": 4}
    assert fit_all(views) == []
    assert fit_all({**views, "stages.1.args": {"teacher_bn": "batch"}}) == [
        "stages[1].cached_views: the teacher uses the statistics of each batch, so what it says of an image depends on the "
        "others and cannot be stored. Leave cached_views out, or use the running statistics."
    ]
    stage = {"teach": "feature_distillation", "student": TINY, "teacher": TINY, "data": DATA, "steps": 2}
    dense = {"stages": [stage, {**stage, "args": {"dense": 1.0}}], **views}
    assert fit_all(dense) == [
        "stages[1].cached_views: the teacher's 'map' has 32 x 1 x 1 values an example, and only vectors are stored, "
        "not maps or tokens. Leave cached_views out, or that term."
    ]


def fit_all(values):
    values = override(GOOD, values)
    assert check_static(values) == []
    return check_fit(Recipe.from_dict(values))[0]


def test_beginnings_of_concatenated_backbones_are_no_embeddings():
    members = {"edit": "cat", "of": [{"stage": n, "part": "backbone"} for n in ("one", "other")]}
    whole = {"task": "embed", "backbone": members, "sizes": [8, 32]}
    stages = [{**NESTED, "name": "one"}, {**NESTED, "name": "other", "seed": 1}, {**cut(8), "model": whole}]
    assert check_fit(Recipe.from_dict({"seed": 0, "stages": stages}))[0] == [
        "stages[2].model: embed.sizes: the first features of concatenated backbones are those of the first member alone. "
        "Leave sizes out, or name them for one member."
    ]
