"""How far a training is: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import Any, TextIO

from .resources import peak_bytes, usual_workers

LIVE_SECONDS, LINE_SECONDS = 0.2, 10.0
LONG_WAIT = 0.3  # share of the time
MANY_STEPS = 50  # in fewer, starting the workers is what takes the time


class Progress:
    """Shows step, time left, images/s, loss, learning rate, peak memory and the share of time spent waiting for data.

    Writes to standard error unless given another stream; rich is loaded only on a terminal and respects NO_COLOR.
    """

    def __init__(self, title: str = "training", stream: TextIO | None = None):
        self.title, self._stream = title, stream or sys.stderr
        self._live: Any = None
        self.due = float("inf")

    def beside(self, work: str) -> "Progress":
        """A line of its own for work that the training waits for."""
        return Progress(f"{self.title}, {work}", self._stream)

    def say(self, sentence: str) -> None:
        """One line that stays, before the start."""
        print(f"{self.title}: {sentence}", file=self._stream, flush=True)

    def start(self, step: int, total: int, advice: str = "") -> None:
        """due: when `update` is worth calling again, in seconds of `time.monotonic`. advice: against waiting for data."""
        self._first, self._total, self._began = step, total, monotonic()
        self._waiting, self._done, self._advice = 0.0, 0, advice
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False)
            self._live.start()
        self.due = self._began

    def update(self, step: int, rate: float, waiting: float, values: dict[str, float]) -> None:
        """rate: examples a second. waiting: share of the time in [0, 1]. values: what was logged last."""
        now = monotonic()
        done = step - self._first
        left = f"{_span((now - self._began) / done * (self._total - step))} left" if done else "starting"
        parts = [f"{self.title} {step}/{self._total}", left, f"{rate:.0f} images/s"]
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        self._show("  ".join([*parts, f"memory {peak_bytes() / 1e9:.1f} GB", f"data wait {waiting:.0%}"]))
        self._waiting, self._done = waiting, done
        self.due = now + (LIVE_SECONDS if self._live else LINE_SECONDS)

    def close(self, words: str) -> None:
        """Says how it ended, and what to change where it mostly waited; nothing is shown of what never started."""
        if self.due == float("inf"):
            return
        self._show(f"{self.title} {words} after {_span(monotonic() - self._began)}")
        if self._live:
            self._live.stop()
            self._live = None
        if self._waiting > LONG_WAIT and self._done >= MANY_STEPS:
            self._show(f"{self.title} waited for data {self._waiting:.0%} of the time. {self._advice}")
        self.due = float("inf")

    def _show(self, line: str) -> None:
        if self._live:
            from rich.text import Text

            self._live.update(Text(line, overflow="ellipsis", no_wrap=True), refresh=True)
        else:
            print(line, file=self._stream, flush=True)


def against_waiting(workers: int, device_type: str) -> str:
    """What helps a training that waits for its data."""
    better = usual_workers(device_type, os.cpu_count() or 1)
    if workers < better:
        return f"Set data.workers to {better}; it is {workers}."
    return "Images stored at about the size that the model sees are read faster."


def _span(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
