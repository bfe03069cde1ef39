"""A stranger's folder: everything that people have in theirs, with what is to be found in it."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SPITEFUL = "=cmd <b>\"'\n\x1b[31m"  # a formula, HTML, quotes, a new line, and what colours a terminal
CLASSES = {"cat": 21, "dog": 20, f"owl {SPITEFUL}": 20, "Dog": 20, "hen..": 20}  # training images that are in order


def picture(seed: int = 0, height: int = 24, width: int = 32) -> Image.Image:
    """Smooth colours and some noise; other seeds, other pictures."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray((rng.random((4, 4, 3)) * 255).astype(np.uint8))
    smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
    return Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def png_of(width: int, height: int) -> bytes:
    """A black 1-bit PNG of any size, without holding its pixels."""
    packed, line = zlib.compressobj(1), bytes(1 + -(-width // 8))
    pixels = b"".join([packed.compress(line) for _ in range(height)] + [packed.flush()])
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT" + pixels, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def messy(root: Path) -> dict[str, int]:
    """Writes `train` and `test` below `root`, and one file beside it; returns what `marrow data` has to count.

    Seven pictures of train cannot be read, and two folders of it cannot be entered. Nothing of it keeps a training from
    its work.
    """
    for c, (name, n) in enumerate(CLASSES.items()):
        for split, first, count in (("train", 0, n), ("test", 500, 4)):
            (root / split / name).mkdir(parents=True)
            for i in range(first, first + count):
                picture(1000 * c + i).save(root / split / name / f"{i}.png")
    cat, dog, test = root / "train" / "cat", root / "train" / "dog", root / "test"
    _odd_pictures(cat)
    _unreadable(cat)
    _no_pictures(root, cat)
    _odd_names(cat, root / "train" / "caf\udce9")
    shutil.copy(cat / "2.png", cat / "2 again.png")
    shutil.copy(cat / "3.png", dog / "not a dog.png")
    shutil.copy(cat / "4.png", test / "cat" / "seen.png")
    picture(5).save(test / "cat" / "squeezed.jpg", quality=90)
    picture(6).resize((36, 27), Image.Resampling.BICUBIC).save(test / "cat" / "larger.png")
    return {
        "empty files": 1,
        "files that are no images": 2,
        "images too large to decode": 2,
        "damaged images, or such as cannot be opened": 2,
        "folders that cannot be opened": 1 + _closed(),
        "links out of the folder": 2,
        "links that lead nowhere or in a circle": 1,
        "sub-folders without an image": 2 - _closed(),
        "classes with fewer than 20 images in train": 1,
        "classes much smaller than the largest, which has up to 7 times as many images": 1,
        "classes without an image in test": 1,
        "classes whose names differ only by case, accents' encoding or spaces": 1,
        "the same file with different labels": 1,
        "images of test that are copies of images learnt or chosen by": 1,
        "images of test that are near copies of images learnt or chosen by": 2,
        "images less than 16 pixels high or wide": 1,
        "files that are no images by their ending": 1,
        "neither files nor folders": 1,
        "copies of another image in the same split": 2,
        "near copies of another image in the same split": 1,
        "images more than 4 times as long as wide": 1,
        "files whose ending names another format": 1,
        "CMYK images": 1,
        "images with 16 bits a channel": 1,
        "images with transparency": 1,
        "palette images": 2,
        "animations or files of several pages": 1,
        "images turned by EXIF": 1,
        "grey images": 2,
        "names with characters that other programs may trip over": 20 + 4 + 7,
    }


def _odd_pictures(folder: Path) -> None:
    picture(1).convert("CMYK").save(folder / "cmyk.jpg")  # looks like 1.png
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(100).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (24, 32), np.uint16)).save(folder / "deep.png")
    with_alpha = picture(101).copy()
    with_alpha.putalpha(77)
    with_alpha.save(folder / "alpha.png")
    picture(102).convert("P").save(folder / "palette.png")
    frames = [picture(i).convert("P") for i in (103, 104)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    picture(105).convert("L").save(folder / "grey.png")
    picture(106, 1, 1).save(folder / "dot.png")
    picture(107, 20, 100).save(folder / "wide.png")
    picture(108).save(folder / "photo.jpg", "PNG")


def _unreadable(folder: Path) -> None:
    (folder / "empty.png").write_bytes(b"")
    (folder / "letter.jpg").write_text("Dear Sir")
    (folder / "page.jpg").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "cut.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:-300])
    (folder / "huge.png").write_bytes(png_of(20_000, 20_000))
    with open(folder / "long.png", "wb") as file:
        file.truncate(2**31)  # a sparse file of 2 GiB


def _no_pictures(root: Path, folder: Path) -> None:
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").write_text("not counted")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "around").symlink_to(root, target_is_directory=True)
    picture(110).save(root.parent / "secret.png")
    (folder / "out.png").symlink_to(root.parent / "secret.png")
    os.mkfifo(folder / "pipe.png")
    _too_deep(folder)
    (root / "train" / "papers").mkdir()
    (root / "train" / "closed").mkdir(mode=0)


def _odd_names(folder: Path, latin: Path) -> None:
    """A class and a file whose names are no UTF-8, and files that would like to be elsewhere."""
    picture(109).save(folder / f"{SPITEFUL}.png")
    picture(111).save(folder / "up ..png")
    latin.mkdir()
    for i in range(112, 118):
        picture(i).save(latin / f"{i} caf\udce9.png")


def _closed() -> int:
    """Root may open every folder; then it is one without an image."""
    return 0 if os.geteuid() == 0 else 1


def _too_deep(folder: Path) -> None:
    """A folder whose path is longer than the system takes: root too cannot open it by its name."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(18):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
