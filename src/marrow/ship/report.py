"""report.html: one self-contained page that says what a run made and how well it is proven.

Everything on it is in report.json, in the CSV logs, or handed over as images. Beside `rows`, `verdict`, `baseline`,
`data`, `device` and `task` these parts of report.json are shown where they are present:

    name      what was made                    ship        the name of the row that is shipped
    minutes   {stage: number}                  rows[].more {metric: value} beside the first metric
    budgets   [{what, limit, value, met}]      accept      a command line that accepts what missed them
    choices   [{what, value, reason}]          early       sentences about stages that ended early
    per_class [{class, n, recall}], recall: {row: share or null}
    confusion {of, labels, counts}             confusion_reason    why there is none
    layers    {of: [row, row], rows: [{name, kind, params, macs}]}, params and macs before and after, or null
    estimate, actual    {minutes: {stage: number}, memory, disk}, in bytes; further numbers under their names
    recipe    YAML text                        lineage     [{name, kind, hash, parents}]
    licences  [{of, name, licence, terms}]     use         lines of Python
    findings  [{severity, what, count, examples, remedy}], what was wrong with the data
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any, Mapping, Sequence

from markupsafe import Markup

from ..core import plain_json
from ..core.errors import MarrowError, visible
from . import curves as training
from . import expense, mistakes, quantity, view

PAGES = Path(__file__).parent / "pages"
LARGEST = 64 * 2**20  # bytes of a report.json


def write(
    report: Mapping[str, Any],
    out: Path,
    *,
    curves: Mapping[str, training.Log] | None = None,
    thumbnails: Sequence[Mapping[str, Any]] | None = None,
) -> Path:
    """Write the page of one run. curves: stage -> its log. thumbnails: {"png" bytes, "label", "teacher", "student"};
    a label of None where there are none."""
    report, curves, thumbnails = _visible(report), _visible(curves or {}), _visible(thumbnails)
    return save(page("run.html", **_run(report, curves), thumbnails=mistakes.thumbnails(thumbnails)), out)


def from_runs(folders: Sequence[Path], out: Path) -> Path:
    """`marrow report RUN... --out FILE`: the page of one run folder, or one page that compares several."""
    from jinja2 import TemplateError

    if not folders:
        raise MarrowError("no run folder given", where="report")
    reports = {name: _read(Path(folder)) for name, folder in zip(_names(folders), folders)}
    try:
        return _written(reports, Path(folders[0]) / "logs", out)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, TemplateError) as error:
        if isinstance(error, MarrowError):
            raise
        raise MarrowError(f"its report.json is not what `marrow make` writes ({type(error).__name__}: {error})",
                          where=", ".join(map(str, folders))) from error  # fmt: skip


def _written(reports: Mapping[str, dict[str, Any]], logs: Path, out: Path) -> Path:
    if len(reports) == 1:
        return write(next(iter(reports.values())), out, curves=training.read(logs))
    reports = _visible(reports)
    named = [(name, r, f"c{i % 6}") for i, (name, report) in enumerate(reports.items()) for r in report["rows"]
             if r["name"] in ("teacher", report.get("ship"))]  # fmt: skip
    runs = []
    for i, (name, report) in enumerate(reports.items()):
        ship = next((r for r in report["rows"] if r["name"] == report.get("ship")), None)
        runs.append(
            {
                **_run(report, {}),
                "run": name,
                "ship": ship and view.row({**ship, "kind": ship["name"]}, f"c{i % 6}", True),
            }
        )
    plot = view.pareto([r for _, r, _ in named], [f"{n} {r['name']}" for n, r, _ in named], [c for _, _, c in named])
    return save(page("runs.html", title=f"{len(runs)} runs", runs=runs, pareto=plot), out)


def _run(report: Mapping[str, Any], curves: Mapping[str, training.Log]) -> dict[str, Any]:
    """Everything that the page of one run shows, besides images."""
    rows = [r for r in report["rows"] if r]
    colours = view.colours([r["name"] for r in rows])
    curves = {name: curves[name] for name in sorted(curves, key=[*colours, *curves].index)}  # in the chain's order
    metric = next((r["metric"] for r in rows if r.get("metric")), "value")
    measured = {r["name"] for r in rows if r.get("value") is not None}
    ship = report.get("ship")
    first, *rest = [quantity.tied(line) for line in str(report["verdict"]).splitlines() if line.strip()] or [
        "no verdict"
    ]
    return {
        "title": report.get("name") or "a run",
        "task": report.get("task", ""),
        "verdict": first,
        "more": rest,
        "headlines": view.headlines(report),
        "budgets": view.budgets(report),
        "metric": quantity.title(metric),
        "unlabelled": metric in quantity.UNLABELLED,
        "explanations": view.explanations(rows),
        "baseline": report.get("baseline") if "baseline" in measured else "",  # its row says why there is none
        "more_metrics": list(dict.fromkeys(m for r in rows for m in r.get("more") or ())),
        "rows": [view.row(r, colours[r["name"]], r["name"] == ship) for r in rows],
        "pareto": view.pareto(rows, [quantity.called(r["name"]) for r in rows], list(colours.values())),
        "progress": training.progress(curves, view.colours(list(curves)), metric),
        "losses": training.losses(curves),
        "early": [str(line) for line in report.get("early") or []],
        "classes": mistakes.per_class(report.get("per_class"), ship, colours[ship] if ship in colours else "c0"),
        "confusion": mistakes.confusion(report.get("confusion")),
        "no_confusion": report.get("confusion_reason") or "",
        "layers": expense.layers(report.get("layers")),
        "choices": [
            {**c, "what": quantity.words(c["what"]), "value": quantity.plain(c.get("value"))}
            for c in report.get("choices") or []
        ],
        "taken": expense.taken(report.get("estimate"), report.get("actual"), report.get("minutes")),
        "data": view.pairs(report.get("data")),
        "device": view.pairs(report.get("device")),
        "findings": view.findings(report.get("findings")),
        "recipe": report.get("recipe") or "",
        "lineage": view.lineage(report.get("lineage")),
        "licences": report.get("licences") or [],
        "use": "\n".join(report.get("use") or []),
    }


def page(template: str, **values: Any) -> str:
    """Render with everything escaped; style and script are allowed by their hashes, and nothing else is."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    pages.filters |= {"title_of": quantity.title, "called": quantity.called, "sentence": quantity.sentence,
                      "breakable": _breakable}  # fmt: skip
    style, script = ((PAGES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    allowed = {"style": _hash(style), "script": _hash(script)}
    return pages.get_template(template).render(style=Markup(style), script=Markup(script), allowed=allowed, **values)


def _visible(value: Any) -> Any:
    """The same values with texts in which nothing hides: a class may be called anything."""
    if isinstance(value, str):
        return "\n".join(visible(line) for line in value.replace("\t", "  ").splitlines())
    if isinstance(value, Mapping):
        return {_visible(k): _visible(v) for k, v in value.items()}
    return [_visible(v) for v in value] if isinstance(value, (list, tuple)) and type(value) in (list, tuple) else value


def _breakable(name: str) -> Markup:
    """A technical name that may go on in the next line after a dot, a slash or an underscore."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])(?=.)", name))


def _hash(text: str) -> str:
    """As a content security policy names an inline text."""
    return "'sha256-" + b64encode(sha256(text.encode()).digest()).decode() + "'"


def save(text: str, out: Path) -> Path:
    """Write a page whole or not at all."""
    out = Path(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, out)
    return out


def _read(folder: Path) -> dict[str, Any]:
    """report.json of a run folder, with the parts that no page can do without."""
    file = folder / "report.json"
    if not file.is_file():
        raise MarrowError("no report.json here", where=str(folder), hint="`marrow make` writes one into its folder.")
    report = plain_json.read(file, str(folder), LARGEST)
    rows = report.get("rows") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "name" in r for r in rows):
        raise MarrowError("no list of named rows in it", where=str(file))
    if "verdict" not in report:
        raise MarrowError("no verdict in it", where=str(file))
    return report


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with a number where two are the same."""
    names = [Path(folder).resolve().name for folder in folders]
    return [f"{n} ({names[: i + 1].count(n)})" if names.count(n) > 1 else n for i, n in enumerate(names)]
