"""Results of claims that lie in files: taken as they were written, measured again, or refused by name."""

import json

import pytest
import yaml

from marrow import claims
from marrow.core.claim import drawn
from marrow.core.errors import MarrowError
from marrow.core.recipe import Recipe
from marrow.core.static_check import check_static
from marrow.run import run

MEASURED = {"arm": "method", "seed": 1, "value": 0.5, "n": 100, "minutes": 0.1, "device": "cpu"}


def noted(tmp_path, text):
    file = tmp_path / "measured.json"
    file.write_text(text)
    return claims._noted(file, "method", 1)


def test_what_was_measured_is_not_measured_again(tmp_path):
    assert noted(tmp_path, json.dumps(MEASURED)) == MEASURED


@pytest.mark.parametrize("text", ["", "[]", "3", "{", json.dumps(MEASURED | {"value": "0.5"}), json.dumps(MEASURED | {"seed": 2}),
                                  json.dumps(MEASURED | {"arm": "other"}), json.dumps(MEASURED | {"value": float("nan")}),
                                  json.dumps({k: v for k, v in MEASURED.items() if k != "n"})])  # fmt: skip
def test_another_form_is_measured_again(tmp_path, text):
    assert noted(tmp_path, text) is None


@pytest.mark.parametrize("text", ["", "[]", '{"system": 3}', "{"])
def test_a_damaged_result_is_named(tmp_path, text):
    (tmp_path / "ssld.json").write_text(text)
    with pytest.raises(MarrowError, match=r"claims/results: ssld\.json "):
        claims._result(tmp_path / "ssld.json")


def test_the_committed_results_are_read():
    rows = claims.ledger()
    assert rows and all(isinstance(row["system"], str) and row["verdict"] for row in rows)


@pytest.mark.parametrize("name", claims.known())
def test_every_arm_is_a_recipe_that_the_house_accepts(name):
    """But for data that is not here."""
    claim = claims.statement(name)
    for arm, stages in claim.arms.items():
        recipe = Recipe.from_dict({**drawn(stages, 0), "seed": 0})
        problems = [p for p in check_static(recipe) if "no file" not in p]
        assert not problems, f"{arm}: {problems}"
        assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


def test_stages_with_which_two_arms_begin_alike_are_run_once(tmp_path):
    digits = {"images": "digits", "split": "test", "fraction": 0.1}
    net = {"backbone": "cifar_resnet20", "img_size": 8}
    task = {"task": "classify", "backbone": net, "classes": 10}
    first = {"teach": "supervised", "name": "first", "task": task, "data": {"train": [digits], "batch": 8}, "steps": 1}
    again = {**first, "name": "again", "task": {"stage": "first"}}
    short, long, other = (
        {"seed": 3, "stages": stages} for stages in ([first], [first, again], [{**first, "steps": 2}, again])
    )
    run(short, tmp_path / "short", quiet=True)
    run({**short, "seed": 4}, tmp_path / "another_seed", quiet=True)
    claims._share(Recipe.from_dict(other), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    claims._share(Recipe.from_dict(long), tmp_path / "long")
    made = [path.stat().st_mtime_ns for path in sorted((tmp_path / "long" / "first").iterdir())]
    artifacts = run(long, tmp_path / "long", quiet=True)
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "long" / "first").iterdir())] == made
    apart = run(long, tmp_path / "apart", quiet=True)
    assert [a.hash for a in artifacts] == [a.hash for a in apart]
