"""Every exporter: one file that opens in its runtime, says what the model says, and becomes an artifact."""

import json

import pytest
import torch
from torch.nn import functional as F

from marrow.core.artifact import Artifact, save
from marrow.core.catalogue import contract_class, stems
from marrow.core.runtime import FILE, Runner, RuntimeMeta
from marrow.core.spec import build, load_weights, saved_weights

from . import pieces
from .test_shrinkers import shrunk

PAIRS = [(s, b) for s in stems("ship") for b in pieces.representatives()]


def sharp_models(stem: str, name: str) -> dict:
    models = pieces.planned_models(contract_class("ship", stem), on=name)
    for model in models.values():
        pieces.sharpen(model)
    return models


def exported(stem: str, models: dict, folder) -> Artifact:
    """The artifact of kind runtime that a stage would leave."""
    cls, facts = contract_class("ship", stem), {}
    exporter = cls(**pieces.plain_arguments(cls))

    def fill(place):
        facts.update(exporter.export(models, pieces.data(cls.streams), pieces.engine(), place))
        assert [f.name for f in place.iterdir()] == [FILE], "one file, no external data"

    return save(folder, facts, fill=fill)


def answers(artifact: Artifact) -> dict[str, torch.Tensor]:
    return artifact.load()({"image": pieces.images(16)})


@pytest.mark.parametrize(("stem", "name"), PAIRS)
def test_the_file_says_what_the_model_says(stem, name, tmp_path):
    models = sharp_models(stem, name)
    artifact = exported(stem, models, tmp_path / "exported")
    facts = artifact.meta["runtime"]
    assert set(RuntimeMeta.__annotations__) <= set(facts) | {"input"}
    assert json.dumps(artifact.meta)
    assert isinstance(artifact.load(), Runner)
    [task] = models.values()
    with torch.inference_mode():
        wanted = task.eval()({"image": pieces.images(16)})
    for key, value in answers(artifact).items():
        assert value.shape == wanted[key].shape and torch.isfinite(value).all()
        if facts["precision"] == "fp32":
            allowed = 1e-4 * max(1.0, float(wanted[key].abs().max()))
            assert float((value - wanted[key]).abs().max()) <= allowed
        else:
            assert float(F.cosine_similarity(value.flatten(), wanted[key].flatten(), dim=0)) > 0.95


@pytest.mark.parametrize("stem", stems("ship"))
def test_a_runtime_artifact_is_evaluated_like_its_task(stem, tmp_path):
    name = pieces.representatives()[0]
    artifact = exported(stem, sharp_models(stem, name), tmp_path / "exported")
    rows = pieces.engine().evaluate(artifact.load(), pieces.Noise(), batch=5)
    assert rows[0]["n"] == pieces.EXAMPLES


@pytest.mark.parametrize("stem", stems("shrink"))
def test_a_cut_and_what_is_rebuilt_from_it_export_to_equal_answers(stem, tmp_path):
    made = (shrunk(stem, name) for name in pieces.backbone_names())
    model = next(m for m in made if m is not None)
    again = build(json.loads(json.dumps(model.spec)))
    load_weights(again, saved_weights(model))
    first, second = (
        exported("onnx", {"model": m.eval()}, tmp_path / n) for m, n in ((model, "cut"), (again, "rebuilt"))
    )
    theirs = answers(second)
    assert all(torch.equal(v, theirs[k]) for k, v in answers(first).items())
