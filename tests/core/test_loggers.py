"""What is written down about a training, and shown of it."""

import io

import pytest

from marrow.core.loggers import CsvLogger, TensorBoardLogger
from marrow.core.progress import Progress


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
    progress.update(25, 1234.4, 0.31, {"loss": 0.5, "lr": 1e-3})
    progress.close("done")
    return stream.getvalue()


def test_plain_lines_off_a_terminal():
    text = shown(io.StringIO())
    assert "student 25/100" in text and "1234 images/s" in text and "loss 0.5" in text and "data wait 31%" in text
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
