"""What a run cost and what its models cost, for its page: expected and taken, each layer before and after."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Sequence

from . import plots, quantity

MAJOR = 20  # layers that are shown at once


def layers(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The costliest layers in the net's order with paired bars, the others folded, and all sums."""
    if not given or not given["rows"]:
        return None
    computed = [row for row in given["rows"] if any(row["macs"])]
    ranked = sorted(range(len(computed)), key=lambda i: -_largest(computed[i]))
    major = set(ranked[:MAJOR])
    longest = max((_largest(row) for row in computed), default=1)
    minor = [row for i, row in enumerate(computed) if i not in major]
    still = [row for row in given["rows"] if not any(row["macs"])]
    return {
        "of": [quantity.called(name) for name in given["of"]],
        "rows": [{**_layer(row), "name": row["name"], "kind": row["kind"], "minor": i not in major,
                  "bars": plots.bars([(n or 0) / longest for n in row["macs"]])} for i, row in enumerate(computed)],
        "minor": {"count": len(minor), **_layer(_sum(minor))} if minor else None,
        "still": {"count": len(still), **_layer(_sum(still))} if still else None,
        "all": _layer(_sum(given["rows"])),
    }  # fmt: skip


def _largest(row: Mapping[str, Any]) -> int:
    return max(n or 0 for n in row["macs"])


def _sum(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    return {what: [sum(row[what][side] or 0 for row in rows) for side in (0, 1)] for what in ("macs", "params")}


def _layer(row: Mapping[str, Any]) -> dict[str, Any]:
    before, after = row["macs"]
    left = f"{100 * after / before:.0f}\N{NO-BREAK SPACE}%" if before and after is not None else ""
    return {"macs": [quantity.count(n) for n in row["macs"]], "params": [quantity.count(n) for n in row["params"]],
            "left": left}  # fmt: skip


def taken(
    estimate: Mapping[str, Any] | None, actual: Mapping[str, Any] | None, minutes: Mapping[str, float] | None
) -> dict[str, Any] | None:
    """What was expected beside what it took, with the ratio; only one of the two where the other is not known."""
    expected, took = dict(_flat(estimate or {})), dict(_flat(actual or {"minutes": minutes or {}}))
    keys = sorted({**took, **expected}, key=lambda key: (key[0] != "minutes", "all" in key))
    rows = []
    for key in keys:
        a, b = expected.get(key), took.get(key)
        ratio = quantity.ratio(b / a) if _number(a) and _number(b) and a else ""
        rows.append({"what": _said(key), "expected": _told(key, a), "taken": _told(key, b), "ratio": ratio,
                     "total": "all" in key})  # fmt: skip
    if not rows:
        return None
    return {"rows": rows, "expected": bool(expected), "taken": bool(took)}


def _flat(given: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from (((name, str(inner)), v) for inner, v in value.items())
        else:
            yield (name,), value


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _said(key: tuple[str, ...]) -> str:
    match key:
        case ("minutes", "all"):
            return "the whole run"
        case ("minutes", stage):
            return quantity.called(stage)
    return quantity.words(" ".join(key))


def _told(key: tuple[str, ...], value: Any) -> str:
    if value is None or not _number(value):
        return quantity.plain(value)
    if key[0] == "minutes":
        return quantity.minutes(value)
    return quantity.size(value) if key in (("memory",), ("disk",)) else quantity.plain(value)
