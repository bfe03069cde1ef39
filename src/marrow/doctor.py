"""`marrow doctor`: what is installed, what the machine can do, what is missing for what."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from .core.extras import extras
from .ship import cpu

PACKAGES = ("marrow", "torch", "torchvision", "timm", "lightning-fabric", "onnx", "onnxruntime", "safetensors", "numpy")
FOR_DEVELOPERS = ("dev", "docs")


def examine_machine() -> dict[str, Any]:
    """Versions, devices, threads, what makes int8 fast here, extras, and whether the weight cache can be written."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    devices = [{"device": "cpu", "name": platform.processor() or platform.machine()}]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        devices.append({"device": f"cuda:{i}", "name": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "devices": devices,
        "threads": {"torch": torch.get_num_threads(), "usable cores": usable_cores()},
        "cpu flags": list(cpu.flags()),
        "extras": [{"extra": name, "installed": not missing(brings), "missing": missing(brings)}
                   for name, brings in extras().items() if name not in FOR_DEVELOPERS],
        "cache": {"weights": HF_HUB_CACHE, "writable": writable(Path(HF_HUB_CACHE))},
    }  # fmt: skip


def advice(facts: dict[str, Any]) -> list[str]:
    """One sentence for each thing that will hurt, with what to do."""
    told = []
    for name, found in facts["versions"].items():
        if found is None:
            told.append(f'{name} is not installed. Install marrow again: pip install "marrow"')
    if cpu.saturates_here():
        told.append("This CPU shows no int8 dot-product instructions (VNNI): int8 weights get 7 bits here.")
    if facts["threads"]["torch"] > facts["threads"]["usable cores"]:
        told.append(
            f"torch uses more threads than there are cores. Set OMP_NUM_THREADS={facts['threads']['usable cores']}."
        )
    if not facts["cache"]["writable"]:
        told.append(f"{facts['cache']['weights']} cannot be written: set HF_HOME to a folder that can.")
    told += [f'For {e["extra"]}: pip install "marrow[{e["extra"]}]"' for e in facts["extras"] if not e["installed"]]
    return told


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def missing(distributions: tuple[str, ...]) -> list[str]:
    return [d for d in distributions if version(d) is None]


def version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def writable(folder: Path) -> bool:
    """Whether files can be made there, or in the nearest folder above that exists."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)
