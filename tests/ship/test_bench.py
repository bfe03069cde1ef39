"""Latency rows: what is measured, how often, against what."""

import pytest
import torch

from marrow.core.artifact import save
from marrow.core.contracts import Report
from marrow.core.errors import MarrowError
from marrow.ship.bench import SLOWER, bench
from marrow.ship.int8 import Int8
from marrow.ship.onnx import Onnx


@pytest.fixture(scope="module")
def artifacts(classifier, engine, streams, tmp_path_factory) -> dict:
    """A task and its two files."""
    folder, task = tmp_path_factory.mktemp("bench"), classifier("resnet10t")
    made = {"task": save(folder / "task", task)}
    for name, exporter in (("fp32", Onnx(parity_images=4)), ("int8", Int8(calibration_images=16, parity_images=16))):
        facts = {}

        def fill(place, exporter=exporter, facts=facts):
            facts.update(exporter.export({"model": task}, streams, engine, place))

        made[name] = save(folder / name, facts, parents=[made["task"].hash], fill=fill)
    return made


def test_one_row_a_thing_in_order_each_in_its_runtime(artifacts):
    threads = torch.get_num_threads()
    rows = bench(
        [artifacts["task"], artifacts["fp32"].path, artifacts["int8"]], threads=1, batch=2, rounds=3, seconds=0.05
    )
    assert torch.get_num_threads() == threads
    assert [(r["name"], r["runtime"], r["precision"]) for r in rows[:3]] == [
        ("task", "torch", "fp32"), ("fp32", "onnxruntime", "fp32"), ("int8", "onnxruntime", "int8")]  # fmt: skip
    for row in rows:
        assert row["runs"] >= 50 and 0 < row["median"] <= row["p90"]
        assert (row["threads"], row["batch"]) == (1, 2) and row["version"][0].isdigit()
    assert rows[2]["bytes"] < 0.35 * rows[1]["bytes"]


def test_int8_is_set_against_the_fp32_file_of_the_same_model(artifacts):
    fp32, int8 = bench([artifacts["fp32"], artifacts["int8"]], rounds=1, seconds=0.05)[:2]
    assert fp32["over_fp32"] is None and fp32["note"] == ""
    assert int8["over_fp32"] == pytest.approx(int8["median"] / fp32["median"])
    assert (int8["note"] != "") == (int8["over_fp32"] > SLOWER)
    assert bench([artifacts["int8"]], rounds=1, seconds=0.05)[0]["over_fp32"] is None


def test_measuring_goes_on_for_the_seconds_asked_for(artifacts):
    few, many = (bench([artifacts["fp32"]], rounds=2, seconds=s)[0]["runs"] for s in (0.0, 0.3))
    assert few == 50 < many


def test_what_does_not_run_is_refused(tmp_path):
    report = save(tmp_path / "report", Report([{"metric": "x", "value": 1.0}]))
    with pytest.raises(MarrowError, match="an artifact of kind report does not run"):
        bench([report])
    with pytest.raises(MarrowError, match="nothing to measure"):
        bench([])
