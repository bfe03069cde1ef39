"""What stands after --teacher, --student and --compare, and what it is."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any, Literal, Mapping

import timm

from ..core import hf_config, hub, spec, timm_weights
from ..core.artifact import Artifact
from ..core.contracts import Task
from ..core.errors import MarrowError, near
from ..core.limits import side

WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Given:
    """A model that a user named.

    spec: as recipes write it. kind: "task" with a head that gives logits over classes, else "backbone". labels: the names
    of those classes, their numbers in an artifact without names, None for a backbone. name: for tables. source: where the
    weights come from, in words.
    """

    spec: dict[str, Any]
    kind: Literal["backbone", "task"]
    labels: list[str] | None
    name: str
    source: str


def given(text: str, where: str, *, pretrained: bool = True, img_size: int | None = None) -> Given:
    """Understand `text`; nothing is downloaded and no weights are loaded into a net.

    The folder of an artifact; NAME of timm's or marrow's nets, with the published weights unless `pretrained` is false;
    NAME=FILE with weights on this machine, whose classes are known when a text file beside it names them, one a line
    (net.safetensors -> net.labels.txt); a folder as timm writes it for the hub; a folder of transformers, or hf:FOLDER, or
    hf:NAME on the hub. img_size: the input size, where the model can take another than its own; an artifact cannot.
    """
    size = {"img_size": img_size} if img_size else {}
    if text.startswith("hf:"):
        return _transformers(text.removeprefix("hf:"), size, where)
    if Path(text).is_dir():
        return _folder(Path(text), text, size, where)
    if "=" in text:
        name, _, file = text.partition("=")
        return _file(name, file, size, where)
    if Path(text).is_file():
        raise MarrowError(f"{text} is a weight file, and its net is not named", where=where, hint=f"Give NAME={text}.")
    if "/" in text:
        raise MarrowError(f"no folder {text}", where=where,
                          hint=f"Give hf:{text} if it is a name on the Hugging Face hub.")  # fmt: skip
    _known(text, where)
    if not pretrained:
        return Given({"backbone": text, **size}, "backbone", None, text, "no weights")
    if not timm.models.is_model_pretrained(text):
        raise timm_weights.no_published(text, where)
    return Given({"backbone": text, "pretrained": True, **size}, "backbone", None, text, "timm's hub")


def _folder(folder: Path, text: str, size: dict[str, int], where: str) -> Given:
    if (folder / "artifact.json").is_file():
        return _artifact(folder, text, where)
    config = hf_config.read(folder / "config.json", where) if (folder / "config.json").is_file() else {}
    if "model_type" in config:
        return _transformers(text, size, where)
    if "architecture" in config:
        return _timm_folder(folder, config, size, where)
    raise MarrowError(f"{text} is no model: it has neither artifact.json nor the config.json of timm or transformers",
                      where=where)  # fmt: skip


def _artifact(folder: Path, text: str, where: str) -> Given:
    found, name = Artifact.open(folder), folder.resolve().name
    if found.kind == "backbone":
        return Given({"artifact": text}, "backbone", None, name, "an artifact")
    if found.kind != "task":
        raise MarrowError(f"{text} is a {found.kind} artifact; one of a task or a backbone is needed", where=where)
    model = spec.meta(found.meta["spec"], where)
    if isinstance(model, Task) and "logits" in model.gives:
        numbers = [str(i) for i in range(model.classes)]  # names for a head whose classes nobody named
        return Given({"artifact": text}, "task", found.meta["labels"] or numbers, name, "an artifact")
    return Given({"artifact": text, "part": "backbone"}, "backbone", None, name, "an artifact")


def _file(name: str, file: str, size: dict[str, int], where: str) -> Given:
    _known(name, where)
    if not Path(file).is_file():
        raise MarrowError(f"no weight file at {file}", where=where)
    if Path(file).suffix not in timm_weights.SUFFIXES:
        raise MarrowError(f"{file} does not end as weights do: {', '.join(timm_weights.SUFFIXES)}", where=where)
    return _with_head({"backbone": name, "weights": file, **size}, timm_weights.class_names(file), name, file, where)


def _timm_folder(folder: Path, config: Mapping[str, Any], size: dict[str, int], where: str) -> Given:
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise MarrowError(f"{folder} has no weights: none of {', '.join(WEIGHTS)}", where=where)
    name = str(config["architecture"])
    _known(name, where)
    own = config.get("pretrained_cfg", config)
    made = config.get("model_args") or {}
    if not isinstance(own, Mapping) or not isinstance(made, Mapping):
        key = "model_args" if isinstance(own, Mapping) else "pretrained_cfg"
        raise MarrowError(f"{folder}/config.json: {key} is no mapping", where=where)
    sides = own.get("input_size", [3, 1, 1])
    if not (isinstance(sides, list) and len(sides) == 3 and all(map(side, sides))):
        raise MarrowError(f"{folder}/config.json: input_size is {sides!r}; channels, height and width are needed",
                          where=where)  # fmt: skip
    # Classes follow from the weights; the size stands below, where the user's comes first.
    args = {k: v for k, v in made.items() if k not in ("num_classes", "img_size")}
    args = {k: v for k, v in args.items() if (k, v) != ("in_chans", 3)}
    said = {k: own[k] for k in ("mean", "std", "interpolation") if k in own}
    native = list(own["input_size"][1:]) if "input_size" in own else None
    if size:
        said |= size
    elif native:
        said |= {"img_size": native[0] if native[0] == native[1] else native}
        said |= {"crop_pct": own["crop_pct"]} if "crop_pct" in own else {}
    called = folder.resolve().name
    wanted = {"backbone": name, "weights": str(file), **said, **args}
    return _with_head(wanted, timm_weights.names_in(config), called, str(file), where)


def _with_head(backbone: dict[str, Any], labels: list[str] | None, name: str, file: str, where: str) -> Given:
    """A task if the names of the classes are known, and are as many as the classifier in the file has.

    A classifier that is not one linear layer, as of distilled DeiTs, cannot be taken over: these are backbones.
    """
    if labels is None or not timm_weights.is_linear(backbone["backbone"]):
        return Given(backbone, "backbone", None, name, file)
    count = timm_weights.classes_in(timm_weights.read(file, where), backbone["backbone"])
    if count != len(labels):
        has = f"a classifier for {count} classes" if count else "no classifier"
        raise MarrowError(f"{len(labels)} class names stand beside {file}, which has {has}", where=where)
    return Given({"task": "classify", "backbone": backbone, "classes": count}, "task", labels, name, file)


def _transformers(place: str, size: dict[str, int], where: str) -> Given:
    """A folder of `save_pretrained`, or a name on the hub, of which a download may have left the configuration here."""
    local, backbone = Path(place).is_dir(), {"backbone": f"hf:{place}", **size}
    kept = str(Path(place) / hf_config.CONFIG) if local else hub.cached(place, [hf_config.CONFIG])
    name, source = (Path(place).resolve().name, place) if local else (place, "the Hugging Face hub")
    for sentence in spec.missing_for("core", "hf_backbone"):
        raise MarrowError(sentence, where=where)
    if kept is None:
        return Given(backbone, "backbone", None, name, source)
    config = hf_config.read(Path(kept), where)
    hf_config.family(config, where)
    if labels := hf_config.labels(config):
        return Given({"task": "classify", "backbone": backbone, "classes": len(labels)}, "task", labels, name, source)
    return Given(backbone, "backbone", None, name, source)


def _known(name: str, where: str) -> None:
    importlib.import_module("marrow.backbones")  # registers ours with timm
    if not timm.is_model(name):
        raise MarrowError(f"unknown model '{name}'{near(name.partition('.')[0], timm.list_models())}", where=where,
                          hint="Give a name of timm's, NAME=FILE, hf:NAME, or a folder with a model.")  # fmt: skip
