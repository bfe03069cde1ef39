"""Each of our architectures as student and as teacher of `ssld`: it learns, is resumed to the bit, and is reopened."""

import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.errors import Interrupted
from marrow.teach.ssld import SSLD

from . import pieces
from .test_methods import Stop

OTHER = "resnet10t"


def method(student: str, teacher: str) -> SSLD:
    torch.manual_seed(0)
    tasks = [pieces.task(on=name) for name in (student, teacher)]
    pieces.sharpen(tasks[1])
    return SSLD(*tasks)


def train(method: SSLD, **arguments) -> SSLD:
    method.fit(pieces.engine(SSLD, 3, **arguments), pieces.data(SSLD.streams))
    return method


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("name", pieces.our_classes().values())
def test_it_learns_resumes_and_reopens(name, role, tmp_path):
    pair = (name, OTHER) if role == "student" else (OTHER, name)
    fresh = method(*pair)
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    straight = train(fresh).state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in straight.items())
    assert all(v.isfinite().all() for v in straight.values())
    file = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train(method(*pair), checkpoint=file, logger=Stop())
    resumed = train(method(*pair), checkpoint=file, resume=True)
    assert all(torch.equal(v, straight[k]) for k, v in resumed.state_dict().items())
    again = Artifact.open(save(tmp_path / "made", resumed.product()).path).load()
    given = pieces.given(again)
    with torch.inference_mode():
        wanted, got = resumed.product().eval()(given)["logits"], again.eval()(given)["logits"]
    assert torch.equal(got, wanted)
