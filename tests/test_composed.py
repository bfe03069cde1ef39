"""`recipes/composed.yaml`, in few steps: three methods in a row train, go on after two stops, and are read elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import marrow
from marrow.core.errors import Interrupted
from marrow.run import run

from .crash.pieces import meanwhile, reached, stop

RECIPE = Path(__file__).parent.parent / "recipes" / "composed.yaml"
TRAINED = ("places", "teacher", "student", "nested")
STEPS = 40  # the log has a line every ten, and a stop at the first is in the middle
READ = "import sys, marrow, torch; m = marrow.load(sys.argv[1]).eval(); x = {'image': torch.load(sys.argv[2])};" \
       "torch.save(m(x)['logits'].detach(), sys.argv[3])"  # fmt: skip


SHORT = tuple(f"stages.{i}.{change}" for i in range(len(TRAINED)) for change in (f"steps={STEPS}", "data.batch=8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("composed") / "run"
    run(RECIPE, out, overrides=SHORT, quiet=True)
    return out


def test_each_stage_goes_on_from_the_one_before(whole):
    places, student, nested = (marrow.load(whole / name) for name in ("places", "student", "nested"))
    assert type(student.backbone.root) is type(places.root)
    assert nested.sizes == (4, 8, 16, 32, 64)
    stem = [net.state_dict()["net.conv1.0.weight"] for net in (places, student.backbone, nested.backbone)]
    moved = [(later - before).norm() / before.norm() for before, later in zip(stem, stem[1:])]
    assert all(0 < m < 0.5 for m in moved)  # trained on, not begun anew: other random weights would be 1.4 away


def test_two_stops_on_the_way_change_nothing(whole, tmp_path):
    out = tmp_path / "run"
    for name in ("places", "nested"):
        with meanwhile(lambda: reached(out / "logs" / f"{name}.csv") >= 1, stop), pytest.raises(Interrupted):  # noqa: B023
            run(RECIPE, out, overrides=SHORT, resume=True, quiet=True)
        assert (out / "checkpoints" / f"{name}.pt").is_file()
    run(RECIPE, out, overrides=SHORT, resume=True, quiet=True)
    for name in (*TRAINED, "eight"):
        weights = [(folder / name / "weights.safetensors").read_bytes() for folder in (out, whole)]
        assert weights[0] == weights[1], name
    assert (out / "few" / "rows.json").read_bytes() == (whole / "few" / "rows.json").read_bytes()


def test_a_fresh_process_reads_what_was_cut(whole, tmp_path):
    cut, nested = marrow.load(whole / "eight").eval(), marrow.load(whole / "nested").eval()
    image = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.save(image, tmp_path / "image.pt")
    words = [sys.executable, "-c", READ, str(whole / "eight"), str(tmp_path / "image.pt"), str(tmp_path / "out.pt")]
    subprocess.run(words, check=True, timeout=200)
    said = torch.load(tmp_path / "out.pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(said, cut({"image": image})["logits"])
        torch.testing.assert_close(said, nested.at(nested({"image": image}), 8))
