"""Plots as inline SVG: accuracy against latency, curves, and bars for tables. Colours come from the page's style sheet.

Nothing here carries a style attribute: the page forbids inline style, and light and dark share one drawing.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple, Sequence

from markupsafe import Markup

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 40  # margins that hold the tick labels
LETTER = 7.2  # width of an average letter at the plots' font size
LONGEST = 24  # letters of a name; the rest is shown on hover
FLAT = 1e-8  # values that differ by less are drawn as one; ticks keep ten decimals


class Point(NamedTuple):
    """One model in the Pareto plot. value and ends in the plot's unit; area: bytes of its file."""

    name: str
    colour: str  # a class of the style sheet
    latency: float  # milliseconds
    value: float
    ends: tuple[float, float] | None
    area: float | None
    note: str  # shown on hover


class Curve(NamedTuple):
    name: str
    colour: str
    points: Sequence[tuple[float, float]]


class Box(NamedTuple):
    x0: float
    y0: float
    x1: float
    y1: float

    def meets(self, other: "Box") -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1


class Name(NamedTuple):
    """Where a point's name is written; far: so far that a thin line leads to it."""

    x: float
    y: float
    anchor: str
    far: bool


def pareto(points: Sequence[Point], *, width: int, height: int, unit: str, label: str) -> Markup:
    """Value against latency. The area of a disc is the size of the file; the bar through it is the interval.

    The dashed line joins what no other point beats in both directions. Latency is drawn in equal ratios once the
    slowest takes three times as long as the fastest.
    """
    slow, fast = max(p.latency for p in points), min(p.latency for p in points)
    ratio = slow > 3 * fast
    if ratio:
        low_x, high_x = fast / 2.2, slow * 1.45
        ticks_x = ratio_ticks(low_x, high_x)
        across = scale(math.log(low_x), math.log(high_x), LEFT, width - RIGHT, math.log)
    else:
        low_x, high_x = 0.0, slow * 1.2
        ticks_x = nice_ticks(low_x, high_x, 6)
        across = scale(low_x, high_x, LEFT, width - RIGHT)
    values = [v for p in points for v in (p.value, *(p.ends or ()))]
    ticks_y, (low_y, high_y) = value_range(values, height)
    up = scale(low_y, high_y, height - BOTTOM, TOP)

    largest = max((p.area or 0 for p in points), default=0)
    places = [(across(p.latency), up(p.value)) for p in points]
    parts = [frame(width, height, ticks_x, across, ticks_y, up, unit, "latency, ms")]
    best = [(x, y) for (x, y), p in zip(places, points) if not any(beats(q, p) for q in points)]
    if len(best) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(best))
        parts.append(Markup('<polyline class="frontier" points="{}"/>').format(path))
    for (x, y), p in sorted(zip(places, points), key=lambda pair: -(pair[1].area or 0)):
        radius = 26 * math.sqrt(p.area / largest) if p.area and largest else 0
        parts.append(Markup('<g class="{}"><title>{}</title>').format(p.colour, p.note))
        parts.append(Markup('<circle class="disc" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, radius))
        if p.ends:
            low, high = up(p.ends[0]), up(p.ends[1])
            parts.append(Markup('<path class="whisker" d="M{0:.1f} {1:.1f}V{2:.1f}"/>').format(x, low, high))
        parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3.5"/></g>').format(x, y))
    lines = [Box(x - 1, up(p.ends[1]), x + 1, up(p.ends[0])) for (x, y), p in zip(places, points) if p.ends]
    lines += beads(sorted(best))
    for p, (x, y), name in zip(points, places, name_places(points, places, lines, width, height)):
        if name.far:
            leader = Markup('<path class="leader" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>')
            parts.append(leader.format(x, y, name.x, name.y - 4))
        parts.append(Markup('<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
            name.x, name.y, name.anchor, short(p.name)))  # fmt: skip
    return svg(width, height, label, parts)


def curves(lines: Sequence[Curve], *, width: int, height: int, unit: str, x_unit: str, label: str) -> Markup:
    """Lines over steps or percent; the legend is the page's."""
    xs = [x for line in lines for x, _ in line.points]
    ticks_y, (low_y, high_y) = value_range([y for line in lines for _, y in line.points], height)
    low_x, high_x = min(0.0, min(xs)), max(xs) if max(xs) > 0 else 1.0
    across = scale(low_x, high_x, LEFT, width - RIGHT)
    up = scale(low_y, high_y, height - BOTTOM, TOP)
    parts = [frame(width, height, nice_ticks(low_x, high_x, width // 90), across, ticks_y, up, unit, x_unit)]
    for line in lines:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
        parts.append(Markup('<g class="{}"><title>{}</title>').format(line.colour, line.name))
        parts.append(Markup('<polyline class="line" points="{}"/>').format(path))
        x, y = line.points[-1]
        parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="2.5"/></g>').format(across(x), up(y)))
    return svg(width, height, label, parts)


def bar(value: float | None, mark: float | None, colour: str) -> Markup:
    """A share in [0, 1] as a bar in a table's cell, with a tick where another share lies."""
    parts = [Markup('<rect class="track" width="100%" height="8"/>')]
    if value is not None:
        parts.append(Markup('<rect class="fill {}" width="{:.1f}%" height="8"/>').format(colour, 100 * value))
    if mark is not None:
        parts.append(Markup('<rect class="mark" x="{:.1f}%" width="2" height="12" y="-2"/>').format(99 * mark))
    return Markup('<svg class="bar" width="88" height="8" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


def bars(shares: Sequence[float]) -> Markup:
    """Two lengths in [0, 1] above each other: before and after."""
    drawn = [Markup('<rect class="{}" y="{}" width="{:.1f}%" height="6"/>').format(kind, y, 100 * share)
             for kind, y, share in zip(("before", "after"), (0, 7), shares)]  # fmt: skip
    cell = Markup('<svg class="bars" width="150" height="13" aria-hidden="true">{}</svg>')
    return cell.format(Markup("").join(drawn))


def beats(a: Point, b: Point) -> bool:
    """At least as good in both directions, and better in one."""
    return a.latency <= b.latency and a.value >= b.value and (a.latency, a.value) != (b.latency, b.value)


def name_places(
    points: Sequence[Point], places: Sequence[tuple[float, float]], lines: Sequence[Box], width: int, height: int
) -> list[Name]:
    """Where each name goes: near its dot, inside the frame, not on another name or dot, and rather not on a line."""
    dots = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    taken: list[Box] = []
    result = []
    for p, (x, y) in zip(points, places):
        long = LETTER * len(short(p.name))
        choices = []
        for dy in (4, -9, 19, -22, 32, -35, 45, -48, 58, -61, 71, -74):
            for dx in (9, 26, 48, 75):
                for side, anchor in ((1, "start"), (-1, "end")):
                    name = Name(x + side * dx, y + dy, anchor, abs(dx) > 9 or abs(dy - 4) > 18)
                    left = name.x - (long if side < 0 else 0)
                    box = Box(left, name.y - 11, left + long, name.y + 3)
                    outside = box.x0 < LEFT or box.x1 > width - 2 or box.y0 < 0 or box.y1 > height - BOTTOM
                    covered = sum(box.meets(other) for other in (*taken, *dots))
                    crossed = min(3, sum(box.meets(line) for line in lines))
                    cost = 1000 * outside + 200 * covered + 12 * crossed + dx + abs(dy - 4)
                    choices.append((cost, len(choices), name, box))
        _, _, name, box = min(choices)
        taken.append(box)
        result.append(name)
    return result


def short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def beads(line: Sequence[tuple[float, float]], apart: float = 8) -> list[Box]:
    """Small boxes along a polyline, so that no name is written over it."""
    boxes = []
    for (x0, y0), (x1, y1) in zip(line, line[1:]):
        count = max(1, int(math.hypot(x1 - x0, y1 - y0) / apart))
        boxes += [Box(x0 + (x1 - x0) * i / count - 2, y0 + (y1 - y0) * i / count - 2,
                      x0 + (x1 - x0) * i / count + 2, y0 + (y1 - y0) * i / count + 2) for i in range(count + 1)]  # fmt: skip
    return boxes


def frame(
    width: int,
    height: int,
    ticks_x: Sequence[float],
    across: Callable[[float], float],
    ticks_y: Sequence[float],
    up: Callable[[float], float],
    unit: str,
    x_unit: str,
) -> Markup:
    """Horizontal grid lines, tick labels and what the axes mean."""
    base, parts = height - BOTTOM, []
    for t in ticks_y:
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, up(t), width - RIGHT))
        parts.append(Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}{}</text>').format(
            LEFT - 8, up(t) + 4, number(t, ticks_y), "\N{NO-BREAK SPACE}%" if unit == "%" else ""))  # fmt: skip
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, base, width - RIGHT))
    for t in ticks_x:
        parts.append(Markup('<path class="axis" d="M{:.1f} {}v4"/>').format(across(t), base))
        parts.append(Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{:,g}</text>').format(
            across(t), base + 17, t))  # fmt: skip
    parts.append(Markup('<text class="unit" x="{}" y="{}" text-anchor="end">{}</text>').format(
        width - RIGHT, height - 5, x_unit))  # fmt: skip
    return Markup("").join(parts)


def svg(width: int, height: int, label: str, parts: Sequence[Markup]) -> Markup:
    opening = Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">')
    return opening.format(width, height, width, height, label) + Markup("").join(parts) + Markup("</svg>")


def scale(
    low: float, high: float, start: float, end: float, of: Callable[[float], float] = float
) -> Callable[[float], float]:
    """Maps [low, high] to [start, end]; `of` is taken of the value first."""
    return lambda value: start + (of(value) - low) / (high - low) * (end - start)


def value_range(values: Sequence[float], height: int) -> tuple[list[float], tuple[float, float]]:
    """Ticks and the range that they span: values never touch the frame."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 if high - low > FLAT else max(abs(high) * 0.05, FLAT) if high else 1.0
    ticks = nice_ticks(low - room, high + room, max(3, height // 50))
    step = ticks[1] - ticks[0] if len(ticks) > 1 else room
    low, high = min(low - room, ticks[0]), max(high + room, ticks[-1])
    return [t for t in ticks if low - step <= t <= high + step], (low, high)


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """About so many multiples of 1, 2 or 5 times a power of ten inside [low, high]."""
    rough = (high - low) / max(about, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(s for s in (1, 2, 5, 10) if s * power >= 0.8 * rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def ratio_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for p in powers for s in (1, 2, 5) if low <= (t := round(s * 10.0**p, 10)) <= high]


def number(tick: float, ticks: Sequence[float]) -> str:
    """As many decimals as the spacing of the ticks needs."""
    spacing = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else abs(tick) or 1.0
    decimals = max(0, -math.floor(math.log10(spacing) + 1e-9))
    return f"{tick:,.{decimals}f}"
