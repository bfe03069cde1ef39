"""What a report says first: which file to ship, and what it costs against the teacher and gains over the baseline."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

SLOWER = 1.05  # an int8 file that takes this much of the fp32 file's time is not worth its error


def shipped(rows: Sequence[Mapping[str, Any]]) -> str:
    """The row to ship: the int8 file unless it is slower than the fp32 one."""
    by = {r["name"]: r for r in rows}
    return "int8" if _ms(by["int8"]) <= SLOWER * _ms(by["fp32"]) else "fp32"


def verdict(rows: Sequence[Mapping[str, Any]], ship: str, findings: Sequence[Mapping[str, Any]] = ()) -> str:
    """Two to four sentences, a line each; the first is the headline. findings: what was found about the images."""
    by = {r["name"]: r for r in rows}
    best, teacher, baseline = by[ship], by["teacher"], by["baseline"]
    lines = []
    if ship != "int8":
        lines.append(f"The int8 file is slower here ({_ms(by['int8']):.2f} ms) than fp32 ({_ms(by['fp32']):.2f} ms) and is "
                     "not shipped.")  # fmt: skip
    lines.append(
        f"Ship {ship}: {_percent(best)} of {best['n']} test images right, {_gap(best, teacher)} the teacher "
        f"({_percent(teacher)}), {_ms(teacher) / _ms(best):.1f} times as fast and "
        f"{teacher['bytes'] / best['bytes']:.0f} times smaller."
    )
    student = by["student"]
    helped = "" if student["value"] > baseline["value"] else " The teacher did not help here: train on the labels."
    lines.append(f"Without the teacher the same student reaches {_percent(baseline)}; "
                 f"with it {_percent(student)}.{helped}{_overlap(student, baseline)}")  # fmt: skip
    if grave := sum(f["severity"] in ("error", "warning") for f in findings):
        lines.append(f"{grave} finding{'s' if grave > 1 else ''} about the images may have changed these figures; "
                     "the report lists them.")  # fmt: skip
    return "\n".join(lines)


def _overlap(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    apart = a["ci95"][0] > b["ci95"][1] or b["ci95"][0] > a["ci95"][1]
    return "" if apart else f" The 95 % intervals of the two overlap on {a['n']} images."


def _gap(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    points = 100 * (a["value"] - b["value"])
    if abs(points) < 0.05:
        return "level with"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['value']:.1f} %"


def _ms(row: Mapping[str, Any]) -> float:
    return row["latency_ms"]["median"]
