"""The plots' geometry: what is further up is better, areas are sizes, names do not cover each other."""

import re
from xml.etree import ElementTree

import pytest

from marrow.ship import plots
from marrow.ship.plots import Box, Curve, Point


def drawn(points, **size):
    return ElementTree.fromstring(
        plots.pareto(points, **{"width": 860, "height": 400, **size}, unit="%", label="a plot")
    )


def dots(svg) -> list[tuple[float, float]]:
    return [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle") if c.get("class") == "dot"]


POINTS = [
    Point("teacher", "teacher", 2.1, 98.6, (97.1, 99.3), 44e6, "teacher"),
    Point("baseline", "baseline", 0.452, 96.4, (94.4, 97.7), 11e6, "baseline"),
    Point("student", "student", 0.45, 98.5, (97.0, 99.3), 11e6, "student"),
]


def test_positions_follow_value_and_latency():
    places = dict(zip(["teacher", "baseline", "student"], dots(drawn(POINTS))))  # largest file first, as in POINTS
    assert places["teacher"][0] > places["baseline"][0] > places["student"][0]
    assert places["teacher"][1] < places["student"][1] < places["baseline"][1]


def test_equal_ratios_are_equal_distances_when_latencies_differ_much():
    a, b, c = (x for x, _ in dots(drawn([POINTS[0]._replace(latency=t) for t in (0.1, 1.0, 10.0)])))
    assert b - a == pytest.approx(c - b, abs=0.2)


def test_the_area_of_a_disc_is_the_size_of_the_file():
    radii = [float(c.get("r")) for c in drawn(POINTS).iter("circle") if c.get("class") == "disc"]
    assert (radii[0] / radii[1]) ** 2 == pytest.approx(4, rel=0.02)


def test_the_dashed_line_joins_what_nothing_beats():
    line = next(p for p in drawn(POINTS).iter("polyline") if p.get("class") == "frontier")
    assert len(line.get("points").split()) == 2  # student and teacher; the baseline is beaten by the student


def names(svg) -> list[Box]:
    boxes = []
    for t in svg.iter("text"):
        if t.get("class") == "name":
            x, y, long = float(t.get("x")), float(t.get("y")), plots.LETTER * len(t.text)
            left = x - (long if t.get("text-anchor") == "end" else 0)
            boxes.append(Box(left, y - 11, left + long, y + 3))
    return boxes


CHAIN = [("teacher", 212.0, 98.1), ("baseline", 9.6, 90.2), ("student", 9.7, 95.1), ("pruned, fp32", 6.8, 94.6),
         ("int8", 4.1, 93.8), ("student, int8", 5.6, 94.5), ("compare", 5.9, 92.1), ("compare, int8", 4.6, 90.8)]  # fmt: skip


@pytest.mark.parametrize("width", [860, 350])
@pytest.mark.parametrize("crowd", [[(f"model {i}", 1 + i / 50, 90 + i / 10) for i in range(6)], CHAIN])
def test_names_stay_inside_and_apart(width, crowd):
    points = [Point(name, "c0", ms, value, (value - 1, value + 1), 1e6, "") for name, ms, value in crowd]
    svg = drawn(points, width=width)
    boxes = names(svg)
    assert len(boxes) == len(crowd)
    assert all(b.x0 >= 0 and b.x1 <= width for b in boxes)
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.meets(b)]
    on_dots = [(x, y) for x, y in dots(svg) for b in boxes if b.meets(Box(x - 3, y - 3, x + 3, y + 3))]
    assert not on_dots


def test_a_line_leads_to_a_name_that_is_far_from_its_dot():
    near, far = (drawn([Point(f"model {i}", "c0", 1, 90 + i * step, None, 1e6, "") for i in range(9)] + [POINTS[0]])
                 for step in (1, 0.01))  # fmt: skip
    assert not [p for p in near.iter("path") if p.get("class") == "leader"]
    assert [p for p in far.iter("path") if p.get("class") == "leader"]


def test_bars_are_shares_of_their_width():
    bar = ElementTree.fromstring(plots.bar(0.25, 0.5, "int8"))
    assert [(r.get("class"), r.get("x"), r.get("width")) for r in bar.iter("rect")] == [
        ("track", None, "100%"), ("fill int8", None, "25.0%"), ("mark", "49.5%", "2")]  # fmt: skip
    assert len(list(ElementTree.fromstring(plots.bar(None, None, "int8")).iter("rect"))) == 1
    assert [r.get("width") for r in ElementTree.fromstring(plots.bars([1, 0.5])).iter("rect")] == ["100.0%", "50.0%"]


def test_a_single_flat_curve_has_a_scale():
    svg = plots.curves(
        [Curve("loss", "c0", [(0, 0.5), (10, 0.5)])], width=300, height=200, unit="", x_unit="", label="l"
    )
    assert "nan" not in svg and re.search(r'class="line" points="\d', svg)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (94.1, 99.4), (0.00012, 0.00034), (-3.0, 40.0)])
def test_ticks_are_round_and_inside(low, high):
    ticks = plots.nice_ticks(low, high, 5)
    assert 3 <= len(ticks) <= 11
    assert all(low <= t <= high for t in ticks)
    assert len({plots.number(t, ticks) for t in ticks}) == len(ticks)


@pytest.mark.parametrize("values", [[7.4e-16, 1.4e-15], [-1e-12, 0.0], [0.0], [3.0], [1e-9, 0.5], [1e6, 1e6 + 1e-9]])
def test_values_that_hardly_differ_have_ticks_that_do(values):
    ticks, (low, high) = plots.value_range(values, 200)
    assert low < min(values) and max(values) < high
    assert len(set(ticks)) == len(ticks) >= 2
    assert all(plots.number(a, ticks) != plots.number(b, ticks) for a, b in zip(ticks, ticks[1:]))
    line = plots.Curve("net", "student", [(float(i), v) for i, v in enumerate(values)])
    assert "nan" not in plots.curves([line], width=400, height=200, unit="", x_unit="step", label="x")
