"""What a report says first: which file to ship, and what it costs against the teacher and gains over the baseline."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

SLOWER = 1.05  # an int8 file that takes this much of the fp32 file's time is not worth its error

# What a share of the images means, by metric: of test images, this many ...
MEANS = {
    "top1": "of {n} test images right",
    "balanced_top1": "of {n} test images right, all classes counted alike",
    "agreement": "of {n} held-out images answered as the teacher does",
    "knn_agreement": "of the neighbours that the teacher finds, on {n} held-out images",
}

Row = Mapping[str, Any]


def verdict(
    rows: Sequence[Row], ship: str, findings: Sequence[Row] = (), budgets: Sequence[Row] = (), pretrained: str = ""
) -> str:
    """Two to six sentences, a line each; the first is the headline. findings: what was found about the images.

    pretrained: the method that the student started from.
    """
    by = {r["name"]: r for r in rows if r["value"] is not None or r["name"] == "teacher"}
    lines = [*_missed(budgets), *_slow(by, ship), _headline(by, ship), *_gain(by, pretrained), *_other(by, ship)]
    if budgets and all(b["met"] for b in budgets):
        lines.append(f"Inside {'the budget' if len(budgets) == 1 else 'all budgets'}: "
                     + ", ".join(f"{b['what']} {b['value']} of {b['limit']}" for b in budgets) + ".")  # fmt: skip
    if grave := sum(f["severity"] in ("error", "warning") for f in findings):
        lines.append(f"{grave} finding{'s' if grave > 1 else ''} about the images may have changed these figures; "
                     "the report lists them.")  # fmt: skip
    return "\n".join(lines)


def _missed(budgets: Sequence[Row]) -> list[str]:
    missed = [f"{b['what']} {b['value']}, allowed {b['limit']}" for b in budgets if not b["met"]]
    return [f"Budget not met: {'; '.join(missed)}."] if missed else []


def _slow(by: Mapping[str, Row], ship: str) -> list[str]:
    if not {"int8", "fp32"} <= by.keys() or _ms(by["int8"]) <= SLOWER * _ms(by["fp32"]):
        return []
    then = "not shipped" if ship != "int8" else "shipped all the same, since fp32 is outside the budgets"
    return [
        f"The int8 file is slower here ({_ms(by['int8']):.2f} ms) than fp32 ({_ms(by['fp32']):.2f} ms) and is {then}."
    ]


def _headline(by: Mapping[str, Row], ship: str) -> str:
    best, teacher = by[ship], by["teacher"]
    said = f"Ship {ship.replace('_', ' ')}: {_percent(best)} {MEANS[best['metric']].format(n=best['n'])}"
    if teacher["value"] is not None:
        said += f", {_gap(best, teacher)} the teacher ({_percent(teacher)})"
    cheaper = [f"{_ms(teacher) / _ms(best):.1f} times as fast"] if teacher["latency_ms"] else []
    smaller = teacher["bytes"] / best["bytes"]
    cheaper.append(f"{smaller:.0f} times smaller" if smaller >= 1.5 else f"{1 / smaller:.2f} times the size")
    return f"{said}, {' and '.join(cheaper)}" + ("." if teacher["value"] is not None else " than the teacher.")


def _gain(by: Mapping[str, Row], pretrained: str) -> list[str]:
    if not {"student", "baseline"} <= by.keys():
        return [f"The student started from {pretrained}."] if pretrained else []
    student, baseline = by["student"], by["baseline"]
    what, both = (f"teacher and pre-training ({pretrained})", "both") if pretrained else ("teacher", "it")
    helped = "" if student["value"] >= baseline["value"] else f" The {what} did not help here: train on the labels."
    return [f"Without the {what} the same student reaches {_percent(baseline)}; with {both} {_percent(student)}."
            f"{helped}{_overlap(student, baseline)}"]  # fmt: skip


def _other(by: Mapping[str, Row], ship: str) -> list[str]:
    """How the off-the-shelf model does, as the smaller of its files."""
    other = by.get("compare_int8") or by.get("compare")
    if not other:
        return []
    best = by[ship]
    faster = _ms(other) / _ms(best)
    told = f"{faster:.1f} times the time" if faster >= 1 else f"{1 / faster:.1f} times as fast"
    return [f"{by['compare']['kind']}, fine-tuned on the same labels, reaches {_percent(other)} ({other['name'].replace('_', ' ')}) in "
            f"{_ms(other):.2f} ms: {_gap(other, best)} what is shipped, {told}.{_overlap(other, best)}"]  # fmt: skip


def _overlap(a: Row, b: Row) -> str:
    apart = a["ci95"][0] > b["ci95"][1] or b["ci95"][0] > a["ci95"][1]
    return "" if apart else f" The 95 % intervals of the two overlap on {a['n']} images."


def _gap(a: Row, b: Row) -> str:
    points = 100 * (a["value"] - b["value"])
    if abs(points) < 0.05:
        return "level with"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _percent(row: Row) -> str:
    return f"{100 * row['value']:.1f} %"


def _ms(row: Row) -> float:
    return row["latency_ms"]["median"]
