"""Large photos, decoded no larger than a view needs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from marrow.core.contracts import Input
from marrow.core.photo import Photo, divided, scale_for
from marrow.core.preprocess import plain
from marrow.core.source import Unreadable
from marrow.data import open_source, open_sources
from marrow.data.decode import decode, undecoded
from marrow.data.jpeg import frame, pixels
from marrow.data.views import Augment

ASLANT = 6  # EXIF: the camera lay on its side


def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours, edges and a little noise, as in a photo."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    values = np.asarray(coarse).astype(np.float32) + rng.normal(0, 4, (height, width, 3))
    values[height // 3 : height // 2, width // 4 : width // 2] = 240
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 92, **options})
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture(scope="module")
def photo() -> bytes:
    return jpeg(scene(601, 803))


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_reduced_photo_shows_the_same(scale, photo):
    whole, small = decode(photo, "x"), pixels(photo, frame(photo, "x"), scale, "x")
    assert small.shape == (3, -(-601 // scale), -(-803 // scale)) and small.dtype == torch.uint8
    average = torch.nn.functional.avg_pool2d(whole[:, : 600 // scale * scale, : 800 // scale * scale].float(), scale)
    assert apart(small[:, : 600 // scale, : 800 // scale], average) < 2
    assert torch.equal(small, pixels(photo, frame(photo, "x"), scale, "x"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_of_exif_is_pillows(orientation):
    data = jpeg(scene(40, 56), exif=turned(orientation))
    from PIL import ImageOps

    upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert torch.equal(decode(data, "x"), torch.from_numpy(upright).permute(2, 0, 1))
    assert undecoded(data, "x").shape == tuple(decode(data, "x").shape)
    reduced = undecoded(data, "x").reduced(2)
    assert apart(reduced, torch.nn.functional.avg_pool2d(decode(data, "x").float(), 2)) < 6


def test_the_header_tells_size_and_turn():
    exif = turned(ASLANT)
    exif[0x010E] = "a long description " * 50
    assert frame(jpeg(scene(24, 32), exif=exif), "x") == (24, 32, ASLANT)
    assert frame(jpeg(scene(24, 32), progressive=True), "x").upright == (24, 32)
    with pytest.raises(Unreadable, match="no frame header"):
        frame(b"\xff\xd8\xff\xe0\x00\x10JFIF", "x")
    broken = bytearray(jpeg(scene(24, 32), exif=turned(ASLANT)))
    at = broken.index(b"Exif\0\0") + 6
    broken[at : at + 8] = b"\xff" * 8
    assert frame(bytes(broken), "x") == (24, 32, 1)


def test_a_box_is_never_left_smaller_than_what_it_becomes():
    rng = np.random.default_rng(0)
    for _ in range(300):
        h, w = rng.integers(8, 3000, 2).tolist()
        box = (*rng.integers(0, 900, 2).tolist(), h, w)
        scale = scale_for(box, (224, 160))
        top, left, height, width = divided(box, scale)
        assert scale == 1 or (height >= 224 and width >= 160)
        assert max(abs(scale * have - want) for have, want in zip((top, left), box)) <= scale / 2
        assert scale == 8 or min(divided(box, 2 * scale)[2] - 224, divided(box, 2 * scale)[3] - 160) < 0


@pytest.mark.parametrize("view", [Augment((64, 64)), Augment((64, 48), crop=None, pad=2), plain(Input(size=(64, 64))),
                                  plain(Input(size=(64, 48), resize="squash"))])  # fmt: skip
def test_a_view_of_a_photo_is_nearly_that_of_all_its_pixels(view, photo):
    example, decoded, least = {"image": undecoded(photo, "x"), "label": 3}, [], []
    example["image"] = Photo(601, 803, lambda scale: decoded.append(scale) or undecoded(photo, "x").reduced(scale))
    for seed in range(8):
        torch.manual_seed(seed)
        one = view(example)
        torch.manual_seed(seed)
        whole = view({"image": decode(photo, "x"), "label": 3})
        assert one["image"].shape == whole["image"].shape and one["image"].dtype == torch.uint8 and one["label"] == 3
        least.append(apart(one["image"], whole["image"]))
    assert max(decoded) > 1 and len(set(decoded)) == len(decoded) and max(least) < 7 and np.mean(least) < 4


def test_a_small_photo_gives_what_it_gave():
    data = jpeg(scene(256, 320))
    for view in (Augment((224, 224)), plain(Input(size=(224, 224)))):
        torch.manual_seed(1)
        one = view({"image": undecoded(data, "x")})["image"]
        torch.manual_seed(1)
        assert torch.equal(one, view({"image": decode(data, "x")})["image"])


def test_a_mask_moves_along_with_a_reduced_photo():
    left = np.zeros((640, 640, 3), np.uint8)
    left[:, 320:] = 255
    mask = torch.from_numpy((left[:, :, 0] > 0).astype(np.int64))
    for seed in range(10):
        torch.manual_seed(seed)
        out = Augment((48, 48))({"image": undecoded(jpeg(Image.fromarray(left)), "x"), "mask": mask})
        assert (out["mask"] - (out["image"][0] > 127).long()).abs().float().mean() < 0.02


def test_every_source_hands_over_photos_and_decodes_them_by_itself(tmp_path, photo, shard):
    from pyarrow import parquet, table

    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "folder" / "a" / "1.jpg").write_bytes(photo)
    parquet.write_table(table({"image": [photo], "label": [0]}), tmp_path / "p.parquet")
    shard(tmp_path / "s.tar", [("1.jpg", photo), ("1.cls", b"0")])
    whole = decode(photo, "x")
    for place in ("folder", "p.parquet", "s.tar"):
        source = open_source({"images": str(tmp_path / place), "indices": [0], "group": "."})
        lazy = source.undecoded(0)
        assert isinstance(lazy["image"], Photo) and lazy["image"].shape == (3, 601, 803) and lazy["label"] == 0
        assert torch.equal(source[0]["image"], whole) and torch.equal(lazy["image"].reduced(1), whole)
    joined = open_sources([{"images": str(tmp_path / "folder"), "labels": False}] * 2)
    assert isinstance(joined.undecoded(1)["image"], Photo) and "label" not in joined.undecoded(1)


@pytest.mark.parametrize("progressive", [False, True])
def test_damage_is_seen_at_every_scale(progressive):
    data = jpeg(scene(300, 400), progressive=progressive)
    for cut in (0.3, 0.9):
        for scale in (1, 2, 8):
            with pytest.raises(Unreadable, match="^x: damaged or truncated JPEG"):
                undecoded(data[: int(len(data) * cut)], "x").reduced(scale)


@pytest.mark.parametrize("mode", ["L", "CMYK", "MPO"])
def test_other_kinds_of_jpeg(mode):
    file, image = io.BytesIO(), scene(120, 160)
    if mode == "MPO":
        image.save(file, "MPO", save_all=True, append_images=[image.resize((80, 60))])
    else:
        image.convert(mode).save(file, "JPEG")
    whole, half = decode(file.getvalue(), "x"), undecoded(file.getvalue(), "x").reduced(2)
    assert half.shape == (3, 60, 80) and apart(half, torch.nn.functional.avg_pool2d(whole.float(), 2)) < 3


def test_evaluation_and_prediction_ask_for_no_more_than_they_need(tmp_path, photo):
    from marrow.core.loader import batches
    from marrow.ship.predict import _pictures, _read

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(photo)
    view = plain(Input(size=(64, 64)))
    (batch,) = batches(open_source({"images": str(tmp_path)}), view, 4)
    reduced = view({"image": undecoded(photo, "x")})["image"]
    assert torch.equal(batch["image"][0], reduced) and not torch.equal(
        reduced, view({"image": decode(photo, "x")})["image"]
    )
    for files in ([tmp_path / "a" / "1.jpg"], [tmp_path / "a"]):
        (picture,) = _pictures(files)
        assert torch.equal(_read(picture, None, None, view).example["image"], reduced)
