"""Pictures of a stranger, made up: noise around a colour a class."""

import torch
from PIL import Image

COLOURS = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cat & <b>dog": (40, 40, 200)}


def photos(folder, each=40, classes=COLOURS, junk=False, size=36):
    """Noisy pictures, one colour a class; with `junk` also files that are no pictures."""
    draw = torch.Generator().manual_seed(0)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = torch.randn(size, size + 8, 3, generator=draw) * 60 + torch.tensor(colour)
            Image.fromarray(noise.clamp(0, 255).byte().numpy()).save(folder / name / f"{i}.png")
        if junk:
            whole = (folder / name / "0.png").read_bytes()
            (folder / name / "cut off.png").write_bytes(whole[: len(whole) // 2])
            (folder / name / "empty.jpg").write_bytes(b"")
            (folder / name / "a text.png").write_text("not a picture")
            (folder / name / "notes.txt").write_text("skipped without a word")
    return folder


def flat(folder, count=60):
    """Pictures without labels, of all colours."""
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(1)
    for i in range(count):
        colour = torch.tensor(list(COLOURS.values())[i % 3])
        noise = torch.randn(36, 44, 3, generator=draw) * 60 + colour
        Image.fromarray(noise.clamp(0, 255).byte().numpy()).save(folder / f"{i}.png")
    return folder
