"""What a run and its models cost: layers before and after, expected and taken."""

import re

import pytest

from .sample import Page, cells, layered, sample, written


def test_layers_stand_before_and_after_with_their_sums(tmp_path):
    text = written(tmp_path, sample(layers=layered(3)))
    lines = cells(text, "layers")
    assert lines[0] == ["layer.0", "", "50 %", "1.00 k", "500", "100", "60"]
    assert lines[3] == ["gone", "", "", "50", "–", "5", "–"] and len(lines) == 4
    foot = Page(text.split("<tfoot>")[1].split("</tfoot>")[0]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "1 layers without MACs" in foot and "smaller" not in foot
    assert "50 %6.05 k3.00 k313184" in foot.replace("\n", "")


def test_small_layers_are_summed_up(tmp_path):
    text = written(tmp_path, sample(layers=layered(30)))
    assert text.count('class="minor"') == 11 and "11 smaller layers" in text  # the first ten and the one that is gone
    widths = re.findall(r'class="before" y="0" width="([\d.]+)%"', text)
    assert max(map(float, widths)) == 100 and float(widths[0]) == pytest.approx(100 / 30, abs=0.1)


def test_what_was_expected_stands_beside_what_it_took(tmp_path):
    spent = {"minutes": {"teacher": 2.0, "student": 0.5, "all": 2.5}, "memory": 2_000_000_000, "disk": 5_000_000}
    took = {"minutes": {"teacher": 3.0, "all": 12.5}, "memory": 1_000_000_000, "disk": 5_000_000}
    text = written(tmp_path, sample(estimate=spent, actual=took, minutes={"teacher": 9.0}))
    assert cells(text, "circumstances") == [
        ["teacher", "2.0 min", "3.0 min", "1.5×"],
        ["student", "30 s", "–", ""],
        ["the whole run", "2.5 min", "12.5 min", "5.0×"],
        ["memory", "2.00 GB", "1.00 GB", "0.50×"],
        ["disk", "5.00 MB", "5.00 MB", "1.0×"],
    ]
    assert cells(written(tmp_path, sample(minutes={"teacher": 9.0})), "circumstances") == [["teacher", "9.0 min"]]
