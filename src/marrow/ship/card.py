"""The model card: README.md inside an artifact's folder, with the header that the Hugging Face hub reads.

A card holds what `artifact.json` holds, in words. No path, host or user name gets into it.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
from pathlib import Path
from typing import Any, Iterator, Mapping

import timm
import torch
import yaml

from ..core.catalogue import CONTRACTS, PACKAGE, VERBS, class_node
from ..core.errors import visible
from . import quantity
from .interval import wilson

HUB = {"classify": "image-classification"}  # task -> the hub's name for it
KINDS = {"backbone": "feature extractor", "task": "model", "runtime": "exported model", "data": "data set",
         "report": "report"}  # fmt: skip
LOADED = {"backbone": "a torch module: images in, features out", "task": "a torch module", "data": "a table of tensors",
          "runtime": "a runner: a batch in, the task's outputs out", "report": "rows and tensors"}  # fmt: skip


def write(folder: Path, meta: Mapping[str, Any]) -> Path:
    """Write the card of the artifact whose artifact.json is `meta` into its folder."""
    card = Path(folder) / "README.md"
    card.write_text(text(meta), encoding="utf-8")
    return card


def text(meta: Mapping[str, Any]) -> str:
    """The card as Markdown. Names that users chose are escaped: a class may be called anything."""
    sections = [header(meta), opening(meta), loading(meta), inputs(meta), labels(meta), metrics(meta), making(meta),
                data(meta), lineage(meta), licences(meta)]  # fmt: skip
    return "\n\n".join(s for s in sections if s) + "\n"


def header(meta: Mapping[str, Any]) -> str:
    """The licence is the owner's to choose: the hub calls that "other" with a name of its own."""
    task, verb = task_of(meta), stem_of_stage(meta)
    tags = ["marrow", *(["onnx"] if meta["kind"] == "runtime" else []), *([verb[1]] if verb else [])]
    fields: dict[str, Any] = {"library_name": "marrow", "license": "other", "license_name": "chosen-by-the-owner"}
    if task in HUB:
        fields["pipeline_tag"] = HUB[task]
    fields["tags"] = tags
    if any(row["metric"] == "top1" for row in meta["metrics"]):
        fields["metrics"] = ["accuracy"]
    return "---\n" + yaml.safe_dump(fields, sort_keys=False).strip() + "\n---"


def opening(meta: Mapping[str, Any]) -> str:
    nets = " and ".join(dict.fromkeys(backbones(meta["spec"])))
    form = [meta["runtime"]["precision"], "for", meta["runtime"]["runtime"]] if meta["kind"] == "runtime" else []
    what = " ".join(w for w in (nets, task_of(meta), *form) if w) or meta["kind"]
    version = meta["versions"].get("marrow", "")
    classes = f" for {len(meta['labels'])} classes" if meta["labels"] else ""
    return f"# {escaped(what)}\n\nA {KINDS[meta['kind']]}{classes}, made with marrow {version}."


def loading(meta: Mapping[str, Any]) -> str:
    parts = ["## Use", f"With marrow, `load` gives {LOADED[meta['kind']]}.",
             'Run it where this card lies, or give the folder instead of `"."`.',
             fenced('import marrow\n\nmodel = marrow.load(".")', "python")]  # fmt: skip
    if meta["kind"] in ("task", "runtime") and task_of(meta) == "classify":
        parts.append(fenced('for row in marrow.predict(".", ["photo.jpg"]):\n    print(row)', "python"))
    if snippet := plain_timm(meta):
        parts += ["Plain timm opens the weights too. It wants its input normalised, which marrow does inside the model.",
                  fenced(snippet, "python")]  # fmt: skip
    return "\n\n".join(parts)


def plain_timm(meta: Mapping[str, Any]) -> str:
    """Code that opens an unedited backbone's weights without marrow; "" where timm alone does not know the net."""
    spec = meta["spec"] or {}
    scheme, _, name = str(spec.get("source", "")).partition(":")
    if meta["kind"] != "backbone" or scheme != "timm":
        return ""
    if not timm.models.model_entrypoint(name).__module__.startswith("timm."):
        return ""
    given, ours = spec.get("args", {}), ("mean", "std", "crop_pct", "interpolation")
    args = {k: v for k, v in given.items() if k not in ours and (k != "img_size" or built_with_size(name))}
    said = "".join(f", {k}={v!r}" for k, v in args.items())
    channels, (height, width) = meta["input"]["channels"], meta["input"]["size"]
    return "\n".join([
        "import timm",
        "import torch",
        "from safetensors.torch import load_file",
        "",
        f'net = timm.create_model("{name}", pretrained=False, num_classes=0{said}).eval()',
        'net.load_state_dict(load_file("weights.safetensors"))',
        f"mean = torch.tensor({meta['input']['mean']}).view(-1, 1, 1)",
        f"std = torch.tensor({meta['input']['std']}).view(-1, 1, 1)",
        f"image = torch.zeros(1, {channels}, {height}, {width}, dtype=torch.uint8)  # yours",
        "features = net((image / 255 - mean) / std)",
    ])  # fmt: skip


def built_with_size(name: str) -> bool:
    """Whether timm's net is built for one input size, so that its weights depend on it."""
    with torch.device("meta"):
        return "img_size" in inspect.signature(type(timm.create_model(name)).__init__).parameters


def inputs(meta: Mapping[str, Any]) -> str:
    given = meta["input"]
    if not given:
        return ""
    height, width = given["size"]
    how = {"crop": f"the short side scaled to {height / given['crop_pct']:.0f} px, the centre cut out",
           "squash": "scaled without regard to the aspect ratio"}[given["resize"]]  # fmt: skip
    return (f"## Input\n\n{given['modality'].capitalize()}s of {height} x {width} px with {given['channels']} channels, "
            f"uint8 or float in [0, 1]: {how} ({given['interpolation']}). The model normalises them itself, with mean "
            f"{given['mean']} and deviation {given['std']}.")  # fmt: skip


def labels(meta: Mapping[str, Any]) -> str:
    names = meta["labels"]
    if not names:
        return ""
    shown = ", ".join(escaped(name) for name in names[:50])
    return (
        "## Classes\n\n" + shown + (f" and {len(names) - 50} more; all stand in `artifact.json`." if names[50:] else "")
    )


def metrics(meta: Mapping[str, Any]) -> str:
    if not meta["metrics"]:
        return ""
    lines = [
        "## Metrics",
        "",
        "| metric | value | 95 % interval | images | split |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in meta["metrics"]:
        name, value, n = row["metric"], row.get("value"), row.get("n")
        ends = row.get("ci95")
        if ends is None and name == "top1" and value is not None and n:
            ends = wilson(value * n, n)
        cells = (quantity.title(name), quantity.measure(name, value), quantity.interval(name, ends),
                 n, row.get("split", ""))  # fmt: skip
        lines.append("| " + " | ".join("" if c is None else escaped(c) for c in cells) + " |")
    explained = [quantity.explained(row["metric"], row.get("n")) for row in meta["metrics"]]
    lines += [line for sentence in dict.fromkeys(explained) if sentence for line in ("", quantity.sentence(sentence))]
    if {row.get("split") for row in meta["metrics"]} == {"val"}:
        lines += ["", "Training may have been tuned on the validation images: expect a little less on new ones."]
    return "\n".join(lines)


def making(meta: Mapping[str, Any]) -> str:
    verb = stem_of_stage(meta)
    if verb is None:
        return ""
    folder, stem = verb
    said = f"## Method\n\n`{folder}: {stem}`"
    if meta["seed"] is not None:
        said += f", seed {meta['seed']}"
    source = citation(folder, stem)
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return (
        said
        + ". "
        + (f"Source: {source} " if source else "")
        + f"The whole recipe stands in `artifact.json`.\n\n{versions}."
    )


def data(meta: Mapping[str, Any]) -> str:
    if meta["kind"] == "report":
        return ""
    return ("## Data\n\nmarrow keeps no images and no record of where they came from. Whoever publishes this model "
            "says here where its training images are from, who may use them, whom or what they show and what is "
            "missing in them, and which uses follow from that.")  # fmt: skip


def lineage(meta: Mapping[str, Any]) -> str:
    lines = ["## Lineage", "", "| what | sha256 |", "| --- | --- |"]
    lines += [f"| parent artifact | `{parent}` |" for parent in meta["parents"]]
    lines += [f"| {escaped(name)} | `{digest}` |" for name, (_, digest) in meta["files"].items()]
    return "\n".join(lines)


def licences(meta: Mapping[str, Any]) -> str:
    said = "## Licences\n\nTrained weights belong to whoever trained them; marrow claims no rights in them."
    if not meta["licences"]:
        return said + " No ready-made weights went into this one."
    lines = ["", "", "| of | which | licence | in short |", "| --- | --- | --- | --- |"]
    for link in meta["licences"]:
        lines.append("| " + " | ".join(escaped(link.get(k, "")) for k in ("of", "name", "licence", "terms")) + " |")
    return said + " What went into them asks for its own:" + "\n".join(lines)


def task_of(meta: Mapping[str, Any]) -> str:
    """The stem of the task that it does; "" for backbones and data."""
    if meta["kind"] == "runtime":
        return meta["runtime"]["task"]
    spec = meta["spec"] or {}
    while "of" in spec and "task" not in spec:
        if "part" in spec:
            return ""
        spec = spec["of"][0]
    return spec.get("task", "")


def backbones(spec: Any) -> Iterator[str]:
    """The names of the nets in a spec tree."""
    if isinstance(spec, Mapping):
        if "source" in spec:
            yield spec["source"].partition(":")[2]
        for value in spec.values():
            yield from backbones(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from backbones(value)


def stem_of_stage(meta: Mapping[str, Any]) -> tuple[str, str] | None:
    """(verb, stem) of the stage that made it."""
    recipe = meta["recipe"] or {}
    return next(((verb, recipe[verb]) for verb in VERBS if isinstance(recipe.get(verb), str)), None)


def citation(folder: str, stem: str) -> str:
    """The paragraph of a method's docstring that names its paper, known by its year; "" when there is none."""
    node = class_node(folder, stem, CONTRACTS[folder])
    if node is None:
        return ""
    module = ast.parse((PACKAGE / folder / f"{stem}.py").read_text(encoding="utf-8"))
    for docstring in (ast.get_docstring(module), ast.get_docstring(node)):
        for paragraph in (docstring or "").split("\n\n"):
            if re.search(r"\b(19|20)\d\d\b", paragraph):
                return " ".join(paragraph.split())
    return ""


def escaped(value: Any) -> str:
    """Text that Markdown takes as it is: on one line, without HTML, links, tables or emphasis."""
    flat = html.escape(visible(" ".join(str(value).split())), quote=False)
    return re.sub(r"[\\`*\[\]|~#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", flat)


def fenced(code: str, language: str) -> str:
    return f"```{language}\n{code}\n```"
