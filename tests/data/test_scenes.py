"""Scenes of digits: what is said about them is true of their pixels, and they are the same wherever they are made."""

import pickle
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

import marrow
from marrow.cli import main
from marrow.core.collate import collate
from marrow.core.errors import MarrowError
from marrow.core.loader import batches
from marrow.core.recipe import load
from marrow.data import open_source
from marrow.data.digits import digits
from marrow.data.scene_layout import draw_layout
from marrow.data.scene_objects import INK, Rules, stamps
from marrow.data.scene_text import WORDS
from marrow.data.scenes import STILL_FIELDS, DigitScenes, real_digits, tight_boxes
from marrow.survey import survey

RECIPE = Path(__file__).parents[2] / "recipes" / "scenes.yaml"


@pytest.fixture(scope="module")
def still() -> DigitScenes:
    return DigitScenes("train", count=40)


def fitted(mask: torch.Tensor) -> list[float]:
    """The smallest box around a mask, found from its pixels one by one."""
    rows, columns = mask.nonzero(as_tuple=True)
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


def test_fields_of_a_picture(still):
    for i in range(len(still)):
        scene = still[i]
        count = len(scene["labels"])
        assert set(scene) == {"image", *STILL_FIELDS} and 1 <= count <= 6
        assert scene["image"].shape == (3, 64, 64) and scene["image"].dtype == torch.uint8
        assert scene["boxes"].shape == (count, 4) and scene["boxes"].dtype == torch.float32
        assert scene["masks"].shape == (count, 64, 64) and scene["masks"].dtype == torch.bool
        assert scene["targets"].shape == (len(scene["texts"]), count) and len(scene["names"]) == count
        assert scene["mask"].dtype == torch.int64 and ((12 <= scene["sides"]) & (scene["sides"] <= 28)).all()


def test_boxes_are_tight_and_masks_share_no_pixel(still):
    for i in range(len(still)):
        scene = still[i]
        assert scene["boxes"].tolist() == [fitted(mask) for mask in scene["masks"]]
        assert scene["masks"].sum(0).max() == 1
        classes = (scene["masks"] * (1 + scene["labels"])[:, None, None]).sum(0)
        assert torch.equal(scene["mask"], classes)


@pytest.mark.parametrize("args", [{"objects": (5, 6)}, {"objects": (3, 4), "frames": 4, "leave": True}])
def test_a_digit_is_seen_where_none_of_those_after_it_is(args):
    given = {"size": (48, 64), "side": (12, 24), "hidden": 0.9, "frames": 1, "speed": (3, 5), "leave": False, **args}
    real, pool = real_digits("train", tuple(range(10)))
    layout = draw_layout(Random(1), Rules(whole_pixels=True, **given), real, pool, 0.0)
    whole = np.zeros((len(layout.things), given["frames"], 48 + 80, 64 + 80), bool)  # with 40 pixels on each side
    for number, thing in enumerate(layout.things):
        for t, (top, left, strokes) in enumerate(stamps(thing, real)):
            rows, columns = 40 + top, 40 + left
            whole[number, t, rows : rows + len(strokes), columns : columns + len(strokes)] = strokes > INK
    whole = whole[..., 40:-40, 40:-40]
    for number in range(len(whole)):
        seen = layout.owner == number
        assert np.array_equal(seen, whole[number] & ~whole[number + 1 :].any(0))
        assert (seen.sum((1, 2)) >= 0.1 * whole[number].sum((1, 2))).all()
    assert (whole.sum(0) > 1).any(), "nothing overlaps"


def test_splits_are_made_of_different_real_digits():
    """The same cut as that of the source `digits`."""
    pools = {
        split: {which for which, _ in real_digits(split, tuple(range(10)))[1]} for split in ("train", "val", "test")
    }
    assert sum(map(len, pools.values())) == 1797 == len(set.union(*pools.values()))
    source = digits()
    assert pools["test"] == {i for i in range(1797) if source.fraction(i) < 0.15}
    assert {digit for _, digit in real_digits("val", (3, 5))[1]} == {3, 5}


SAME = """
import hashlib
from marrow.data.scene_text import WORDS
from marrow.data.scenes import DigitScenes

def digest(source):
    said = hashlib.sha256()
    for i in range(len(source)):
        for name, value in source[i].items():
            said.update(repr((name, value.tolist() if hasattr(value, "tolist") else value)).encode())
    return said.hexdigest()

print(digest(DigitScenes("val", count=4, seed=3)))
print(digest(DigitScenes("val", count=4, seed=3, frames=4, hidden=0.9, unique=True, whole_pixels=False)))
"""


def test_a_scene_is_the_same_again_and_in_another_process(capsys):
    for _ in range(2):
        exec(SAME, {})
    done = subprocess.run([sys.executable, "-c", SAME], capture_output=True, text=True, check=True)
    here = capsys.readouterr().out
    assert here == 2 * done.stdout and len(set(here.split())) == 2


def test_a_scene_is_the_same_over_workers_and_changes_with_the_seed():
    source = DigitScenes("val", count=6, frames=3, unique=True)
    one, two = (next(iter(batches(pickle.loads(pickle.dumps(source)), None, 6, workers))) for workers in (0, 2))
    for name in one:
        assert all(a == b if isinstance(a, (str, list)) else torch.equal(a, b) for a, b in zip(one[name], two[name])), (
            name
        )
    other = DigitScenes("val", count=6, frames=3, unique=True, seed=1)
    assert other[0]["texts"] != source[0]["texts"] and other.fraction(0) != source.fraction(0)


def test_a_scene_depends_neither_on_the_count_nor_on_the_order(still):
    few = DigitScenes("train", count=3)
    assert torch.equal(few[2]["image"], still[2]["image"]) and few.fraction(2) == still.fraction(2)
    assert len({still.fraction(i) for i in range(40)} | {DigitScenes("val").fraction(0)}) == 41
    with pytest.raises(IndexError):
        few[3]


def test_scenes_of_unequal_numbers_of_digits_are_collated_as_lists(still):
    batch = collate([still[i] for i in range(8)])
    assert batch["image"].shape == (8, 3, 64, 64) and batch["mask"].shape == (8, 64, 64)
    assert [len(boxes) for boxes in batch["boxes"]] == [len(labels) for labels in batch["labels"]]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"split": "dev"}, "digit_scenes.split: unknown split 'dev'; known: train, val, test"),
        ({"count": 0}, "digit_scenes.count: at least 1 scene is needed, got 0"),
        ({"frames": 0}, "digit_scenes.frames: a clip has 1 to 1000 frames, got 0"),
        ({"side": (12, 80)}, "digit_scenes.side: digits of 80 pixels are larger than the canvas, 64 x 64"),
        ({"side": (20, 12)}, r"digit_scenes.side: \[20, 12\] are not a smallest of at least 8 pixels and a largest"),
        ({"objects": (0, 3)}, r"digit_scenes.objects: \[0, 3\] are not a fewest of at least 1"),
        (
            {"objects": (9, 90)},
            "digit_scenes.objects: 90 digits of 12 pixels find no place on 64 x 64 with at most 0.25 of",
        ),
        ({"digits": (3, 12)}, r"digit_scenes.digits: \[3, 12\] are not digits from 0 to 9"),
        ({"hidden": 1.5}, "digit_scenes.hidden: 1.5 is outside 0..1"),
        ({"leave": True}, "digit_scenes.leave: a still scene has no digits that leave; give frames of 2 or more"),
        ({"whole_pixels": False}, "digit_scenes.whole_pixels: nothing moves in a still scene"),
        ({"frames": 4, "speed": (0, 2)}, r"digit_scenes.speed: \[0, 2\] are not a slowest of at least 1 pixel"),
        ({"size": (9000, 64)}, "digit_scenes.size: a canvas has at most 2048 pixels a side"),
        (
            {"unique": True, "digits": (1,), "objects": (60, 60), "side": (8, 8), "size": (96, 96), "hidden": 0.9},
            "digit_scenes.unique: in scenes of so many digits no text names exactly one",
        ),
        ({"fields": ("boxs",)}, "digit_scenes.fields: there is no field 'boxs' of pictures; did you mean 'boxes'"),
        ({"fields": ("flow",)}, "digit_scenes.fields: there is no field 'flow' of pictures"),
    ],
)
def test_arguments_that_do_not_fit(args, sentence):
    with pytest.raises(MarrowError, match=sentence):
        DigitScenes(**args)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"images": "digit_scenes", "scenes": {"frame": 4}}, "data.scenes.frame: digit_scenes has no argument 'frame'"),
        (
            {"images": "digit_scenes", "scenes": {"size": 64}},
            r"digit_scenes takes tuple\[int, int\] for 'size', got 64",
        ),
        ({"images": "digits", "scenes": {"frames": 4}}, "data.scenes: 'scenes' goes with digit_scenes only"),
        ({"images": "digit_scenes", "backgrounds": {"image": "digits"}}, "data.backgrounds.image: unknown key 'image'"),
        ({"images": "digit_scenes", "scenes": {"frames": 4}, "void": 3}, "data.void: the images have no masks"),
    ],
)
def test_a_recipe_that_does_not_fit(given, sentence):
    with pytest.raises(MarrowError, match=sentence):
        open_source(given)


def test_backgrounds_are_cut_from_pictures_of_the_same_split():
    train, val = (open_source({"images": "digit_scenes", "split": split, "backgrounds": {"images": "digits"}})
                  for split in ("train", "val"))  # fmt: skip
    assert [len(s.base.backgrounds) for s in (train, val)] == [
        len(open_source({"images": "digits", "split": split})) for split in ("train", "val")
    ]
    scene, plain = train[0], open_source({"images": "digit_scenes", "split": "train"})
    behind = scene["mask"] == 0
    assert (scene["image"][0] == scene["image"][1])[behind].all(), "real digits are grey"
    assert torch.equal(scene["masks"], plain[0]["masks"])
    assert train.fraction(0) != plain.fraction(0)


def test_only_the_fields_asked_for():
    source = DigitScenes(fields=("boxes",))
    assert set(source[0]) == {"image", "boxes"} and source.mask_classes is None and source.stored_mask(0) is None
    assert torch.equal(source[0]["boxes"], DigitScenes()[0]["boxes"])


def test_tight_boxes_of_nothing():
    assert tight_boxes(torch.zeros(2, 5, 5, dtype=torch.bool)).tolist() == [[0.0] * 4] * 2


def test_the_command_looks_at_it(capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "digit_scenes"])
    printed = capsys.readouterr().out
    assert end.value.code == 0 and "median 64 x 64" in printed and "id 10" in printed
    assert printed.rstrip().endswith("Nothing was found to be wrong.")


def test_of_clips_the_survey_looks_at_the_frame_in_the_middle():
    found = survey({"all": DigitScenes(frames=3, count=5, size=(32, 48), side=(12, 16), objects=(1, 2))})
    assert found["images"] == found["decoded"] == 5 and found["sizes"]["max"] == [48, 32]


def test_the_recipe_trains_a_segmenter_on_them(tmp_path):
    [stage] = load(RECIPE)["stages"]
    stage |= {"steps": 40, "task": {**stage["task"], "width": 8}}
    stage["task"]["backbone"] |= {"img_size": [32, 32], "channels": [8, 16, 24, 32], "stem_width": 8}
    for stream in ("train", "val"):
        stage["data"][stream][0]["scenes"] |= {"count": 24, "size": [32, 32], "objects": [1, 2], "side": [12, 16]}
    [net] = marrow.run({"seed": 0, "stages": [stage]}, tmp_path / "run", device="cpu", quiet=True)
    assert net.meta["labels"] == ["background", *WORDS]
    rows = {row["metric"]: row["value"] for row in net.meta["metrics"]}
    assert rows["iou_background"] > 0.5 and "iou_seven" in rows
    [log] = (tmp_path / "run" / "logs").glob("*.csv")
    losses = [float(line.split(",")[2]) for line in log.read_text().splitlines() if ",cross_entropy," in line]
    assert losses[-1] < 0.8 * losses[0]
    stage["data"]["train"][0]["scenes"] |= {"fields": ["boxes"]}
    with pytest.raises(MarrowError, match="the batch has no 'mask'"):
        marrow.run({"seed": 0, "stages": [stage]}, tmp_path / "boxes", device="cpu", quiet=True)
