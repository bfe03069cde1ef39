"""What the report page shows, worked out from report.json: rows as text, headline numbers, plots."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from . import plots, quantity
from .mistakes import cell

CHAIN = ("teacher", "baseline", "student", "pruned", "int8", "fp32", "compare")

GRADES = {"error": "severe", "warning": "grave"}  # classes of the style sheet


def colours(names: Sequence[str]) -> dict[str, str]:
    """A class of the style sheet for each name: the chain's stages keep theirs, as do their files; others take turns."""
    found = {}
    for i, name in enumerate(names):
        stage = name.removesuffix("_int8").removesuffix("_fp32")
        found[name] = stage if stage in CHAIN else f"c{i % 6}"
    return found


def row(values: Mapping[str, Any], colour: str, shipped: bool) -> dict[str, Any]:
    """One line of the table: what is printed, and beside it what it is sorted by."""
    metric, latency = values.get("metric") or "", values.get("latency_ms") or {}
    return {
        "name": quantity.called(str(values["name"])),
        "metric": metric,
        "kind": values.get("kind") or "",
        "colour": colour,
        "shipped": shipped,
        "reason": values.get("reason") or "",
        "missing": all(values.get(k) is None for k in ("value", "latency_ms", "bytes")),
        "value": cell(values.get("value"), quantity.measure(metric, values.get("value"))),
        "interval": quantity.interval(metric, values.get("ci95")),
        "latency": cell(latency.get("median"), quantity.milliseconds(latency.get("median"))),
        "p90": quantity.milliseconds(latency["p90"]) if latency.get("p90") is not None else "",
        "setting": setting(latency),
        "bytes": cell(values.get("bytes"), quantity.size(values.get("bytes"))),
        "params": cell(values.get("params"), quantity.count(values.get("params"))),
        "macs": cell(values.get("macs"), quantity.count(values.get("macs"))),
        "images": cell(values.get("n"), " ".join(str(v) for v in (values.get("n"), values.get("split")) if v)),
        "more": {k: cell(v, quantity.measure(k, v)) for k, v in (values.get("more") or {}).items()},
        "parity": quantity.plain(values["parity"]) if values.get("parity") else "",
    }


def setting(latency: Mapping[str, Any]) -> str:
    """How a latency was measured: two of them may be compared only when this is the same."""
    if not latency:
        return ""
    threads, batch = latency.get("threads"), latency.get("batch")
    parts = [str(latency.get("runtime", ""))]
    parts += [f"batch {batch}"] if batch else []
    parts += [f"{threads} thread{'s' if threads != 1 else ''}"] if threads else []
    return ", ".join(p for p in parts if p)


def headlines(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The shipped file in at most four numbers: quality, what the teacher bought, speed, size."""
    rows = {r["name"]: r for r in report["rows"] if r}
    ship = rows.get(report.get("ship"))
    teacher, baseline, student = (rows.get(n) or {} for n in ("teacher", "baseline", "student"))
    found = []
    if ship and ship.get("value") is not None:
        metric = ship["metric"]
        told = f"on {ship['n']:,} images without labels" if metric in quantity.UNLABELLED and ship.get("n") else ""
        if metric not in quantity.UNLABELLED and teacher.get("value") is not None and teacher.get("metric") == metric:
            told = f"the teacher has {quantity.measure(metric, teacher['value'])}"
        found.append({"number": quantity.measure(metric, ship["value"]), "of": quantity.title(metric), "told": told})
    if student.get("value") is not None and baseline.get("value") is not None:
        gain = quantity.difference(student["metric"], student["value"] - baseline["value"])
        of, it = ("from teacher and pre-training", "them") if report.get("pretrained") else ("from the teacher", "it")
        told = f"student {quantity.measure(student['metric'], student['value'])}, without {it} " + quantity.measure(
            baseline["metric"], baseline["value"])  # fmt: skip
        found.append({"number": gain, "of": of, "told": told})
    if ship and (latency := ship.get("latency_ms")):
        found.append({"number": quantity.milliseconds(latency["median"]), "of": "an image",
                      "told": ratio(teacher.get("latency_ms"), latency)})  # fmt: skip
    if ship and ship.get("bytes"):
        told = (
            f"the teacher is {quantity.times(teacher['bytes'] / ship['bytes'])} as large"
            if teacher.get("bytes")
            else ""
        )
        found.append({"number": quantity.size(ship["bytes"]), "of": "on disk", "told": told})
    return found


def budgets(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The budgets that the user gave, missed ones first, and the command that accepts what there is."""
    given = sorted(report.get("budgets") or [], key=lambda b: bool(b["met"]))
    if not given:
        return None
    missed = sum(not b["met"] for b in given)
    many = "budget" if len(given) == 1 else f"{missed} of {len(given)} budgets" if missed else "all budgets"
    rows = [{**b, "value": quantity.tied(str(b["value"])), "limit": quantity.tied(str(b["limit"]))} for b in given]
    return {"rows": rows, "missed": missed, "says": f"{many} {'missed' if missed else 'met'}",
            "accept": (report.get("accept") or "") if missed else ""}  # fmt: skip


def explanations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each metric of the rows that is no plain accuracy."""
    found = {}
    for r in rows:
        for metric in (r.get("metric"), *(r.get("more") or ())):
            if metric and metric not in found:
                found[metric] = quantity.explained(metric, r.get("n"))
    return [sentence for sentence in found.values() if sentence]


def ratio(slow: Mapping[str, Any] | None, fast: Mapping[str, Any]) -> str:
    """How a latency compares with the teacher's; a ratio only when both were measured the same way."""
    if not slow or not fast.get("median"):
        return ""
    if setting(slow) != setting(fast):
        return f"the teacher takes {quantity.milliseconds(slow['median'])} in {setting(slow)}"
    faster = slow["median"] / fast["median"]
    if faster >= 1:
        return f"{quantity.times(faster)} faster than the teacher"
    return f"{quantity.times(1 / faster)} slower than the teacher"


def pareto(rows: Sequence[Mapping[str, Any]], names: Sequence[str], colour: Sequence[str]) -> dict[str, Any] | None:
    """The plot in two widths, of the rows that have both a value and a latency; None below two of them."""
    kept = [(r, n, c) for r, n, c in zip(rows, names, colour)
            if r.get("value") is not None and (r.get("latency_ms") or {}).get("median")]  # fmt: skip
    metrics = {r["metric"] for r, _, _ in kept}
    if len(kept) < 2 or len(metrics) > 1:
        return None
    metric = metrics.pop()
    share = 100 if metric in quantity.SHARES else 1
    points = []
    for r, name, c in _joined(kept):
        latency, ends = r["latency_ms"], r.get("ci95")
        note = ", ".join(t for t in (name, quantity.measure(metric, r["value"]), quantity.milliseconds(latency["median"]),
                                     quantity.size(r.get("bytes")), setting(latency)) if t)  # fmt: skip
        ends = (share * ends[0], share * ends[1]) if ends else None
        points.append(plots.Point(name, c, latency["median"], share * r["value"], ends, r.get("bytes"), note))
    label = f"{quantity.title(metric)} against latency of {', '.join(names)}"
    unit = "%" if share == 100 else ""
    drawn = {kind: plots.pareto(points, width=width, height=height, unit=unit, label=label)
             for kind, width, height in (("wide", 860, 400), ("narrow", 350, 330))}  # fmt: skip
    settings = sorted({setting(r["latency_ms"]) for r, _, _ in kept})
    return {**drawn, "metric": quantity.title(metric), "settings": settings,
            "frontier": sum(not any(plots.beats(q, p) for q in points) for p in points) > 1}  # fmt: skip


def _joined(kept: Sequence[tuple[Mapping[str, Any], str, str]]) -> list[tuple[Mapping[str, Any], str, str]]:
    """Rows at one and the same point (a student and its exported file) as one, under both names."""
    found: dict[tuple, tuple[Mapping[str, Any], str, str]] = {}
    for r, name, colour in kept:
        place = (r["latency_ms"]["median"], r["value"])
        first = found.get(place)
        found[place] = (r, name, colour) if first is None else (first[0], f"{first[1]}, {name}", first[2])
    return list(found.values())


def pairs(given: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    return [(quantity.words(k), quantity.plain(v)) for k, v in (given or {}).items() if v is not None]


def lineage(given: Sequence[Mapping[str, Any]] | None) -> list[dict[str, str]]:
    """Each artifact with its parents by name where the report has them, else by the start of their hash."""
    names = {a["hash"]: a["name"] for a in given or ()}
    return [{"name": a["name"], "kind": a.get("kind", ""), "hash": a["hash"][:12],
             "parents": ", ".join(names.get(p, p[:12]) for p in a.get("parents", ())) or quantity.ABSENT}
            for a in given or ()]  # fmt: skip


def findings(given: Sequence[Mapping[str, Any]] | None) -> list[dict[str, str]]:
    """What was wrong with the data, in the order of the report."""
    return [{"severity": row["severity"], "grade": GRADES.get(row["severity"], ""), "what": row["what"], "count": f"{row['count']:,}", "remedy": row["remedy"],
             "examples": "; ".join(row.get("examples") or ())} for row in given or ()]  # fmt: skip
