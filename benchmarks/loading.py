"""Images a second of the loader: `python benchmarks/loading.py [--out FILE]`.

First the usual training crop of 224 px (8 to 100 % of the area, mirrored) of 320 x 256 JPEGs, on one thread and with two
workers: marrow, timm's loader as it is created by default and without colour jitter, torchvision's ImageFolder with v2
transforms on tensors. All arms end with a uint8 batch on the host; what normalises is left out of all. Then large photos
on one thread: marrow, marrow with a view that asks for all pixels, torchvision. The JPEGs are made anew from real photos.
Arms are interleaved; figures are medians over the rounds, ratios the median of those within a round.

LightlyTrain has no loader to call, only trainings that read through one. On one thread without workers the time that such
a training waits for its batches, by Lightning's profiler, is its loading; that is its arm, with small nets, in batches of
16 (the nets' time would be long with 64), and with crop and flip alone. Its batches end normalised in float, which it
does not let off. With workers batches are ready while the nets compute, and the waiting says nothing; so it has no arm
there, and the images a second of its whole pipeline are in `distill.py`.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch
import torchvision
from peers import ask, environment, same_torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from marrow.core.errors import MarrowError
from marrow.core.loader import Data, train_batches
from marrow.core.settings import Settings
from marrow.core.source import Source
from marrow.core.versions import versions
from marrow.data import open_source
from marrow.data.views import Augment

SIZE, BATCH, QUALITY, TARGET = 224, 64, 90, 1.8
SMALL, LARGE = (320, 256), ((1024, 768), (4000, 3000))
IMAGES, PHOTOS = 1280, 24
PEER = Path(__file__).parent / "peer" / "distill_lightly.py"
LIGHTLY = ("lightly-train==0.18.0", same_torch())
SMALL_NETS = (
    "dinov3/vitt16-notpretrained",
    "torchvision/shufflenet_v2_x0_5",
)  # LightlyTrain's names of teacher, student
FEW, MANY, TOGETHER = 2, 10, 16  # steps of its runs, and images a step


def pictures(source: Source, size: tuple[int, int], count: int, folder: Path) -> Path:
    """`count` JPEGs in two classes: other parts of the photos each time, a mosaic of them where one has too few pixels."""
    width, height = size
    draw = torch.Generator().manual_seed(0)
    for i in range(count):
        first = Image.open(io.BytesIO(source.stored(i % len(source))))
        across, down = (max(1, round(s / h)) for s, h in zip(size, first.size))
        whole = Image.new("RGB", (first.width * across, first.height * down))
        for k in range(across * down):
            tile = Image.open(io.BytesIO(source.stored((i + 7 * k) % len(source)))).convert("RGB")
            whole.paste(tile.resize(first.size), (k % across * first.width, k // across * first.height))
        share = min(whole.width / width, whole.height / height) * (0.8 + 0.2 * torch.rand((), generator=draw).item())
        left, top = (
            (have - want * share) * torch.rand((), generator=draw).item() for have, want in zip(whole.size, size)
        )
        made = whole.resize(size, Image.Resampling.LANCZOS, (left, top, left + width * share, top + height * share))
        place = folder / "ab"[i % 2] / f"{i:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        made.save(place, "JPEG", quality=QUALITY)
    return folder


def marrow(folder: Path, workers: int, batch: int, view=None):
    data = Data({"train": open_source({"images": str(folder)})})
    settings = Settings(steps=1, batch=batch, workers=workers)
    return (b["image"] for b in train_batches(data, ("train",), view or Augment((SIZE, SIZE)), settings))


def all_pixels(example: dict) -> dict:
    """The same view, but none of those that a source hands an undecoded photo to."""
    return Augment((SIZE, SIZE))(example)


def timm(folder: Path, workers: int, batch: int, **options):
    from timm.data import ImageDataset, create_loader

    loader = create_loader(
        ImageDataset(str(folder)), (3, SIZE, SIZE), batch, is_training=True, num_workers=workers, persistent_workers=False,
        device=torch.device("cpu"), pin_memory=False, **options,
    )  # fmt: skip
    return (image for image, _ in loader.loader)  # inside the part that normalises


def torchvision_v2(folder: Path, workers: int, batch: int):
    view = v2.Compose([v2.ToImage(), v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    dataset = torchvision.datasets.ImageFolder(str(folder), view)
    return (image for image, _ in DataLoader(dataset, batch, shuffle=True, num_workers=workers, drop_last=True))


ARMS = {
    "marrow": marrow,
    "timm": timm,
    "timm, no colour jitter": partial(timm, color_jitter=None),
    "torchvision": torchvision_v2,
}
PHOTO_ARMS = {"marrow": marrow, "marrow, all pixels": partial(marrow, view=all_pixels), "torchvision": torchvision_v2}


def speed(arm, folder: Path, workers: int, batch: int, batches: int) -> float:
    """Images a second, once the workers have started and what they had made ahead is used up."""
    loaded, ahead = iter(arm(folder, workers, batch)), 2 * workers + 1
    for _ in range(ahead):
        image = next(loaded)
    if image.dtype != torch.uint8 or image.shape != (batch, 3, SIZE, SIZE):
        raise MarrowError(f"a batch is {image.dtype} {tuple(image.shape)}, so the arms do not do the same")
    began = time.perf_counter()
    for _ in range(batches):
        next(loaded)
    return batches * batch / (time.perf_counter() - began)


def lightly_train(python: Path, folder: Path) -> float | None:
    """Images a second of the loader inside LightlyTrain's training; None where it does not run."""
    found = ask(python, PEER, str(folder), *SMALL_NETS, *map(str, (SIZE, TOGETHER, FEW, MANY)))
    return found and found["images_per_second"]["loader"]


def compared(arms: dict, folder: Path, workers: int, batch: int, batches: int, rounds: int, python=None) -> dict:
    """python: that of LightlyTrain's environment, where it takes part."""
    found = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            found[name].append(speed(arm, folder, workers, batch, batches))
        if python and (value := lightly_train(python, folder)):
            found.setdefault("LightlyTrain", []).append(value)
        else:
            python = None  # no further round without it: its figures would be of other moments
            found.pop("LightlyTrain", None)
    against = {
        name: statistics.median(m / v for m, v in zip(found["marrow"], values)) for name, values in found.items()
    }
    return {
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in found.items()},
        "marrow_over": {name: round(ratio, 2) for name, ratio in against.items() if name != "marrow"},
        "rounds": {name: [round(v, 1) for v in values] for name, values in found.items()},
    }


def measure(source: Source, rounds: int) -> dict:
    load = os.getloadavg()
    python = environment("lightly-train", *LIGHTLY)
    with tempfile.TemporaryDirectory() as folder:
        small = pictures(source, SMALL, IMAGES, Path(folder) / "small")
        cases = {f"320x256, {'one thread' if not workers else f'{workers} workers'}":
                 compared(ARMS, small, workers, BATCH, 8 if not workers else 12, rounds, None if workers else python)
                 for workers in (0, 2)}  # fmt: skip
        for size in LARGE:
            name = f"{size[0]}x{size[1]}"
            photos = pictures(source, size, PHOTOS, Path(folder) / name)
            cases[f"{name}, one thread"] = compared(PHOTO_ARMS, photos, 0, 6, 2 if size[0] > 2000 else 3, rounds)
    return {
        "cases": cases,
        "target": {"marrow over timm": TARGET},
        "load": {"before": load, "after": os.getloadavg()},
        "versions": {**versions(), "torchvision": torchvision.__version__, **({"peer": LIGHTLY} if python else {})},
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default=os.environ.get("MARROW_DATA", "../shared/data") + "/camvid",
                        help="photos to make the JPEGs from")  # fmt: skip
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(open_source({"images": args.photos, "labels": False}), args.rounds)
    print(f"load before {found['load']['before'][0]:.1f}, after {found['load']['after'][0]:.1f}; {found['versions']}")
    for case, figures in found["cases"].items():
        print(f"\n{case:32} {'images/s':>9} {'marrow is':>10}")
        for name, value in figures["images_per_second"].items():
            ratio = f"{figures['marrow_over'][name]:.2f}x" if name != "marrow" else ""
            print(f"{name:32} {value:9.0f} {ratio:>10}")
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
