"""The first lines of a report, from rows with figures made up for each case."""

from marrow.make.verdict import verdict


def row(name, value, milliseconds, size=1000, metric="top1"):
    return {"name": name, "kind": "net", "metric": metric, "value": value, "n": 200, "bytes": size,
            "ci95": None if value is None else [value - 0.02, value + 0.02], "latency_ms": {"median": milliseconds}}  # fmt: skip


def rows(int8=1.0, fp32=2.0, student=0.97):
    return [row("teacher", 0.98, 8.0, 40000), row("baseline", 0.9, 2.0), row("student", student, 2.0),
            row("int8", 0.965, int8, 250), row("fp32", 0.97, fp32)]  # fmt: skip


def test_the_headline_is_the_file_its_cost_and_its_gain():
    lines = verdict(rows(), "int8").splitlines()
    assert lines[0] == (
        "Ship int8: 96.5 % of 200 test images right, 1.5 points below the teacher (98.0 %), 8.0 times as fast and "
        "160 times smaller."
    )
    assert lines[1] == "Without the teacher the same student reaches 90.0 %; with it 97.0 %."


def test_an_int8_file_that_is_slower_is_the_first_line():
    first, second, _ = verdict(rows(int8=2.2), "fp32").splitlines()
    assert first == "The int8 file is slower here (2.20 ms) than fp32 (2.00 ms) and is not shipped."
    assert second.startswith("Ship fp32: 97.0 %")
    assert "shipped all the same, since fp32 is outside the budgets" in verdict(rows(int8=2.2), "int8")


def test_a_missed_budget_comes_before_everything():
    budgets = [{"what": "latency", "limit": "0.5 ms", "value": "1 ms", "met": False},
               {"what": "size", "limit": "1 MB", "value": "250 B", "met": True}]  # fmt: skip
    lines = verdict(rows(), "int8", budgets=budgets).splitlines()
    assert lines[0] == "Budget not met: latency 1 ms, allowed 0.5 ms." and lines[1].startswith("Ship int8")
    lines = verdict(rows(), "int8", budgets=budgets[1:]).splitlines()
    assert lines[0].startswith("Ship int8") and lines[-1] == "Inside the budget: size 250 B of 1 MB."


def test_without_labels_the_teacher_is_the_measure():
    listed = [row("teacher", None, 8.0, 40000, "agreement"), row("student", 0.95, 2.0, metric="agreement"),
              row("int8", 0.94, 1.0, 250, "agreement"), row("fp32", 0.95, 2.0, metric="agreement"),
              {"name": "baseline", "value": None, "metric": None, "reason": "no labels"}]  # fmt: skip
    assert verdict(listed, "int8") == ("Ship int8: 94.0 % of 200 held-out images answered as the teacher does, 8.0 times as "
                                       "fast and 160 times smaller than the teacher.")  # fmt: skip
    listed[0]["latency_ms"] = None
    assert verdict(listed, "int8").endswith("does, 160 times smaller than the teacher.")


def test_the_off_the_shelf_model_is_compared():
    listed = [*rows(), row("compare", 0.96, 4.0), row("compare_int8", 0.955, 3.0)]
    line = verdict(listed, "int8").splitlines()[2]
    assert line == ("net, fine-tuned on the same labels, reaches 95.5 % (compare int8) in 3.00 ms: 1.0 points below what is "
                    "shipped, 3.0 times the time. The 95 % intervals of the two overlap on 200 images.")  # fmt: skip


def test_a_gain_within_the_noise_is_said_to_be_one():
    assert "95 % intervals of the two overlap on 200 images" in verdict(rows(student=0.92), "int8")


def test_a_teacher_that_did_not_help_is_told():
    assert "The teacher did not help here: train on the labels." in verdict(rows(student=0.88), "int8")
    assert "did not help" not in verdict(rows(), "int8")


def test_grave_findings_about_the_images_are_told():
    found = [{"severity": "warning"}, {"severity": "note"}, {"severity": "error"}]
    assert verdict(rows(), "int8", found).splitlines()[-1].startswith("2 findings about the images may have changed")
    assert "finding" not in verdict(rows(), "int8", [{"severity": "note"}])
