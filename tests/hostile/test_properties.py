"""Valid recipes and artifacts changed anywhere: they are taken, or refused in a sentence, and nothing else happens."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marrow.core import plain_json
from marrow.core.artifact import Artifact, tensors_in
from marrow.core.artifact_check import check
from marrow.core.errors import MarrowError
from marrow.core.recipe import Recipe, override, parse, read
from marrow.core.spec import meta
from marrow.core.static_check import check_static

from .inputs import put, rewrite, saved
from .test_recipes import GOOD, written
from .test_specs import NET, TASK, drop, prune

ALWAYS = {"deadline": None, "derandomize": True, "database": None,
          "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}  # fmt: skip
WORDS = ["teach", "ssld", "timm:resnet18", "hf:vit", "task", "classify", "edit", "prune", "part", "backbone", "of", "args", "../x", "pretrained",
         "digits", "image", "crop", "\x00", "\u202e", "a.b", "0-3 5"]  # fmt: skip
SCALARS = (st.none() | st.booleans() | st.integers(-3, 40) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
           | st.text(max_size=8) | st.sampled_from(WORDS))  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of everything inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for k, v in items for p in ((*path, k), *places(v, (*path, k)))]


@st.composite
def changed(draw: Any, good: Any, values: Any = JSON) -> Any:
    """A value with one to three of its parts replaced, taken out, put elsewhere or given a new neighbour."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        if not (known := places(value)):
            break
        path = draw(st.sampled_from(known))
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(("replace", "take out", "neighbour", "another's"))):
            case "replace":
                holder[path[-1]] = draw(values)
            case "take out":
                del holder[path[-1]]
            case "neighbour" if isinstance(holder, dict):
                holder[draw(st.sampled_from(WORDS) | st.text(max_size=5))] = draw(values)
            case _:
                other = copy.deepcopy(value)
                for key in draw(st.sampled_from(known)):
                    if not (
                        isinstance(other, dict) and key in other or isinstance(other, list) and key in range(len(other))
                    ):
                        break
                    other = other[key]
                put(value, path, other)
    return value


@settings(max_examples=300, **ALWAYS)
@given(changed(parse(GOOD)))
def test_a_recipe_with_anything_changed(value):
    problems = check_static(value) if isinstance(value, dict) else ["no mapping"]
    assert all(isinstance(p, str) and p for p in problems)
    if not problems:
        recipe = Recipe.from_dict(value)
        for stage in recipe.stages:
            assert stage.name and stage.stem and isinstance(stage.settings().batch, (int, dict))
        assert Recipe.from_dict(parse(recipe.to_yaml())) == recipe


@settings(max_examples=150, **ALWAYS)
@given(changed(parse(GOOD)))
def test_a_recipe_file_with_anything_changed(tmp_path, value):
    try:
        read(written(tmp_path, yaml.safe_dump(value)))
    except MarrowError as error:
        assert str(error)


@settings(max_examples=200, **ALWAYS)
@given(
    st.text(alphabet="ab01:-[]{},\"'#&*!|>%@`\n\t \\.\u202e\u00e9\x85\ufeff", max_size=80), st.integers(0, len(GOOD))
)
def test_a_recipe_with_text_put_in(tmp_path, text, position):
    try:
        read(written(tmp_path, GOOD[:position] + text + GOOD[position:]))
    except MarrowError as error:
        assert str(error)


@settings(max_examples=200, **ALWAYS)
@given(
    st.lists(st.sampled_from(["stages", "0", "1", "teacher", "task", "seed", "x", "-1", "[0]", ""]), max_size=5), JSON
)
def test_any_override(path, value):
    try:
        check_static(override(parse(GOOD), {".".join(path): value}))
    except MarrowError as error:
        assert str(error)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {kind: saved(kind, tmp_path_factory.mktemp("made") / kind) for kind in ("task", "data", "report")}


@pytest.mark.parametrize("kind", ["task", "data", "report"])
def test_an_artifact_with_anything_changed(made, kind):
    good = json.loads((made[kind] / "artifact.json").read_text())

    @settings(max_examples=100, **ALWAYS)
    @given(changed(good))
    def holds(value):
        rewrite(made[kind], lambda m: (m.clear(), m.update(value)))
        try:
            artifact = Artifact.open(made[kind])
            assert artifact.hash and artifact.load() is not None
            json.dumps(artifact.meta, allow_nan=False)
        except MarrowError as error:
            assert str(error)

    try:
        holds()
    finally:
        (made[kind] / "artifact.json").write_text(json.dumps(good))


SLICED = prune(channels=["0-3"], tensors={"net.conv1.0.weight": [0]}, attributes={"net": {"num_features": 4}})


@pytest.mark.parametrize(
    "good",
    [NET, TASK, drop(), SLICED, {"part": "backbone", "of": [TASK]}],
    ids=["net", "task", "drop", "prune", "part"],
)
def test_a_spec_with_anything_changed(good):
    @settings(max_examples=60, **ALWAYS)
    @given(changed(good))
    def holds(value):
        try:
            assert meta(value).spec
        except MarrowError as error:
            assert str(error)

    holds()


@settings(max_examples=200, **ALWAYS)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_json_with_bytes_put_in(tmp_path, data, position):
    good = b'{"kind": "data", "files": {"table.safetensors": [1, "00"]}, "seed": 1e3, "labels": ["a", "b"]}'
    (tmp_path / "artifact.json").write_bytes(good[:position] + data + good[position:])
    try:
        check(plain_json.read(tmp_path / "artifact.json", "here", 1000), "here")
    except MarrowError as error:
        assert str(error)


@settings(max_examples=300, **ALWAYS)
@given(st.data())
def test_a_file_of_tensors_with_anything_changed(made, tmp_path, data):
    good = (made["data"] / "table.safetensors").read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.dumps(data.draw(changed(json.loads(good[8 : 8 + length])))).encode()
    length = data.draw(st.sampled_from([len(header), len(header) - 1, len(header) + 1, 0, 2**63, 2**32]))
    body = data.draw(st.sampled_from([good[8 + length :], good[8 + length : -1], b""]))
    (tmp_path / "table.safetensors").write_bytes(length.to_bytes(8, "little") + header + body)
    try:
        assert isinstance(tensors_in(tmp_path / "table.safetensors"), dict)
    except MarrowError as error:
        assert str(error)
