"""Every method, two steps through the real engine: gradients, teachers, seeds, resume, what it keeps."""

import os
import signal
from functools import cache

import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.catalogue import contract_class, stems
from marrow.core.contracts import Backbone, Method, Task
from marrow.core.errors import Interrupted
from marrow.core.table import Table
from marrow.core.wrappers import Frozen

from . import pieces

TRAINED = [stem for stem in stems("teach") if "trains" not in contract_class("teach", stem).exempt]
EVERY = pytest.mark.parametrize("stem", stems("teach"))
TRAINING = pytest.mark.parametrize("stem", TRAINED)


def train(method: Method, steps: int = 2, **arguments) -> Method:
    engine = pieces.engine(type(method), steps, **arguments)
    method.fit(engine, pieces.data(method.streams))
    return method


def state(method: Method) -> dict[str, torch.Tensor]:
    """Everything that a method learned or made."""
    product = method.product()
    return method.state_dict() | (product.columns if isinstance(product, Table) else {})


@cache
def trained(stem: str) -> Method:
    return train(pieces.method(stem))


def teachers(method: Method) -> dict[str, torch.Tensor]:
    """Copies of every weight and buffer behind a Frozen."""
    frozen = {name: m.module for name, m in method.named_modules() if isinstance(m, Frozen)}
    return {f"{name}.{k}": v.clone() for name, m in frozen.items() for k, v in m.state_dict().items()}


@TRAINING
def test_every_trainable_weight_gets_a_gradient_and_moves(stem):
    method = pieces.method(stem)
    reached = set()
    moving = {n: p for n, p in method.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in moving.items()}
    for name, parameter in moving.items():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
    train(method)
    assert not sorted(set(moving) - reached)
    assert any(not torch.equal(p, before[n]) for n, p in moving.items())
    assert all(torch.isfinite(p).all() for p in method.parameters())


@TRAINING
def test_players_share_out_every_trainable_weight(stem):
    method = pieces.method(stem)
    groups = method.groups()
    assert set(groups) == set(method.players)
    owned = [id(p) for group in groups.values() for p in group]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in method.parameters() if p.requires_grad}


@EVERY
def test_teachers_do_not_move(stem):
    method = pieces.method(stem)
    before = teachers(method)
    train(method)
    after = teachers(method)
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not any(k.startswith(tuple(before)) for k in method.state_dict())


@EVERY
def test_same_seed_same_numbers(stem):
    first, second = state(trained(stem)), state(train(pieces.method(stem)))
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) for k, v in first.items())


@TRAINING
def test_another_seed_other_numbers(stem):
    first, second = trained(stem).state_dict(), train(pieces.method(stem, seed=1)).state_dict()
    assert any(not torch.equal(v, second[k]) for k, v in first.items())


STORING = [stem for stem in TRAINED if contract_class("teach", stem).targets is not Method.targets]


@pytest.mark.parametrize("stem", STORING)
def test_a_stored_teacher_changes_nothing(stem, tmp_path):
    """So a row of `targets` depends on its view alone; five steps of 8 are almost two epochs of 24."""
    made = []
    for folder in (None, tmp_path, tmp_path):
        method = pieces.method(stem)
        pieces.engine(type(method), 5, cache=folder).with_(cached_views=1).train(method, pieces.data(method.streams))
        made.append(method.state_dict())
    assert list(tmp_path.glob("*/*.rows"))
    assert all(torch.equal(v, made[1][k]) and torch.equal(v, made[2][k]) for k, v in made[0].items())


class Stop:
    """A logger that sends this process SIGTERM after the second step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass


@TRAINING
def test_resume_equals_uninterrupted(stem, tmp_path):
    straight = train(pieces.method(stem), steps=4)
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train(pieces.method(stem), steps=4, checkpoint=file, logger=Stop())
    assert file.exists()
    resumed = pieces.method(stem)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.add_(1.0)  # so that only a real restore can make it right again
    train(resumed, steps=4, checkpoint=file, resume=True)
    theirs = resumed.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in straight.state_dict().items())


@EVERY
def test_product_is_something_that_can_be_kept(stem, tmp_path):
    product = trained(stem).product()
    assert isinstance(product, (Backbone, Task, Table))
    kept = Artifact.open(save(tmp_path / "product", product).path).load()
    assert type(kept) is type(product)
    if isinstance(product, Table):
        assert all(torch.equal(v, kept.columns[k]) for k, v in product.columns.items())
    else:
        theirs = pieces.outputs(kept)
        assert all(torch.equal(v, theirs[k]) for k, v in pieces.outputs(product).items())


@EVERY
def test_views_are_picklable_and_repeatable(stem):
    import pickle

    method = pieces.method(stem)
    if (view := method.views()) is None:
        return  # the model's own preprocessing, tested where it stands
    again = pickle.loads(pickle.dumps(view))
    example = next(iter(pieces.data(method.streams or ("train",)).streams.values()))[0]
    torch.manual_seed(3)
    first = view(dict(example))
    torch.manual_seed(3)
    second = again(dict(example))
    assert first.keys() == second.keys()
    assert all(torch.equal(v, second[k]) for k, v in first.items() if isinstance(v, torch.Tensor))
