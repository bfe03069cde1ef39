"""Images that vanish or change while a run is under way or waits to be resumed."""

import shutil

import pytest
import torch
from PIL import Image

from marrow.core import checkpoint
from marrow.core.errors import Interrupted, MarrowError
from marrow.run import run

from ..make.pieces import COLOURS, photos
from .pieces import meanwhile, reached, recipe, stop


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Images, and the folder of a run over them that was stopped in its second training."""
    root = tmp_path_factory.mktemp("data")
    data = photos(root / "photos", each=12)
    out = root / "run"
    with meanwhile(lambda: reached(out / "logs" / "second.csv") >= 10, stop), pytest.raises(Interrupted):
        run(over(data), out, quiet=True)
    return data, out


def over(data):
    return recipe({"images": str(data)}, classes=len(COLOURS))


@pytest.fixture
def stopped(left, tmp_path):
    """The images, as they were again at the end, and a copy of the folder."""
    data, out = left
    kept = shutil.copytree(data, tmp_path / "kept")
    yield data, shutil.copytree(out, tmp_path / "run")
    shutil.rmtree(data)
    shutil.copytree(kept, data)


def test_images_that_vanish_in_the_middle_are_replaced_and_counted(tmp_path):
    data, out, found = photos(tmp_path / "photos", each=12), tmp_path / "run", []

    def vanish():
        for i in range(3):
            (data / "ant" / f"{i}.png").unlink()

    with meanwhile(lambda: reached(out / "logs" / "first.csv") >= 10, vanish):
        run({**over(data), "stages": over(data)["stages"][:1]}, out, quiet=True, after=lambda s, a, h: found.append(h))
    assert found[0]["steps"] == 60 and 1 <= found[0]["unreadable"] <= 3


def test_a_folder_that_vanishes_in_the_middle_ends_the_run_with_its_reason(tmp_path):
    data, out = photos(tmp_path / "photos", each=12), tmp_path / "run"
    gone = meanwhile(lambda: reached(out / "logs" / "first.csv") >= 10, lambda: data.rename(tmp_path / "elsewhere"))
    with (
        gone,
        pytest.raises(MarrowError, match=r"examples of a batch cannot be read \(.*png: No such file or directory"),
    ):
        run(over(data), out, quiet=True)


def test_what_is_unreadable_is_remembered_by_the_checkpoint(stopped):
    data, out = stopped
    kept = checkpoint.read(out / "checkpoints" / "second.pt")
    kept["unreadable"] = {"ant/x.png": "truncated"}
    checkpoint.write(out / "checkpoints" / "second.pt", kept)
    found = []
    run(over(data), out, resume=True, quiet=True, after=lambda s, a, h: found.append(h))
    assert found[0] is None and found[1]["unreadable"] == 1


@pytest.mark.parametrize("change", ["altered", "removed", "added"])
def test_images_that_changed_before_the_resume_are_refused_or_everything_is_made_again(change, stopped):
    data, out = stopped
    file = data / "bee" / ("new.png" if change == "added" else "3.png")
    if change == "removed":
        file.unlink()
    else:
        Image.new("RGB", (40, 40), (1, 2, 3)).save(file)
    with pytest.raises(MarrowError, match=r"run/first: since it was made, data\.train changed\. Give --allow-changed"):
        run(over(data), out, resume=True, quiet=True)
    histories = []
    run(
        over(data), out, resume=True, allow_changed=True, quiet=True, after=lambda s, a, h: histories.append(h["steps"])
    )
    assert histories == [60, 60]


def test_a_training_whose_images_changed_says_which_stream(tmp_path):
    data, out = photos(tmp_path / "photos", each=12), tmp_path / "run"
    only = {**over(data), "stages": over(data)["stages"][:1]}
    with meanwhile(lambda: reached(out / "logs" / "first.csv") >= 10, stop), pytest.raises(Interrupted):
        run(only, out, quiet=True)
    step = checkpoint.read(out / "checkpoints" / "first.pt")["step"]
    (data / "bee" / "3.png").unlink()
    with pytest.raises(
        MarrowError, match=r"the run that is to be resumed was another: data\.train was .*--allow-changed"
    ):
        run(only, out, resume=True, quiet=True)
    run(only, out, resume=True, allow_changed=True, quiet=True)
    assert 10 <= step < 60 and reached(out / "logs" / "first.csv") == 60
    assert torch.isfinite(torch.tensor(float((out / "logs" / "first.csv").read_text().split(",")[-1])))
