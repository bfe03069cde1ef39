"""Every task: its arguments are attributes, its spec builds it again, it trains, decodes, measures and exports."""

import pytest
import torch

from marrow.core.catalogue import contract_class, stems
from marrow.core.contracts import signature_of
from marrow.core.errors import MarrowError
from marrow.core.loader import collate
from marrow.core.spec import build, load_weights, saved_weights

from . import pieces


@pytest.fixture(params=stems("tasks"))
def task(request):
    torch.manual_seed(0)
    return pieces.task(request.param)


def batch(task, count: int = 6) -> dict:
    """Only the fields that it names, so that it has to name all that it reads."""
    source = pieces.Noise(count)
    return {k: v for k, v in collate([source[i] for i in range(count)]).items() if k in task.fields}


def test_constructor_arguments_are_attributes(task):
    assert not [name for name in signature_of(type(task)) if not hasattr(task, name)]
    for name, value in pieces.plain_arguments(type(task)).items():
        assert getattr(task, name) == value


def test_its_spec_builds_it_again(task):
    again = build(task.spec)
    load_weights(again, saved_weights(task))
    assert again.spec == task.spec
    theirs = pieces.outputs(again)
    for name, value in pieces.outputs(task).items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=0)


def test_every_weight_gets_a_gradient_from_its_losses(task):
    task.train()
    if "losses" in task.exempt:
        with pytest.raises(MarrowError):
            task.losses(task(batch(task)), batch(task))
        return
    losses = task.losses(task(batch(task)), batch(task))
    assert losses and all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert not [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]


def test_the_fields_that_it_names_are_those_of_examples(task):
    assert set(batch(task)) == set(task.fields)


def test_evaluate_gives_rows_and_leaves_the_mode_alone(task):
    task.train()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    rows = pieces.engine().evaluate(task, pieces.Noise(), batch=7)
    assert rows and {"metric", "value", "n"} <= set(rows[0])
    assert rows[0]["n"] == pieces.EXAMPLES
    assert task.training
    assert all(torch.equal(v, before[k]) for k, v in task.state_dict().items())


def test_metric_does_not_depend_on_the_batches(task):
    engine = pieces.engine()
    a, b = (engine.evaluate(task, pieces.Noise(), batch=n) for n in (5, pieces.EXAMPLES))
    assert [r["metric"] for r in a] == [r["metric"] for r in b]
    assert [r["value"] for r in a] == pytest.approx([r["value"] for r in b])


def test_what_is_exported_says_what_forward_says(task):
    task.eval()
    graphs = task.exported()
    assert not isinstance(graphs, dict), "extend this test for tasks that export several graphs"
    with torch.inference_mode():
        given = graphs(**{**pieces.given(task), "image": pieces.images().float() / 255})
    given = given if isinstance(given, tuple) else (given,)
    wanted = list(pieces.outputs(task).values())
    assert len(given) <= len(wanted)
    for a in given:
        assert any(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for b in wanted)


def test_exported_graph_is_new_code_not_a_new_task(task):
    assert type(task) is contract_class("tasks", type(task).__module__.rsplit(".", 1)[-1])
