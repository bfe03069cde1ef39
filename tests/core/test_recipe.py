"""Reading recipes: YAML's traps, overrides, and the settings that a stage means."""

import pytest

from marrow.core.errors import MarrowError
from marrow.core.recipe import Recipe, changes, load, override, parse, read
from marrow.core.settings import Optim

TEXT = """\
seed: 3
stages:
  - teach: supervised
    name: teacher
    task: {task: classify, backbone: {backbone: resnet18, img_size: 32}, classes: 10}
    data: {train: [{images: digits, split: train}], val: [{images: digits, split: val}], batch: 48, workers: 1}
    args: {pad: 2}
    optim: {adamw: {lr: 1e-3, weight_decay: 5e-2}, schedule: linear, warmup_percent: 10}
    steps: 100
    accumulate: 5
    lr_multipliers: [0.1, 1]
  - shrink: drop_blocks
    model: {stage: teacher}
    args: {stage: layer3}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "digits.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def refused(path, text):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MarrowError) as caught:
        load(path)
    return str(caught.value)


def test_a_stage_says_its_parts(file):
    recipe = read(file)
    teacher, shrunk = recipe.stages
    assert recipe.seed == 3
    assert (teacher.verb, teacher.stem, teacher.name) == ("teach", "supervised", "teacher")
    assert (shrunk.verb, shrunk.stem, shrunk.name) == ("shrink", "drop_blocks", "1-drop_blocks")
    assert shrunk.roles == {"model": {"stage": "teacher"}}
    assert list(teacher.streams) == ["train", "val"]
    assert shrunk.data is None and shrunk.streams == {}


def test_settings_of_a_stage(file):
    settings = read(file).stages[0].settings(seed=7)
    assert settings.optim == {"main": Optim("adamw", 1e-3, {"weight_decay": 0.05}, "linear", 10)}
    assert (settings.steps, settings.batch, settings.workers, settings.seed) == (100, 48, 1, 7)
    assert settings.micro_batch == 10  # 48 in five parts
    assert settings.lr_multipliers == (0.1, 1)


def test_each_player_has_an_optimiser(file):
    each = {"generator": {"adam": {"lr": 0.1}}, "student": {"sgd": {"lr": 0.2}, "schedule": "constant"}}
    stage = Recipe.from_dict({"stages": [{"teach": "x", "optim": each, "steps": 1}]}).stages[0]
    assert stage.settings().optim == {
        "generator": Optim("adam", 0.1),
        "student": Optim("sgd", 0.2, schedule="constant"),
    }


def test_lists_reach_classes_as_tuples():
    stage = Recipe.from_dict({"stages": [{"teach": "x", "args": {"class_map": [1, [2, 3]]}}]}).stages[0]
    assert stage.args == {"class_map": (1, (2, 3))}


def test_written_and_read_again(file):
    recipe = read(file)
    assert Recipe.from_dict(parse(recipe.to_yaml())) == recipe
    words = {"a": "1e-3", "b": "no", "c": 1e-5, "d": "2024-01-01", "e": "007", "f": None, "g": "12"}
    written = Recipe.from_dict({"stages": [words, words]}).to_yaml()
    assert parse(written)["stages"] == [words, words]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1.5e-3", 0.0015), ("-2", -2), (".5", 0.5), ("no", "no"), ("true", True), ("~", None), ("010", "010"),
     ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), (".inf", ".inf"), ("[1, a]", [1, "a"])],
)  # fmt: skip
def test_plain_values(text, value):
    assert parse(text) == value and type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\nseed: 2\n", "line 2: 'seed' is given twice"),
        ("a: &x [1]\nb: *x\n", "line 1: anchors and aliases are not read; a recipe is flat, write the value out"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: tags such as"),
        ("1: 2\n", "line 1: a key is a name"),
        ("[1, 2]\n", "a recipe is a mapping with the keys seed and stages"),
        ("a: [1\n", "not YAML"),
        ("a: " + "[" * 100 + "]" * 100, "nested more than 40 levels deep"),
        ("a: " + "x" * 200_001, "a recipe has at most 200,000"),
    ],
)
def test_refused_files(tmp_path, text, sentence):
    assert sentence in refused(tmp_path / "r.yaml", text)


def test_refused_paths(tmp_path):
    with pytest.raises(MarrowError, match="no recipe at"):
        load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MarrowError, match="not a text file"):
        load(tmp_path / "binary.yaml")


def test_overrides_replace_single_values(file):
    recipe = read(file, ["seed=4", "stages.0.args.pad=1", "stages[0].optim.adamw.lr=2e-3", "stages.teacher.steps=7"])
    stage = recipe.stages[0]
    assert (recipe.seed, stage.args["pad"], stage.settings().optim["main"].lr, stage.settings().steps) == (
        4,
        1,
        2e-3,
        7,
    )
    assert read(file).seed == 3


def test_an_override_may_set_what_has_a_default(file):
    assert read(file, ["stages.1.args.count=2"]).stages[1].args == {"stage": "layer3", "count": 2}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stages.0.agrs.pad=1", "stages[0].agrs: unknown key 'agrs'; did you mean 'args'?"),
        ("stages.techer.steps=1", "stages.techer.steps: there is no 'techer'; did you mean 'teacher'?"),
        ("stages.9.steps=1", "stages.9.steps: there is no '9'; known: 0, 1, teacher"),
        ("seed.x=1", "seed.x: seed is 3 and has no 'x'"),
        ("seed", "'seed' does not replace anything; write stages.1.args.temperature=2"),
        ("seed=[1", "seed: '[1' is not a YAML value"),
        ("seed=x", "seed: a whole number of at least 0 is needed, got 'x'"),
    ],
)
def test_refused_overrides(file, text, sentence):
    with pytest.raises(MarrowError) as caught:
        read(file, [text])
    assert str(caught.value) == sentence


def test_override_leaves_the_original_alone():
    values = {"stages": [{"args": {"a": 1}}]}
    assert override(values, changes(["stages.0.args.a=2"])) == {"stages": [{"args": {"a": 2}}]}
    assert values == {"stages": [{"args": {"a": 1}}]}


def test_stages_made_from_one_dict_do_not_change_together():
    shared = {"backbone": "resnet18"}
    values = {"stages": [{"teach": "a", "student": shared}, {"teach": "b", "student": shared}]}
    changed = override(values, {"stages.0.student.backbone": "resnet34"})
    assert changed["stages"][1]["student"] == {"backbone": "resnet18"}
    first, second = Recipe.from_dict(values).stages
    assert first.roles["student"] is not second.roles["student"]
