"""Ctrl-C and SIGTERM as a flag that the loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AT_ONCE = 1.0  # seconds: one Ctrl-C comes twice where a terminal and a launcher both pass it on


class Interrupts:
    """`with Interrupts() as caught: ... if caught.any`. A second Ctrl-C does not wait for the step; a second SIGTERM does.

    Only the main thread may handle signals; elsewhere nothing is caught. The old handlers come back at the end.
    """

    any = False

    def __enter__(self) -> "Interrupts":
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._caught) for s in SIGNALS}
        return self

    def _caught(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if not self.any:
            self.any, self._since = True, now
        elif number == signal.SIGINT and now - self._since > AT_ONCE:
            raise KeyboardInterrupt

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


@contextmanager
def held() -> Iterator[None]:
    """Around calls of libraries that swallow a KeyboardInterrupt, or are broken after one: it is raised when they end."""
    with Interrupts() as caught:
        yield
    if caught.any:
        raise KeyboardInterrupt
