"""Every pair of method and backbone either trains or is refused by the one fit error, before any data is read."""

import pytest
import torch

from marrow.core.catalogue import contract_class, stems
from marrow.core.contracts import Method, Task
from marrow.core.fit_check import check_fit
from marrow.core.recipe import Recipe

from . import pieces

FULL = [(m, b) for m in stems("teach") for b in pieces.backbone_names()]
QUICK = [(m, b) for m in stems("teach") for b in pieces.representatives()]


def recipe(stem: str, name: str) -> Recipe:
    """One stage that trains a method on this backbone in all roles."""
    cls = contract_class("teach", stem)
    net = {"backbone": name, "img_size": pieces.SIZE, **pieces.tiny(name)}
    head = {"task": "classify", "backbone": net, "classes": pieces.CLASSES}
    both = {"edit": "cat", "of": [head, head]}
    wrapped = {"teach": pieces.WRAPPED, "student": head, "teacher": head}

    def spec(role: str, kind: type) -> dict:
        if kind is Task:
            return both if "members" in cls.needs.get(role, ()) else head
        return wrapped if kind is Method else net

    models = {role: spec(role, kind) for role, kind in pieces.roles(cls).items()}
    data = {stream: [{"images": "digits"}] for stream in cls.streams} | {"batch": pieces.BATCH}
    return Recipe.from_dict({"seed": 0, "stages": [{"teach": stem, **models, "data": data, "steps": 2}]})


def train_or_refuse(stem: str, name: str, where) -> None:
    problems, *_ = check_fit(recipe(stem, name), where)
    if problems:
        assert any(" needs " in p and name in p for p in problems), problems
        return
    method = pieces.method(stem, on=name)
    if "trains" in method.exempt:
        method.fit(pieces.engine(type(method)), pieces.data(method.streams))
        assert len(method.product()) > 0
        return
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.fit(pieces.engine(type(method)), pieces.data(method.streams))
    after = method.state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in after.items())
    assert all(torch.isfinite(v).all() for v in after.values() if v.is_floating_point())


@pytest.mark.parametrize(("stem", "name"), QUICK)
def test_one_backbone_of_each_kind(stem, name, tmp_path):
    train_or_refuse(stem, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "name"), [p for p in FULL if p not in QUICK])
def test_the_full_matrix(stem, name, tmp_path):
    train_or_refuse(stem, name, tmp_path)
