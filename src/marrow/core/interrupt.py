"""Ctrl-C and SIGTERM as a flag that the loop reads between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """`with Interrupts() as caught: ... if caught.any`. A second Ctrl-C does not wait for the step.

    Only the main thread may handle signals; elsewhere nothing is caught. The old handlers come back at the end.
    """

    any = False

    def __enter__(self) -> "Interrupts":
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._caught) for s in SIGNALS}
        return self

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self.any:
            raise KeyboardInterrupt
        self.any = True

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
