"""Masks beside images: folder pairs and parquet, void, and what does not fit."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from marrow.core.contracts import Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.source import VOID
from marrow.data import open_source, open_sources
from marrow.data.masks import check_masks
from marrow.data.views import Augment, plain
from marrow.data.write_shards import write_shards
from marrow.survey import survey_of


def pair(root, name: str, ids: np.ndarray, size: tuple[int, int] | None = None, ending: str = "png") -> None:
    """An image whose green is 10 times the class ids, and the mask of these ids."""
    for folder in ("images", "masks"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    image = np.stack([ids * 0, ids * 10, ids * 0], -1).astype(np.uint8)
    Image.fromarray(image).resize(size or ids.shape[::-1]).save(root / "images" / f"{name}.{ending}")
    Image.fromarray(ids.astype(np.uint8)).save(root / "masks" / f"{name}.png")


def ids(seed: int, most: int = 4, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, (height, width))


@pytest.fixture
def scenes(tmp_path):
    for i in range(4):
        pair(tmp_path, f"scene{i % 2}/{i}", ids(i))
    return tmp_path


def given(root, **more) -> dict:
    return {"images": str(root / "images"), "masks": str(root / "masks"), **more}


def test_a_folder_of_images_is_paired_with_one_of_masks(scenes):
    source = open_source(given(scenes))
    assert len(source) == 4 and source.classes is None, "sub-folders beside masks are no classes"
    for i in range(4):
        example = source[i]
        assert set(example) == {"image", "mask"} and example["mask"].dtype == torch.int64
        assert torch.equal(example["image"][1].long(), 10 * example["mask"])
    assert set(open_source(given(scenes, labels=True))[0]) == {"image", "mask", "label"}


def test_pairs_lie_alike_under_their_splits(tmp_path):
    for split in ("train", "val"):
        pair(tmp_path, f"{split}/same", ids(len(split)))
    for split in ("train", "val"):
        [example] = open_source(given(tmp_path, split=split))
        assert torch.equal(example["image"][1].long(), 10 * example["mask"])
    assert len(open_source(given(tmp_path))) == 2


def test_the_endings_of_a_pair_may_differ(tmp_path):
    pair(tmp_path, "a", ids(0), ending="jpg")
    assert open_source(given(tmp_path)).undecoded(0)["mask"].tolist() == ids(0).tolist()


def test_void_ids_become_one_number(scenes):
    example = open_source(given(scenes, void=3))[0]
    assert torch.equal(example["mask"] == VOID, torch.from_numpy(ids(0) == 3))
    assert example["mask"].max() == 2


def test_names_of_the_ids_stay_with_the_source_through_cuts_and_joins(scenes):
    names = ["a", "b", "c", "d"]
    source = open_source(given(scenes, mask_classes=names, fraction=0.5))
    assert source.mask_classes == names and source.classes is None
    assert open_source(given(scenes)).mask_classes is None
    assert open_sources([given(scenes, mask_classes=names), given(scenes)]).mask_classes == names
    with pytest.raises(MarrowError, match="name the ids of their masks differently: a, b, c, d and d, c"):
        open_sources([given(scenes, mask_classes=names), given(scenes, mask_classes=["d", "c"])])
    with pytest.raises(MarrowError, match="4 classes of the masks have names, the task knows 5"):
        check_masks(source, 5, "data", Engine(device="cpu"))
    with pytest.raises(MarrowError, match="data.mask_classes: the images have no masks"):
        open_source({"images": str(scenes / "images"), "mask_classes": names})


def test_shards_keep_masks_and_are_read_without_an_index_too(scenes, tmp_path):
    facts = write_shards(str(scenes / "images"), tmp_path / "shards", masks=str(scenes / "masks"))
    assert facts["examples"] == 4 and facts["left_out"] == []
    before = open_source(given(scenes))
    wanted = {before.fraction(i): before[i] for i in range(4)}
    for index in (True, False):
        if not index:
            for file in [*(tmp_path / "shards").glob("*.index"), tmp_path / "shards" / "index.json"]:
                file.unlink()
        after = open_source({"images": str(tmp_path / "shards"), "void": 3})
        assert len(after) == 4
        for i in range(4):
            same = wanted[after.fraction(i)]
            assert torch.equal(after[i]["image"], same["image"])
            assert torch.equal(after[i]["mask"], same["mask"].masked_fill(same["mask"] == 3, VOID))


def test_shards_in_which_a_mask_is_missing_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, name in enumerate(("1.png", "1.mask.png", "2.png")):
            content = io.BytesIO()
            Image.fromarray(ids(i).astype(np.uint8)).save(content, "png")
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
    with pytest.raises(MarrowError, match="1 of 2 examples in the shards have no mask"):
        open_source({"images": str(tmp_path / "a.tar")})


def test_the_survey_counts_ids_and_names_masks_that_do_not_fit(scenes):
    pair(scenes, "scene1/3", ids(3), size=(40, 24))
    pair(scenes, "scene0/2", np.full((24, 32), 255))
    found = survey_of(str(scenes / "images"), masks=str(scenes / "masks"), void=3)
    pixels = np.stack([ids(0), ids(1)])
    about = found["masks"]["all"]
    assert about["masks"] == 3 and about["void"] == pytest.approx((pixels == 3).sum() / (3 * 24 * 32), abs=1e-4)
    known = (pixels != 3).sum() + 24 * 32
    assert about["ids"] == {str(i): pytest.approx(n / known, abs=1e-4)
                            for i, n in [(i, (pixels == i).sum()) for i in range(3)] + [(255, 24 * 32)]}  # fmt: skip
    told = {row["what"]: row for row in found["findings"]}
    assert told["masks of another size than their images"]["severity"] == "error"
    assert "give 'void: 255'" in told["a class id far from the others: 255 after 2"]["remedy"]
    found = survey_of(str(scenes / "images"), masks=str(scenes / "masks"), void=255)
    assert "masks in which every pixel is void" in {row["what"] for row in found["findings"]}
    (scenes / "masks" / "scene0" / "2.png").unlink()
    found = survey_of(str(scenes / "images"), masks=str(scenes / "masks"))
    first = found["findings"][0]["what"]
    assert found["masks"] == {} and first.startswith("1 of 4 images have no mask under their name")


def test_a_cut_keeps_image_and_mask_together(scenes):
    source = open_source(given(scenes, indices=[3, 1]))
    assert [source[i]["mask"].tolist() for i in (0, 1)] == [ids(3).tolist(), ids(2).tolist()], "sorted by path"


def test_a_changed_mask_changes_the_fingerprint(scenes):
    before = open_source(given(scenes)).fingerprint()
    assert open_source(given(scenes)).fingerprint() == before
    Image.fromarray((ids(0) * 0).astype(np.uint8)).save(scenes / "masks" / "scene0" / "0.png")
    assert open_source(given(scenes)).fingerprint() != before


def test_an_image_without_mask_is_named(scenes):
    (scenes / "masks" / "scene1" / "3.png").unlink()
    with pytest.raises(MarrowError, match="data.masks: 1 of 4 images have no mask under their name, .* scene1/3.png"):
        open_source(given(scenes))


def test_two_masks_of_one_image_are_refused(scenes):
    Image.fromarray(ids(0).astype(np.uint8)).save(scenes / "masks" / "scene0" / "0.bmp")
    with pytest.raises(MarrowError, match="two masks, .* have one name up to the ending"):
        open_source(given(scenes))


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"masks": "nowhere"}, "no folder 'nowhere'"),
        ({"images": "digits"}, "data.masks: 'masks' goes with a folder of images only"),
        ({"void": -1}, "data.void: a class id is needed, got -1"),
    ],
)
def test_wrong_keys_are_refused(scenes, more, sentence):
    with pytest.raises(MarrowError, match=sentence):
        open_source(given(scenes) | more)


def test_void_without_masks_is_refused(scenes):
    with pytest.raises(MarrowError, match="data.void: the images have no masks"):
        open_source({"images": str(scenes / "images"), "void": 0})


def test_a_mask_of_another_size_is_refused_in_a_sentence(scenes):
    pair(scenes, "scene1/3", ids(3), size=(40, 24))
    source = open_source(given(scenes))
    with pytest.raises(MarrowError, match="scene1/3.png: the mask has 32 x 24 pixels, its image 40 x 24"):
        check_masks(source, 4, "data", Engine(device="cpu"))
    with pytest.raises(MarrowError, match="the mask has 32 x 24 pixels"):
        source[3]


def test_class_ids_that_do_not_fit_are_refused_in_a_sentence(scenes):
    pair(scenes, "scene1/3", np.where(ids(3) == 0, 9, ids(3)))
    engine = Engine(device="cpu")
    with pytest.raises(
        MarrowError, match="the mask of scene1/3.png has the class id 9, the task knows 0 to 3.*void: 9"
    ):
        check_masks(open_source(given(scenes)), 4, "stages[0].data.train", engine)
    check_masks(open_source(given(scenes, void=9)), 4, "stages[0].data.train", engine)


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_the_plain_view_moves_a_mask_along(resize):
    blocks = torch.arange(12).view(3, 4).repeat_interleave(16, 0).repeat_interleave(16, 1)  # (48, 64)
    image = (10 * blocks).to(torch.uint8).expand(3, -1, -1)
    view = plain(Input(size=(24, 24), resize=resize, interpolation="nearest"))({"image": image, "mask": blocks})
    assert view["mask"].shape == (24, 24) and view["mask"].dtype == torch.int64
    same = view["image"][0].long() == 10 * view["mask"]
    assert same.float().mean() > 0.9, "the two kinds of nearest differ at edges only"


def test_what_padding_adds_is_void():
    view = Augment((8, 8), crop=None, flip=False, pad=8)
    masks = [view({"image": torch.full((3, 8, 8), 255, dtype=torch.uint8), "mask": torch.ones(8, 8).long()})
             for _ in range(10)]  # fmt: skip
    assert any((m["mask"] == VOID).any() for m in masks)
    for m in masks:
        assert torch.equal(m["mask"] == VOID, m["image"][0] == 0)


def test_camvid(data):
    source = open_source({"images": str(data / "camvid"), "split": "val", "void": 11})
    assert len(source) == 101
    masks = [source.undecoded(i)["mask"] for i in range(0, 101, 20)]
    assert all(m.shape == (360, 480) and VOID <= m.min() and m.max() <= 10 for m in masks)
    assert any((m == VOID).any() for m in masks)
