"""The entry point: every end of a command is an exit code and, where something went wrong, one sentence."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
import warnings
from typing import NoReturn, Sequence

from .commands import Stopped, app
from .core import worker_signals
from .core.errors import BudgetMissed, MarrowError, ParityError

# A full disk, missing rights, a read-only place: no bug, whatever was being written.
USERS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
RESUMABLE = ("make", "run")
REPLACED = ("--out", "--max-latency", "--max-size", "--max-drop", "--minutes")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command: 0 done, 1 a bug, 2 the user can put it right, 3 a budget or parity failed, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")  # those of other libraries; ours are errors
    # A polite end, as by a batch system, is one like Ctrl-C also where no training is under way.
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(words, prog_name="marrow")
    except Stopped as stopped:
        again = _command(words) if words and words[0] in RESUMABLE else str(stopped)
        _end("interrupted" + (f"; go on with: {again}" if again else ""), 130, debug)
    except ParityError as error:
        _end(f"error: {error}", 3, debug)
    except BudgetMissed as error:
        _end(f"error: {error}; accept the nearest file with: {_accepting(words, error.options)}", 3, debug)
    except MarrowError as error:
        _end(f"error: {error}", 2, debug)
    except OSError as error:
        if error.errno not in USERS_TO_MEND:
            _bug(error, debug)
        _end(f"error: {error.strerror}" + (f": {error.filename}" if error.filename else "") + _kept(words), 2, debug)
    except Exception as error:  # noqa: BLE001, the one place where a bug becomes an exit code
        if os.environ.get("WORLD_SIZE", "1") != "1" and _lost(error):
            _end("error: another process of this run ended, so this one cannot go on", 2, debug)
        if worker_signals.lost(error):
            _end(f"error: data.workers: a process that reads images was ended from outside, perhaps for want of memory "
                 f"({str(error).strip().rstrip('.')}){_kept(words)}", 2, debug)  # fmt: skip
        _bug(error, debug)
    finally:
        signal.signal(signal.SIGTERM, terminated)


def _kept(words: Sequence[str]) -> str:
    """What a run that ended without its fault is continued with."""
    return f"; finished stages are kept, go on with: {_command(words)}" if words[:1] and words[0] in RESUMABLE else ""


def _lost(error: Exception) -> bool:
    from .core.launch import lost

    return lost(error)


def _bug(error: Exception, debug: bool) -> NoReturn:
    again = "" if debug else "; run again with --debug for the traceback"
    _end(f"error: this is a bug in marrow: {type(error).__name__}: {error}{again}", 1, debug)


def _end(sentence: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print(sentence, file=sys.stderr)
    sys.exit(code)


def _accepting(words: Sequence[str], options: Sequence[str]) -> str:
    """The command with other budgets; nothing is trained again."""
    kept, rest = [], iter(words)
    for word in rest:
        if word.partition("=")[0] in REPLACED:
            if "=" not in word:
                next(rest, None)
        elif word != "--resume":
            kept.append(word)
    return shlex.join(["marrow", *kept, *options])


def _command(words: Sequence[str]) -> str:
    return shlex.join(["marrow", *words, *([] if "--resume" in words else ["--resume"])])


if __name__ == "__main__":
    main()
