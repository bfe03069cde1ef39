"""The budgets a user may give: reading them, choosing among files by them, and saying which were met."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Callable, Sequence

from ..core.errors import MarrowError

TIMES = {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3}  # in milliseconds; the two mu are different letters
SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
WRITTEN = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+|nan|inf)(?:e[-+]?\d+)?)\s*([a-zµμ]*)\s*", re.IGNORECASE)
LEAST_MS = 0.01  # a session of ONNX Runtime with one 4 x 2 product takes half of this
LEAST_BYTES = 10_000  # a resnet10t of one channel takes 8,900, nearly all of it the graph
SLOWER = 1.05  # two files whose times are as close as this are equally fast
AGAIN = 1.03  # a latency that is measured again may be this much longer


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that might be shipped. drop: points below the teacher on validation images; None if nothing compares."""

    name: str
    latency_ms: float
    bytes: int
    drop: float | None


@dataclasses.dataclass(frozen=True)
class Budgets:
    """What the result may cost; None is no limit.

    latency: milliseconds of one image on one thread. size: bytes of the shipped file. drop: points of the metric that
    the shipped file may lose against the teacher. minutes: of the whole run.
    """

    latency: float | None = None
    size: int | None = None
    drop: float | None = None
    minutes: float | None = None

    @classmethod
    def read(
        cls,
        latency: str | None = None,
        size: str | None = None,
        drop: float | None = None,
        minutes: float | None = None,
    ) -> "Budgets":
        """The options as typed; one error names all that do not fit."""
        problems: list[str] = []

        def read(option: str, parse: Callable[[Any], float], given: Any) -> float | None:
            try:
                return None if given is None else parse(given)
            except MarrowError as error:
                problems.append(str(MarrowError(error.message, where=option, hint=error.hint)))
                return None

        milliseconds = read("--max-latency", _milliseconds, latency)
        size_bytes = read("--max-size", _bytes, size)
        points = read("--max-drop", _points, drop)
        allowed = read("--minutes", _minutes, minutes)
        if problems:
            raise MarrowError.listing(problems, "the budgets")
        return cls(milliseconds, None if size_bytes is None else int(round(size_bytes, 3)), points, allowed)


def fitting(budgets: Budgets, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those inside all budgets; a drop that is not known is not inside one."""
    return [c for c in candidates if all(excess <= 0 for excess in _excesses(budgets, c))]


def choose(budgets: Budgets, candidates: Sequence[Candidate]) -> Candidate:
    """The fastest inside all budgets, else the one whose worst excess, as a share of the budget, is the smallest.

    Of several that are equally fast but for noise, the smallest file.
    """
    if inside := fitting(budgets, candidates):
        fastest = min(c.latency_ms for c in inside)
        return min((c for c in inside if c.latency_ms <= SLOWER * fastest), key=lambda c: (c.bytes, c.latency_ms))
    return min(candidates, key=lambda c: (_worst(budgets, c), c.latency_ms))


def judged(
    budgets: Budgets, *, latency_ms: float, bytes: int, drop: float | None, minutes: float
) -> list[dict[str, Any]]:
    """One row for each budget that was given: what, limit and value in print, and whether it was met.

    drop: that on the test images. A drop that nothing could be compared for counts as missed: nothing shows it was met.
    """
    found = {"latency": (budgets.latency, latency_ms), "size": (budgets.size, bytes),
             "drop": (budgets.drop, _exact(drop)), "minutes": (budgets.minutes, minutes)}  # fmt: skip
    return [{"what": what, "limit": _text(what, limit, _digits(limit)), "value": _beside(what, value, limit),
             "met": value is not None and value <= limit}
            for what, (limit, value) in found.items() if limit is not None]  # fmt: skip


def accepting(budgets: Budgets, candidate: Candidate, *, drop: float | None = None) -> str:
    """The options that accept a candidate: the budgets given, those that it missed as wide as it needs.

    drop: that on the test images, which the judgement goes by; the candidate's own is that on validation images.
    """
    options = []
    if budgets.latency is not None:
        latency = _kept(budgets.latency, candidate.latency_ms, lambda ms: _up(AGAIN * ms, 2))
        options.append(f"--max-latency {latency:.15g}ms")
    if budgets.size is not None:
        options.append(f"--max-size {_size_option(int(_kept(budgets.size, candidate.bytes, lambda n: _up(n, 2))))}")
    drops = [d for d in (_exact(candidate.drop), _exact(drop)) if d is not None]
    if budgets.drop is not None and drops:
        points = _kept(budgets.drop, max(drops), lambda lost: math.ceil(round(10 * lost, 5)) / 10)
        options.append(f"--max-drop {points:.15g}")
    return " ".join(options)


def _excesses(budgets: Budgets, candidate: Candidate) -> list[float]:
    """How far each budget is missed, as a share of it; zero or less is inside, NaN is not known."""
    found = []
    if budgets.latency is not None:
        found.append(candidate.latency_ms / budgets.latency - 1)
    if budgets.size is not None:
        found.append(candidate.bytes / budgets.size - 1)
    if budgets.drop is not None:
        lost = _exact(candidate.drop)
        # As a share of one point where the budget is less than one: it may be zero.
        found.append(math.nan if lost is None else (lost - budgets.drop) / max(budgets.drop, 1.0))
    return found


def _worst(budgets: Budgets, candidate: Candidate) -> float:
    return max((e for e in _excesses(budgets, candidate) if not math.isnan(e)), default=0.0)


def _milliseconds(text: str) -> float:
    value = _quantity(text, TIMES, "15ms or 0.015s")
    if value < LEAST_MS:
        raise MarrowError(f"'{text}' is less than a runtime takes to answer at all ({LEAST_MS:g}ms)")
    return value


def _bytes(text: str) -> float:
    value = _quantity(text, SIZES, "10MB or 800KiB")
    if value < LEAST_BYTES:
        raise MarrowError(
            f"'{text}' is less than the graph of a small net takes without weights ({LEAST_BYTES // 1000}kB)"
        )
    return value


def _quantity(text: str, units: dict[str, Any], fit: str) -> float:
    match = WRITTEN.fullmatch(text)
    if not match:
        raise MarrowError(f"'{text}' is not a number with a unit; write {fit}")
    number, unit = float(match[1]), match[2]
    if not unit:
        raise MarrowError(f"'{text}' has no unit; write {fit}")
    if unit.lower() not in units:
        raise MarrowError(f"'{text}' has the unknown unit '{unit}'; write {fit}")
    if units is SIZES and unit.endswith("b") and not unit.islower():
        raise MarrowError(f"'{unit}' in '{text}' reads as bits; write {unit[:-1]}B")
    value = number * units[unit.lower()]
    if not (math.isfinite(value) and value > 0):
        raise MarrowError(f"'{text}' is not above 0; write {fit}" if value <= 0 else
                          f"'{text}' is not a finite number; write {fit}")  # fmt: skip
    return value


def _points(value: float) -> float:
    if not 0 <= value <= 100:
        raise MarrowError(f"{value:g} is outside 0 to 100 (points below the teacher); write 1.0")
    return float(value)


def _minutes(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise MarrowError(f"{value:g} is not a number of minutes above 0; write 30")
    return float(value)


def _kept(limit: float, value: float, widened: Callable[[float], float]) -> float:
    return limit if value <= limit else widened(value)


def _up(value: float, digits: int) -> float:
    """The next number with so many significant digits that is not below value."""
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    rounded = math.ceil(value / step - 1e-9) * step
    return float(f"{rounded:.12g}")


def _size_option(n: int) -> str:
    for unit, one in (("MB", 10**6), ("kB", 10**3)):
        if n >= one:
            return f"{n / one:.15g}{unit}"
    return f"{n}B"


def _text(what: str, value: float, digits: int) -> str:
    unit, one = {"latency": "ms", "drop": "points", "minutes": "min"}.get(what, "B"), 1.0
    if what == "size":
        sizes = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
        unit, one = next(((unit, one) for unit, one in sizes if value >= one), ("B", 1.0))
    number = f"{float(f'{value / one:.{digits}g}'):.15g}"
    return f"{number} {'point' if (number, unit) == ('1', 'points') else unit}"


def _digits(value: float) -> int:
    """Enough to print a limit as it was given."""
    return next(d for d in range(3, 18) if float(f"{value:.{d}g}") == value or d == 17)


def _beside(what: str, value: float | None, limit: float) -> str:
    """A value with three digits, or more where three would put it on its limit's other side."""
    if value is None:
        return "cannot be measured"
    fits = (d for d in range(3, 18) if (float(f"{value:.{d}g}") > limit) == (value > limit))
    return _text(what, value, next(fits, 17))


def _exact(points: float | None) -> float | None:
    """Without what subtracting two shares leaves behind: 98 % less 97 % is 1 point and not 1.0000000000000009."""
    return None if points is None else round(points, 6)
