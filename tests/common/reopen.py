"""Run in a process of its own: opens every artifact in a folder and writes what each says about the same images.

    python reopen.py FOLDER        reads FOLDER/*/artifact.json and FOLDER/images.safetensors

Attention is computed twice: by the fused kernel and written out.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.layers import set_fused_attn

import marrow.backbones  # noqa: F401
from marrow.core.artifact import Artifact
from marrow.core.contracts import Task
from marrow.core.table import Table

folder = Path(sys.argv[1])
images = load_file(folder / "images.safetensors")["image"]

for path in sorted(p.parent for p in folder.glob("*/artifact.json")):
    for fused in (True, False):
        set_fused_attn(fused)
        thing = Artifact.open(path).load()
        if isinstance(thing, Table):
            said = thing.columns
        else:
            with torch.inference_mode():
                if isinstance(thing, Task):
                    said = thing({**thing.example(len(images)), "image": images})
                else:
                    said = {"pooled": thing(images[:, None] if thing.modality == "video" else images).pooled}
        said = {name: value.contiguous().clone() for name, value in said.items()}
        save_file(said, folder / f"{path.name}.{'fused' if fused else 'written out'}.safetensors")
