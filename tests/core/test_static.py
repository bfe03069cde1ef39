"""The first pass over a recipe: every sentence it can say."""

import json

import pytest

from marrow.core.recipe import Recipe, override
from marrow.core.signature import fits
from marrow.core.source_check import EMBEDDED
from marrow.core.static_check import check_static
from marrow.data import open_source

TASK = {"task": "classify", "backbone": {"backbone": "resnet18", "img_size": 32}, "classes": 10}
GOOD = {
    "seed": 0,
    "stages": [
        {
            "teach": "supervised",
            "name": "teacher",
            "task": TASK,
            "data": {"train": [{"images": "digits", "split": "train"}], "batch": 64},
            "optim": {"sgd": {"lr": 0.1}},
            "steps": 10,
        },
        {
            "teach": "ssld",
            "student": TASK,
            "teacher": {"stage": 0},
            "data": {"train": [{"images": "digits", "labels": False}], "val": [{"images": "digits", "hash": [0, 0.1]}]},
            "args": {"divergence": "kl", "class_map": [0, 1]},
            "epochs": 2.5,
            "evaluate_percent": 10,
            "patience": 3,
        },
        {"shrink": "drop_blocks", "model": {"stage": "teacher"}, "args": {"stage": "layer3"}},
    ],
}


def problems(**replaced):
    """Of GOOD with values replaced; `__` stands for a dot, `stages__0__steps=0`."""
    return check_static(override(GOOD, {k.replace("__", "."): v for k, v in replaced.items()}))


def without(stage, *keys):
    values = override(GOOD, {})
    for key in keys:
        del values["stages"][stage][key]
    return check_static(values)


def test_a_good_recipe_has_no_problems():
    assert check_static(GOOD) == []
    assert check_static(Recipe.from_dict(GOOD)) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("sed", 1, "sed: unknown key 'sed'; did you mean 'seed'?"),
        ("seed", -1, "seed: a whole number of at least 0 is needed, got -1"),
        ("stages", {}, "stages: a list of stages is needed, got {}"),
        ("stages.0", 3, "stages[0]: a stage is a mapping such as {teach: supervised, ...}, got 3"),
        ("stages.0.teach", "supervisd", "stages[0].teach: unknown method 'supervisd'; did you mean 'supervised'?"),
        ("stages.0.teach", "drop_blocks", "stages[0].teach: 'drop_blocks' is not a method; it stands under shrink"),
        ("stages.0.teach", 1, "stages[0].teach: the name of a method is needed, got 1"),
        ("stages.0.shrink", "x", "stages[0]: a stage has exactly one of teach, shrink, examine, ship; got teach and shrink"),
        ("stages.0.name", "logs",
         "stages[0].name: a folder name of small letters, digits and '-' is needed, got 'logs'"),
        ("stages.0.name", "../x",
         "stages[0].name: a folder name of small letters, digits and '-' is needed, got '../x'"),
        ("stages.1.name", "teacher", "stages[1].name: 'teacher' is also the name of stages[0]"),
        ("stages.1.studnet", TASK, "stages[1].studnet: unknown key 'studnet'; did you mean 'student'?"),
        ("stages.0.flip", True, "stages[0].flip: 'flip' is an argument of Supervised; it belongs under args"),
        ("stages.2.epochs", 1, "stages[2].epochs: 'epochs' is for teach stages"),
        ("stages.0.args", 1, "stages[0].args: a mapping is needed, got 1"),
        ("stages.0.args", {"filp": True}, "stages[0].args.filp: Supervised has no argument 'filp'; did you mean 'flip'?"),
        ("stages.0.args", {"flip": 1}, "stages[0].args.flip: Supervised takes bool for 'flip', got 1"),
        ("stages.1.args.divergence", "skl",
         "stages[1].args.divergence: SSLD takes one of sym_kl, js, kl, ce for 'divergence', got 'skl'; "
         "did you mean 'kl' or 'sym_kl'?"),
        ("stages.1.args.class_map", [0, "a"],
         "stages[1].args.class_map: SSLD takes tuple[int, ...] for 'class_map', got [0, 'a']"),
        ("stages.0.task", "resnet18", "stages[0].task: a model is one of {backbone: ...}, {task: ...}, "
         "{artifact: ...}, {stage: ...}, {edit: ..., of: [...]}; got 'resnet18'"),
        ("stages.0.task", {"backbone": "resnet18"},
         "stages[0].task: a Task such as {task: classify, backbone: ..., classes: 10} is needed, got a Backbone"),
        ("stages.0.task.task", "clasify", "stages[0].task.task: unknown task 'clasify'; did you mean 'classify'?"),
        ("stages.0.task.backbone.backbone", 3, "stages[0].task.backbone.backbone: the name of a backbone is needed, got 3"),
        ("stages.0.task.backbone.weights", "x.pth", "stages[0].task.backbone.weights: no weight file at 'x.pth'"),
        ("stages.0.task.clases", 9, "stages[0].task.clases: Classify has no argument 'clases'; did you mean 'classes'?"),
        ("stages.1.teacher", {"stage": 1}, "stages[1].teacher.stage: no earlier stage 1; known: 0, teacher"),
        ("stages.1.teacher", {"stage": "techer"},
         "stages[1].teacher.stage: no earlier stage 'techer'; did you mean 'teacher'?"),
        ("stages.0.task", {"stage": 0}, "stages[0].task.stage: no earlier stage 0; there is no stage before this one"),
        ("stages.1.teacher", {"stage": 0, "prat": "x"}, "stages[1].teacher.prat: unknown key 'prat'; did you mean 'part'?"),
        ("stages.1.teacher", {"stage": 0, "part": 1}, "stages[1].teacher.part: the name of a part is needed, got 1"),
        ("stages.1.teacher", {"artifact": "none"},
         "stages[1].teacher.artifact: no artifact at 'none'; an artifact is a folder with artifact.json"),
        ("stages.0.data", [], "stages[0].data: a mapping of streams is needed, got []"),
        ("stages.0.data.trian", [{"images": "digits"}],
         "stages[0].data.trian: unknown stream or key 'trian'; did you mean 'train'?"),
        ("stages.0.data.train", {"images": "digits"},
         "stages[0].data.train: a list of sources such as [{images: digits}] is needed, got {'images': 'digits'}"),
        ("stages.0.data.train.0", "digits", "stages[0].data.train[0]: a mapping such as {images: digits} is needed, got 'digits'"),
        ("stages.0.data.train.0.imags", "x", "stages[0].data.train[0].imags: unknown key 'imags'; did you mean 'images'?"),
        ("stages.0.data.train.0.split", "trian",
         "stages[0].data.train[0].split: one of train, val, test is needed, got 'trian'"),
        ("stages.0.data.train.0.images", "digts",
         "stages[0].data.train[0].images: no file or folder 'digts'; did you mean 'digits'?"),
        ("stages.0.data.train.0.hash", [0.5, 0.1],
         "stages[0].data.train[0].hash: [low, high) with 0 <= low < high <= 1 is needed, got [0.5, 0.1]"),
        ("stages.0.data.train.0.per_class", 0,
         "stages[0].data.train[0].per_class: a whole number of at least 1 is needed, got 0"),
        ("stages.0.data.train.0.fraction", 2,
         "stages[0].data.train[0].fraction: a number above 0 and up to 1 is needed, got 2"),
        ("stages.0.data.train.0.only", "cat", "stages[0].data.train[0].only: a list of class names is needed, got 'cat'"),
        ("stages.0.data.train.0.group", "(", "stages[0].data.train[0].group: '(' is no regular expression: missing ), unterminated subpattern at position 0"),
        ("stages.0.data.train.0.classes", ["a", "a"],
         "stages[0].data.train[0].classes: a list of distinct class names is needed, got ['a', 'a']"),
        ("stages.0.data.train.0.without", [{"images": "digit"}],
         "stages[0].data.train[0].without[0].images: no file or folder 'digit'; did you mean 'digits'?"),
        ("stages.0.data.train.0.root", ".", "stages[0].data.train[0].root: 'root' goes with torchvision:NAME only"),
        ("stages.0.data.train.0.indices", "none", "stages[0].data.train[0].indices: no artifact at 'none'"),
        ("stages.0.data.batch", 0, "stages[0].data.batch: a whole number of at least 1 is needed, got 0"),
        ("stages.0.data.batch", {"trian": 4, "train": 4},
         "stages[0].data.batch.trian: unknown stream 'trian'; did you mean 'train'?"),
        ("stages.0.data.batch", {}, "stages[0].data.batch: the stream 'train' has no batch size"),
        ("stages.0.data.workers", -1, "stages[0].data.workers: a whole number of at least 0 is needed, got -1"),
        ("stages.0.steps", 0, "stages[0].steps: a whole number of at least 1 is needed, got 0"),
        ("stages.0.steps", True, "stages[0].steps: a whole number of at least 1 is needed, got True"),
        ("stages.0.epochs", 1, "stages[0]: exactly one of steps, epochs, examples is needed, got steps and epochs"),
        ("stages.0.precision", "fp16", "stages[0].precision: one of 32-true, bf16-mixed, 16-mixed is needed, got 'fp16'"),
        ("stages.0.ema", 1.0, "stages[0].ema: a number between 0 and 1 is needed, got 1.0"),
        ("stages.0.layer_decay", 0, "stages[0].layer_decay: a number above 0 and up to 1 is needed, got 0"),
        ("stages.0.lr_multipliers", [], "stages[0].lr_multipliers: a list of numbers of at least 0 is needed, got []"),
        ("stages.0.clip", float("inf"), "stages[0].clip: a number above 0 is needed, got inf"),
        ("stages.0.cached_views", 1000, "stages[0].cached_views: a whole number from 1 to 200 is needed, got 1000"),
        ("stages.0.select", "top1", "stages[0].select: it compares measurements; evaluate_percent is needed too"),
        ("stages.1.select", 1, "stages[1].select: the name of a metric is needed, got 1"),
        ("stages.0.patience", 2, "stages[0].patience: it counts measurements; evaluate_percent is needed too"),
        ("stages.0.evaluate_percent", 5, "stages[0].evaluate_percent: data.val is needed to measure on"),
        ("stages.0.evaluate_percent", 101,
         "stages[0].evaluate_percent: a number above 0 and up to 100 is needed, got 101"),
        ("stages.0.optim", "sgd", "stages[0].optim: a mapping such as {adamw: {lr: 1e-3}} is needed, got 'sgd'"),
        ("stages.0.optim.adam", {"lr": 1}, "stages[0].optim: exactly one optimiser is needed, such as "
         "adamw: {lr: 1e-3}; got sgd, adam"),
        ("stages.0.optim.shedule", "cosine", "stages[0].optim.shedule: unknown key 'shedule'; did you mean 'schedule'?"),
        ("stages.0.optim.schedule", "cosin", "stages[0].optim.schedule: unknown schedule 'cosin'; did you mean 'cosine'?"),
        ("stages.0.optim.warmup_percent", 200,
         "stages[0].optim.warmup_percent: a number from 0 to 100 is needed, got 200"),
        ("stages.0.optim.sgd.lr", 0, "stages[0].optim.sgd.lr: a number above 0 is needed, got 0"),
        ("stages.0.optim.sgd.weight_decay", -1,
         "stages[0].optim.sgd.weight_decay: a number of at least 0 is needed, got -1"),
        ("stages.0.optim", {"studnet": {"sgd": {"lr": 1}}, "main": {"sgd": {"lr": 1}}},
         "stages[0].optim.studnet: unknown player 'studnet'; known: main"),
    ],
)  # fmt: skip
def test_one_problem_one_sentence(path, value, sentence):
    assert sentence in check_static(override(GOOD, {path: value}))


def test_missing_parts():
    assert "stages: a list of stages is needed" in check_static({"seed": 0})
    assert without(0, "task") == ["stages[0]: Supervised needs a model as 'task'"]
    assert without(0, "data") == ["stages[0]: Supervised needs data with train"]
    assert without(0, "steps") == ["stages[0]: exactly one of steps, epochs, examples is needed, got none"]
    verbless = {"teech": "supervised"}
    assert check_static({"stages": [verbless]})[0] == (
        "stages[0]: a stage has exactly one of teach, shrink, examine, ship; got none; did you mean 'teach'?"
    )
    assert "stages[0].data: the stream 'train' is missing" in problems(stages__0__data={"batch": 4})
    classless = {k: v for k, v in TASK.items() if k != "classes"}
    assert "stages[0].task: Classify needs classes" in problems(stages__0__task=classless)


def test_settings_that_exclude_each_other():
    found = problems(stages__0__accumulate=2, stages__0__micro_batch=8)
    assert found == ["stages[0].accumulate: it sets the micro-batch; give accumulate or micro_batch, not both"]
    found = problems(stages__0__data__train__0={"images": "digits", "per_class": 3, "fraction": 0.5})
    assert found == ["stages[0].data.train[0]: per_class and fraction exclude each other"]
    found = problems(stages__0__accumulate=2, stages__0__data__batch={"train": 8})
    assert found == ["stages[0].accumulate: with one batch per stream, give micro_batch"]


def test_all_problems_come_at_once():
    found = problems(seed=-1, stages__0__steps=0, stages__1__args__temprature=2, stages__2__model={"stage": 5})
    assert [line.partition(":")[0] for line in found] == [
        "seed",
        "stages[0].steps",
        "stages[1].args.temprature",
        "stages[2].model.stage",
    ]


def test_a_method_that_owns_its_loop_needs_no_duration():
    stage = {
        "teach": "ssld_select",
        "teacher": TASK,
        "data": {"pool": [{"images": "digits"}], "held_out": [{"images": "digits"}]},
    }
    assert check_static({"stages": [stage]}) == []


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("runtime", "is of kind runtime; teach needs a model that can be trained"),
        ("data", "is of kind data; teach needs a model that can be trained"),
        ("backbone", "is a backbone, a task is needed: {task: classify, backbone: ...}"),
        ("task", None),
    ],
)
def test_the_kind_of_an_artifact_fits_its_role(tmp_path, kind, sentence):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "artifact.json").write_text(json.dumps({"kind": kind}), encoding="utf-8")
    found = check_static(override(GOOD, {"stages.1.teacher": {"artifact": "made"}}), tmp_path)
    assert found == ([f"stages[1].teacher.artifact: 'made' {sentence}"] if sentence else [])


def test_a_task_artifact_gives_its_backbone_by_name(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "artifact.json").write_text('{"kind": "task"}', encoding="utf-8")
    role = "stages.0.task.backbone"
    found = check_static(override(GOOD, {role: {"artifact": "made"}}), tmp_path)
    assert found == ["stages[0].task.backbone.artifact: 'made' is a task, a backbone is needed; add part: backbone"]
    assert check_static(override(GOOD, {role: {"artifact": "made", "part": "backbone"}}), tmp_path) == []


def test_a_damaged_artifact_is_named(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "artifact.json").write_text("{", encoding="utf-8")
    found = check_static(override(GOOD, {"stages.1.teacher": {"artifact": "made"}}), tmp_path)
    (said,) = found
    assert said.startswith("stages[1].teacher.artifact: made/artifact.json is not JSON")


def test_files_beside_a_missing_path_are_suggested(tmp_path):
    (tmp_path / "photos").mkdir()
    found = check_static(override(GOOD, {"stages.0.data.train.0.images": "photo"}), tmp_path)
    assert found == ["stages[0].data.train[0].images: no file or folder 'photo'; did you mean 'photos'?"]


def test_names_are_looked_up_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "birds").mkdir()
    monkeypatch.setenv("MARROW_DATA", str(tmp_path))
    assert problems(stages__0__data__train__0__images="birds") == []


def test_embedded_names_open():
    assert [len(open_source({"images": name})) > 0 for name in EMBEDDED] == [True] * len(EMBEDDED)


@pytest.mark.parametrize(
    ("value", "annotation", "fit"),
    [
        (1, "int", True), (True, "int", False), (1, "float", True), (1.5, "int", False), ("a", "str", True),
        (None, "int | None", True), (None, "int", False), ([1, 2], "tuple[int, ...]", True), ([1, "a"], "tuple[int, ...]", False),
        ([1, 2], "tuple[int, int]", True), ([1], "tuple[int, int]", False), ([], "tuple", True), ("a", "Literal['a', 'b']", True),
        ("c", "Literal['a', 'b']", False), (1, "Literal[1]", True), (True, "Literal[1]", False), (0, "bool", False),
        ([[1], [2]], "tuple[tuple[int, ...], ...]", True), (3, "int | tuple[int, int]", True),
    ],
)  # fmt: skip
def test_values_against_annotations(value, annotation, fit):
    assert fits(value, annotation) is fit


def test_an_annotation_nobody_can_check_is_a_bug():
    with pytest.raises(TypeError, match="'Callable' is not an annotation that recipes know"):
        fits(1, "Callable")
