"""Licences of weights: what their publishers state, as facts to check before shipping; no legal advice.

timm records a licence with each of its pretrained tags, and that record is the source for every timm name. `TERMS` says
in a few words what a licence asks for. Whatever is not recorded is "unknown, check before shipping".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

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

    A timm name without a tag stands for the tag that timm loads by default.
    """
    scheme, _, name = source.partition(":")
    if scheme != "timm":
        return next((licence for prefix, licence in PREFIXES.items() if source.startswith(prefix)), UNKNOWN)
    import timm

    if not timm.models.is_model_pretrained(name):
        return UNKNOWN
    recorded = timm.get_pretrained_cfg(name).license
    return UNKNOWN if recorded in (None, "unknown") else recorded


def entry(of: str, name: str, licence: str) -> dict[str, str]:
    """One link of a licence chain. of: "teacher weights", "images", "code"; name: which ones."""
    return {"of": of, "name": name, "licence": licence, "terms": TERMS.get(licence, "own terms: read them first")}


def chain(roles: Mapping[str, Any], parents: Iterable[Artifact] = ()) -> list[dict[str, str]]:
    """What a stage's product rests on: ready-made weights named in its roles, and what its parents rest on."""
    links = [link for role, spec in roles.items() for link in _links(role, spec)]
    links += [link for parent in parents for link in parent.meta["licences"]]
    return [link for i, link in enumerate(links) if link not in links[:i]]


def _links(role: str, spec: Any) -> Iterator[dict[str, str]]:
    if not isinstance(spec, Mapping):
        return
    name = str(spec.get("backbone", ""))
    if spec.get("weights"):
        yield entry(f"{role} weights", Path(str(spec["weights"])).name, UNKNOWN)
    elif spec.get("pretrained"):
        yield entry(f"{role} weights", name, weights_licence(f"timm:{name.removeprefix('timm:')}"))
    for value in spec.values():
        yield from _links(role, value)
