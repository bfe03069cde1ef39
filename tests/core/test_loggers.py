"""What is written down about a training, and shown of it."""

import io
import re
from pathlib import Path

import pytest

from marrow.core.loggers import CsvLogger, TensorBoardLogger
from marrow.core.progress import Progress, against_waiting
from marrow.core.resources import peak_bytes, usual_workers


def test_csv_is_cut_back_and_goes_on(tmp_path):
    path = tmp_path / "logs" / "a.csv"
    log = CsvLogger(path)
    for step in (10, 20, 30):
        log.log(step, {"loss": step / 7, "lr": 0.1})
    log.close()
    with path.open("a") as file:
        file.write("30,val/to")  # a kill in the middle of a line
    again = CsvLogger(path)
    again.cut(20)
    again.log(30, {"loss": 30 / 7, "lr": 0.1})
    again.close()
    lines = path.read_text().splitlines()
    assert lines[0] == "step,name,value"
    assert [line.split(",")[0] for line in lines[1:]] == ["10", "10", "20", "20", "30", "30"]
    assert float(lines[5].split(",")[2]) == 30 / 7


def test_tensorboard_holds_the_values(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLogger(tmp_path)
    log.log(1, {"loss": 0.5})
    log.log(2, {"loss": 0.25})
    log.cut(1)
    log.log(2, {"loss": 0.125})
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(1, 0.5), (2, 0.125)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream):
    progress = Progress("student", stream)
    progress.start(0, 100)
    progress.update(25, 1234.4, 0.29, {"loss": 0.5, "lr": 1e-3})
    progress.close("done")
    return stream.getvalue()


def test_plain_lines_off_a_terminal():
    text = shown(io.StringIO())
    assert "student 25/100" in text and "1234 images/s" in text and "loss 0.5" in text and "data wait 29%" in text
    assert re.search(r"memory \d+\.\d GB", text) and "memory 0.0 GB" not in text
    assert "left" in text and text.endswith("student done after 0:00\n")
    assert "\x1b" not in text


def test_a_live_line_on_a_terminal_without_colour_when_asked(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Terminal())
    assert "student 25/100" in text and "\x1b[" in text  # the cursor moves
    assert "\x1b[3" not in text  # and nothing is coloured


def test_updates_are_due_seldom():
    progress = Progress("x", io.StringIO())
    progress.start(0, 10)
    before = progress.due
    progress.update(1, 1.0, 0.0, {})
    assert progress.due >= before + 10


def ended(steps, waiting, stream):
    progress = Progress("student", stream)
    progress.start(0, steps, against_waiting(0, "cuda"))
    progress.update(steps, 1.0, waiting, {})
    progress.close("done")
    return stream.getvalue().splitlines()[-1]


def test_a_long_wait_for_data_is_told_with_what_to_change():
    told = r"student waited for data 46% of the time. Set data.workers to [1-8]; it is 0."
    assert re.fullmatch(told, ended(100, 0.46, io.StringIO())) and re.search(told, ended(100, 0.46, Terminal()))
    for steps, waiting in ((100, 0.29), (10, 0.46)):  # ten steps are mostly start-up
        assert ended(steps, waiting, io.StringIO()) == "student done after 0:00"
    assert "Images stored" in against_waiting(8, "cuda")


@pytest.mark.parametrize("device, cores, workers", [("cpu", 1, 0), ("cpu", 2, 1), ("cpu", 64, 4), ("cuda", 2, 2),
                                                    ("cuda", 64, 8)])  # fmt: skip
def test_usual_workers(device, cores, workers):
    assert usual_workers(device, cores) == workers


def test_peak_memory_is_what_the_system_counts():
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("no /proc/self/status here")
    counted = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    assert 0.95 * counted <= peak_bytes() <= 1.05 * counted
