import io

import numpy as np
import pytest
import torch
from PIL import Image

from marrow.core.source import Unreadable
from marrow.data.decode import MAX_PIXELS, decode, decode_ids


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_exact_pixels(form, encoded, picture):
    image = decode(encoded(3, form), "x")
    assert image.dtype == torch.uint8 and torch.equal(image, pixels(picture(3)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_pillows(mode, progressive, encoded):
    data = encoded(1, "JPEG", mode, quality=90, progressive=progressive)
    assert torch.equal(decode(data, "x"), pixels(Image.open(io.BytesIO(data))))


def test_lossy_webp_keeps_its_shape_and_colours(encoded, picture):
    image = decode(encoded(1, "WEBP", quality=95), "x")
    assert (image.float() - pixels(picture(1)).float()).abs().mean() < 8


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_the_picture(form, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    lossless = {"lossless": True} if form == "WEBP" else {}
    upright, turned = decode(encoded(2, form, **lossless), "x"), decode(encoded(2, form, exif=exif, **lossless), "x")
    assert torch.equal(turned, upright.rot90(-1, (1, 2)))


def test_alpha_is_dropped_and_palettes_are_looked_up(encoded, picture):
    with_alpha = picture(4).copy()
    with_alpha.putalpha(77)
    file = io.BytesIO()
    with_alpha.save(file, "PNG")
    assert torch.equal(decode(file.getvalue(), "x"), pixels(picture(4)))
    assert torch.equal(decode(encoded(4, "PNG", "P"), "x"), pixels(picture(4).convert("P")))


def test_grey_fills_three_channels(encoded):
    image = decode(encoded(0, "PNG", "L"), "x")
    assert image.shape == (3, 24, 32) and torch.equal(image[0], image[2])


def test_sixteen_bits_keep_the_high_byte():
    values = np.array([[0, 255, 256], [32768, 40000, 65535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    assert decode(file.getvalue(), "x")[0].tolist() == [[0, 0, 1], [128, 156, 255]]


def test_an_animation_gives_its_first_frame(picture):
    frames = [picture(i).convert("P") for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert torch.equal(decode(file.getvalue(), "x"), pixels(frames[0]))


@pytest.mark.parametrize("data, reason", [
    (b"", "the file is empty"),
    (b"this is a letter, not a picture", "not an image"),
    (b"\xff\xd8\xff\xe0", "damaged or truncated JPEG"),
])  # fmt: skip
def test_what_is_no_picture_is_unreadable(data, reason):
    with pytest.raises(Unreadable, match=reason) as caught:
        decode(data, "cat/7.jpg")
    assert caught.value.name == "cat/7.jpg" and str(caught.value).startswith("cat/7.jpg: ")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_truncated_files_are_unreadable(form, encoded):
    data = encoded(5, form)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(Unreadable):
            decode(data[: int(len(data) * share)], "x")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_bytes_never_raise_anything_else(form, encoded):
    rng = np.random.default_rng(0)
    whole, ended = np.frombuffer(encoded(6, form), np.uint8), 0
    for _ in range(150):
        data = whole.copy()
        data[rng.integers(4, len(data), 6)] = rng.integers(0, 256, 6)
        try:
            assert decode(data.tobytes(), "x").dtype == torch.uint8
            ended += 1
        except Unreadable:
            ended += 1
    assert ended == 150


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_small_file_that_claims_to_be_huge_is_refused(form, encoded):
    data = bytearray(encoded(0, form))
    if form == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = (60000).to_bytes(2) * 2
    else:
        import zlib

        data[16:24] = (60000).to_bytes(4) * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(Unreadable, match="60000|3600000000") as caught:
        decode(bytes(data), "bomb")
    assert 60000 * 60000 > MAX_PIXELS and "bomb" in str(caught.value)


def test_class_ids_are_not_touched():
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for palette in (False, True):
        image = Image.fromarray(ids)
        if palette:
            image = Image.frombytes("P", (4, 3), ids.tobytes())
            image.putpalette([255 - i // 3 % 256 for i in range(768)])
        file = io.BytesIO()
        image.save(file, "PNG")
        mask = decode_ids(file.getvalue(), "x")
        assert mask.dtype == torch.int64 and mask.tolist() == ids.tolist()


def test_a_coloured_mask_is_refused(encoded):
    with pytest.raises(Unreadable, match="one channel"):
        decode_ids(encoded(0, "PNG"), "x")


def test_a_format_that_would_start_a_program_is_not_opened():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(script)).format == "EPS"
    with pytest.raises(Unreadable, match="not an image"):
        decode(script, "a.png")
