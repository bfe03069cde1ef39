"""The first lines of a report, from rows with figures made up for each case."""

from marrow.make.verdict import shipped, verdict


def row(name, value, milliseconds, size=1000):
    return {"name": name, "value": value, "n": 200, "ci95": [value - 0.02, value + 0.02], "bytes": size,
            "latency_ms": {"median": milliseconds}}  # fmt: skip


def rows(int8=1.0, fp32=2.0, student=0.97):
    return [row("teacher", 0.98, 8.0, 40000), row("baseline", 0.9, 2.0), row("student", student, 2.0),
            row("int8", 0.965, int8, 250), row("fp32", 0.97, fp32)]  # fmt: skip


def test_the_headline_is_the_file_its_cost_and_its_gain():
    lines = verdict(rows(), shipped(rows())).splitlines()
    assert lines[0] == (
        "Ship int8: 96.5 % of 200 test images right, 1.5 points below the teacher (98.0 %), 8.0 times as fast and "
        "160 times smaller."
    )
    assert lines[1] == "Without the teacher the same student reaches 90.0 %; with it 97.0 %."


def test_an_int8_file_that_is_slower_is_the_first_line_and_not_shipped():
    slow = rows(int8=2.2)
    assert shipped(slow) == "fp32"
    first, second, _ = verdict(slow, "fp32").splitlines()
    assert first == "The int8 file is slower here (2.20 ms) than fp32 (2.00 ms) and is not shipped."
    assert second.startswith("Ship fp32: 97.0 %")


def test_five_percent_slower_is_still_worth_its_size():
    assert shipped(rows(int8=2.1)) == "int8"


def test_a_gain_within_the_noise_is_said_to_be_one():
    assert "95 % intervals of the two overlap on 200 images" in verdict(rows(student=0.92), "int8")


def test_a_teacher_that_did_not_help_is_told():
    assert "The teacher did not help here: train on the labels." in verdict(rows(student=0.88), "int8")
    assert "did not help" not in verdict(rows(), "int8")


def test_grave_findings_about_the_images_are_told():
    found = [{"severity": "warning"}, {"severity": "note"}, {"severity": "error"}]
    assert verdict(rows(), "int8", found).splitlines()[-1].startswith("2 findings about the images may have changed")
    assert "finding" not in verdict(rows(), "int8", [{"severity": "note"}])
