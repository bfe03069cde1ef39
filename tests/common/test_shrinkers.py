"""Every shrinker on every tiny backbone: its Cut rebuilds from JSON, gives the same outputs, and can be trained on."""

import json

import pytest
import torch

from marrow.core.catalogue import class_node, contract_class, stems
from marrow.core.errors import MarrowError
from marrow.core.spec import apply, build, cut, edit_class, load_weights, saved_weights, to_json

from . import pieces

PAIRS = [(s, b) for s in stems("shrink") for b in pieces.backbone_names()]


def shrunk(stem: str, name: str):
    """The edited model, or None where the shrinker says in a sentence that the backbone does not fit."""
    cls = contract_class("shrink", stem)
    models = pieces.planned_models(cls, on=name)
    try:
        planned = cls(**pieces.plain_arguments(cls)).plan(models, pieces.data(cls.streams), pieces.engine())
    except MarrowError as refusal:
        assert refusal.message
        return None
    return cut(list(models.values()), planned)


@pytest.mark.parametrize(("stem", "name"), PAIRS)
def test_a_cut_is_rebuilt_from_json(stem, name):
    model = shrunk(stem, name)
    if model is None:
        return
    again = build(json.loads(json.dumps(model.spec)))
    load_weights(again, saved_weights(model))
    theirs = pieces.outputs(again)
    for key, value in pieces.outputs(model).items():
        assert torch.equal(value, theirs[key])


@pytest.mark.parametrize(("stem", "name"), PAIRS)
def test_a_cut_model_can_be_trained_on(stem, name):
    model = shrunk(stem, name)
    if model is None:
        return
    source = pieces.Noise(pieces.BATCH)
    batch = {"image": source.images, "label": torch.tensor([source.label(i) for i in range(len(source))])}
    sum(model.train().losses(model(batch), batch).values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("stem", stems("shrink"))
def test_some_backbone_fits(stem):
    assert any(shrunk(stem, name) is not None for name in pieces.backbone_names())


@pytest.mark.parametrize("stem", [s for s in stems("shrink") if class_node("shrink", s, "Edit")])
def test_an_edit_is_json_and_works_on_the_meta_device(stem):
    cls = contract_class("shrink", stem)
    name = next(n for n in pieces.backbone_names() if shrunk(stem, n) is not None)
    models = pieces.planned_models(cls, on=name)
    planned = cls(**pieces.plain_arguments(cls)).plan(models, pieces.data(cls.streams), pieces.engine())
    values = json.loads(json.dumps(to_json(planned.edit)))
    assert to_json(edit_class(stem)(**values)) == values
    real = apply(planned.edit, list(models.values()))
    with torch.device("meta"):
        model = build(real.spec)
    wanted = {k: v.shape for k, v in saved_weights(real).items()}
    assert {k: v.shape for k, v in saved_weights(model).items()} == wanted


def test_what_goes_by_shapes_is_planned_without_weights():
    names = [stem for stem in stems("shrink") if contract_class("shrink", stem).by_shape]
    assert names and not any(contract_class("shrink", stem).streams for stem in names)
    for stem, name in ((s, b) for s, b in PAIRS if s in names):
        cls = contract_class("shrink", stem)
        shrinker, models = cls(**pieces.plain_arguments(cls)), pieces.planned_models(cls, on=name)
        if (real := shrunk(stem, name)) is not None:
            planned = shrinker.plan({role: model.to("meta") for role, model in models.items()}, None, None)
            assert planned.weights is None and to_json(planned.edit) == real.spec["values"]
