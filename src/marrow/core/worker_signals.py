"""Signals in the processes that read images: they end when their run does, and not before."""

from __future__ import annotations

import os
import signal
import threading


def only_for_the_parent(worker: int) -> None:
    """Called in a loader's worker: Ctrl-C is ignored, and SIGTERM unless it is how the loader itself ends its workers.

    Terminals, containers and batch systems signal every process of a run, together or one by one, and the step under way
    still needs its batch before a checkpoint can be written.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # it alone tells who sent a signal; macOS lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for, args=(os.getppid(),), daemon=True).start()
    else:
        os.setpgid(0, 0)  # at least signals to the whole group pass by


def _wait_for(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def lost(error: BaseException) -> bool:
    """Whether torch says with it that a worker is gone; it has no class of its own for that."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
