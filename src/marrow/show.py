"""`marrow list` and `marrow show`: what there is, and one thing in full."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path
from typing import Any

from .core.catalogue import CONTRACTS, PACKAGE, VERBS, stems
from .core.errors import MarrowError, near
from .core.signature import REQUIRED, Argument, signature

FOLDERS = {"methods": "teach", "shrinkers": "shrink", "probes": "examine", "exporters": "ship", "tasks": "tasks"}
KINDS = (*FOLDERS, "backbones")


def listing(kind: str | None = None, pattern: str | None = None) -> dict[str, list[dict]]:
    """Kind -> rows of name and description, read from source text.

    A pattern such as "resnet*" keeps matching names; for backbones it is matched against timm's whole registry.
    """
    kind = next((k for k, folder in FOLDERS.items() if folder == kind), kind)
    if kind is not None and kind not in KINDS:
        raise MarrowError(f"unknown kind '{kind}'{near(kind, KINDS)}", where="list")
    found = {}
    for name in KINDS if kind is None else (kind,):
        if name == "backbones":
            rows = _timm_backbones(pattern) if pattern and kind else _own_backbones()
        else:
            rows = [_summary(FOLDERS[name], stem) for stem in stems(FOLDERS[name])]
        found[name] = [r for r in rows if pattern is None or fnmatch.fnmatch(r["name"], pattern)]
    return found


def _summary(folder: str, stem: str) -> dict:
    known = signature(folder, stem)
    assert known is not None
    return {"name": stem, "models": ", ".join(known.roles), "what": known.doc.partition("\n")[0]}


def _own_backbones() -> list[dict]:
    """Functions with @register_model in `backbones/`."""
    rows = []
    for file in sorted((PACKAGE / "backbones").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any(
                "register_model" in ast.unparse(d) for d in node.decorator_list
            ):
                rows.append({"name": node.name, "what": (ast.get_docstring(node) or "").partition("\n")[0]})
    return rows


def _timm_backbones(pattern: str) -> list[dict]:
    import timm

    from . import backbones as backbones  # registers them

    rows = [{"name": name, "weights": timm.is_model_pretrained(name)} for name in timm.list_models(pattern)]
    if not rows:
        raise MarrowError(
            f"no backbone is called '{pattern}'{near(pattern.strip('*'), timm.list_models())}", where="list"
        )
    return rows


def describe(name: str) -> dict[str, Any]:
    """Everything about a file stem, a backbone, or the artifact at a path."""
    if (Path(name) / "artifact.json").is_file():
        return _artifact(Path(name))
    for folder in CONTRACTS:
        if name in stems(folder):
            return _class(folder, name)
    import timm

    from . import backbones as backbones  # registers them

    if timm.is_model(name):
        return _backbone(name)
    known = [*(s for folder in CONTRACTS for s in stems(folder)), *timm.list_models()]
    raise MarrowError(f"nothing is called '{name}'{near(name, known)}", where="show",
                      hint="" if not Path(name).exists() else f"{name} holds no artifact.json.")  # fmt: skip


def _class(folder: str, stem: str) -> dict[str, Any]:
    known = signature(folder, stem)
    assert known is not None
    facts: dict[str, Any] = {
        "name": stem,
        "kind": CONTRACTS[folder].lower(),
        "class": known.name,
        "about": known.doc,
        "models": {role: _role(role, known.needs.get(role, set()), a) for role, a in known.roles.items()},
        "arguments": {k: _argument(a) for k, a in known.values.items()},
    }
    if folder in VERBS:
        facts["streams"] = list(known.streams)
    if len(known.players) > 1:
        facts["players"] = list(known.players)
    return facts


def _role(role: str, needs: set[str], argument: Argument) -> str:
    words = argument.annotation + (", optional" if argument.default is not REQUIRED else "")
    return words + (f", that gives {', '.join(sorted(needs))}" if needs else "")


def _argument(argument: Argument) -> str:
    return argument.annotation + ("" if argument.default is REQUIRED else f" = {argument.default!r}")


def _backbone(name: str) -> dict[str, Any]:
    import timm

    from .core.cost import cost
    from .core.models import resolve

    model = resolve({"backbone": name}, {}, name, meta=True)
    entry = timm.models.get_pretrained_cfg(name)
    return {
        "name": name,
        "kind": "backbone",
        "class": type(model.net).__name__,
        **cost(model)._asdict(),
        "dim": model.dim,
        "gives": sorted(model.gives),
        "input": model.input.to_json(),
        "weights": entry.hf_hub_id if entry else None,
        "licence of the weights": entry.license if entry else None,
        "paper": list(entry.paper_ids or ()) if entry else [],
    }


def _artifact(path: Path) -> dict[str, Any]:
    from . import backbones as backbones  # registers them
    from .core.artifact import Artifact
    from .core.cost import cost
    from .core.fit_check import model_name
    from .core.spec import meta as without_memory

    artifact = Artifact.open(path)
    meta = artifact.meta
    facts: dict[str, Any] = {"name": path.resolve().name, "kind": artifact.kind}
    if meta["spec"]:
        facts |= {"model": model_name(meta["spec"]), **cost(without_memory(meta["spec"]))._asdict()}
    runtime = meta["runtime"] or {}
    return {
        **facts,
        **{k: runtime[k] for k in ("runtime", "precision", "parity") if k in runtime},
        "labels": meta["labels"],
        "input": meta["input"],
        "metrics": artifact.rows,
        "files": [{"file": name, "bytes": size} for name, (size, _) in meta["files"].items()],
        "lineage": lineage(artifact),
        "licences": meta["licences"],
        "stage": meta["stage"],
        "seed": meta["seed"],
        "versions": meta["versions"],
    }


def lineage(artifact: Any) -> list[dict]:
    """The artifacts it came from, nearest first; those that lie beside it are named and followed."""
    beside = {}
    for file in sorted(artifact.path.resolve().parent.glob("*/artifact.json")):
        opened = type(artifact).open(file.parent)
        beside[opened.hash] = opened
    rows: list[dict] = []
    waiting = list(artifact.meta["parents"])
    while waiting:
        parent = waiting.pop(0)
        found = beside.get(parent)
        row = {
            "parent": found.path.name if found else "not beside it",
            "kind": found and found.kind,
            "hash": parent[:12],
        }
        if row not in rows:
            rows.append(row)
            waiting += found.meta["parents"] if found else []
    return rows


def as_text(facts: dict[str, Any]) -> str:
    """A description for a terminal: text first, then pairs, then tables."""
    from .text_table import pairs, table

    facts = dict(facts)
    about = facts.pop("about", None)
    tables = {k: v for k, v in facts.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    groups = {k: v for k, v in facts.items() if isinstance(v, dict) and v}
    single = {k: v for k, v in facts.items() if k not in tables and k not in groups and v not in (None, [], {})}
    parts = [pairs(single)] + ([about] if about else [])
    parts += [f"{k}\n{_indented(pairs(v))}" for k, v in groups.items()]
    parts += [f"{k}\n{_indented(table(v))}" for k, v in tables.items()]
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
