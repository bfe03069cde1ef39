"""Licences of weights: what their publishers state, as facts to check before shipping; no legal advice.

timm records a licence with each of its pretrained tags, and that record is the source for every timm name. A folder as
timm or transformers write it for the hub records its own, in the front matter of its README.md or in config.json. `TERMS`
says in a few words what a licence asks for. Whatever is not recorded is "unknown, check before shipping".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping

import yaml

from ..core import hub
from ..core.artifact import Artifact

UNKNOWN = "unknown, check before shipping"

# Identifiers as timm and the hub write them -> what stands in them, in a few words.
TERMS = {
    "apache-2.0": "permissive; keep the notices",
    "mit": "permissive; keep the notice",
    "bsd-3-clause": "permissive; keep the notice",
    "cc-by-4.0": "free with attribution",
    "cc-by-nc-4.0": "no commercial use",
    "fair-noncommercial-research-license": "research only, no commercial use",
    "seer-license": "no commercial use",
    "apple-amlr": "research only",
    "gemma": "own terms, which reach models distilled from it",
    UNKNOWN: "nothing is recorded for these weights",
}

# Weights that do not come through timm: how their names begin -> what the publisher's page states.
PREFIXES = {
    "hf:facebook/dinov2": "apache-2.0",
    "hf:facebook/dinov3": "dinov3-license",
    "hf:google/vit-": "apache-2.0",
    "hf:microsoft/resnet-": "apache-2.0",
}


def weights_licence(source: str) -> str:
    """The licence recorded for weights named as in a spec: "timm:resnet18.a1_in1k", "hf:google/vit-base-patch16-224".

    A timm name without a tag stands for the tag that timm loads by default. Nothing is downloaded.
    """
    scheme, _, name = source.partition(":")
    if scheme != "timm":
        folder = Path(name)
        if not folder.is_dir() and (card := hub.cached(name, ["README.md", "config.json"])):
            folder = Path(card).parent
        if (recorded := folder_licence(folder)) != UNKNOWN:
            return recorded
        return next((licence for prefix, licence in PREFIXES.items() if source.startswith(prefix)), UNKNOWN)
    import timm

    if not timm.models.is_model_pretrained(name):
        return UNKNOWN
    recorded = timm.get_pretrained_cfg(name).license
    return UNKNOWN if recorded in (None, "unknown") else recorded


def folder_licence(folder: Path) -> str:
    """What a folder for the hub says of its weights; "unknown" where it says nothing that can be read."""
    card, config = folder / "README.md", folder / "config.json"
    if card.is_file():
        opening, matter, _ = [*card.read_text(encoding="utf-8", errors="replace").split("---", 2), "", ""][:3]
        if not opening.strip() and (found := _recorded(yaml.safe_load, matter, yaml.YAMLError)):
            return found
    if config.is_file():
        return _recorded(json.loads, config.read_text(encoding="utf-8", errors="replace"), ValueError) or UNKNOWN
    return UNKNOWN


def _recorded(parse: Callable[[str], Any], text: str, failure: type[Exception]) -> str | None:
    """`license` of a card's front matter, of a config.json, or of the pretrained_cfg in it."""
    try:
        values = parse(text)
    except failure:
        return None  # a damaged card records nothing
    found = [v.get("license") for v in (values, _get(values, "pretrained_cfg")) if isinstance(v, Mapping)]
    return next((f for f in found if isinstance(f, str) and f not in ("", "unknown", "other")), None)


def _get(values: Any, key: str) -> Any:
    return values.get(key) if isinstance(values, Mapping) else None


def entry(of: str, name: str, licence: str) -> dict[str, str]:
    """One link of a licence chain. of: "teacher weights", "images", "code"; name: which ones."""
    return {"of": of, "name": name, "licence": licence, "terms": TERMS.get(licence, "own terms: read them first")}


def chain(roles: Mapping[str, Any], parents: Iterable[Artifact] = ()) -> list[dict[str, str]]:
    """What a stage's product rests on: ready-made weights named in its roles, and what its parents rest on."""
    links = [link for role, spec in roles.items() for link in _links(role, spec)]
    links += [link for parent in parents for link in parent.meta["licences"]]
    return [link for i, link in enumerate(links) if link not in links[:i]]


def _links(role: str, spec: Any) -> Iterator[dict[str, str]]:
    if isinstance(spec, (list, tuple)):
        for inner in spec:
            yield from _links(role, inner)
    if not isinstance(spec, Mapping):
        return
    name = str(spec.get("backbone", ""))
    if name.startswith("hf:"):
        place = name.removeprefix("hf:")
        shown = Path(place).resolve().name if Path(place).is_dir() else place
        yield entry(f"{role} weights", shown, weights_licence(name))
    elif spec.get("weights"):
        file = Path(str(spec["weights"]))
        yield entry(f"{role} weights", file.name, folder_licence(file.parent))
    elif spec.get("pretrained"):
        yield entry(f"{role} weights", name, weights_licence(f"timm:{name.removeprefix('timm:')}"))
    for value in spec.values():
        yield from _links(role, value)
