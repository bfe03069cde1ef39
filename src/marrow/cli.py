"""The entry point: every end of a command is an exit code and, where something went wrong, one sentence."""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
import warnings
from typing import NoReturn, Sequence

from .commands import Stopped, app
from .core.errors import MarrowError, ParityError

# A full disk, missing rights, a read-only place: no bug, whatever was being written.
USERS_TO_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
RESUMABLE = ("make", "run")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command: 0 done, 1 a bug, 2 the user can put it right, 3 a budget or parity failed, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    if not debug:
        warnings.simplefilter("ignore")  # those of other libraries; ours are errors
    try:
        app(words, prog_name="marrow")
    except Stopped as stopped:
        again = str(stopped) or (_command(words) if words and words[0] in RESUMABLE else "")
        _end("interrupted" + (f"; go on with: {again}" if again else ""), 130, debug)
    except ParityError as error:
        _end(f"error: {error}", 3, debug)
    except MarrowError as error:
        _end(f"error: {error}", 2, debug)
    except OSError as error:
        if error.errno not in USERS_TO_MEND:
            _bug(error, debug)
        _end(f"error: {error.strerror}" + (f": {error.filename}" if error.filename else ""), 2, debug)
    except Exception as error:  # noqa: BLE001, the one place where a bug becomes an exit code
        _bug(error, debug)


def _bug(error: Exception, debug: bool) -> NoReturn:
    again = "" if debug else "; run again with --debug for the traceback"
    _end(f"error: this is a bug in marrow: {type(error).__name__}: {error}{again}", 1, debug)


def _end(sentence: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print(sentence, file=sys.stderr)
    sys.exit(code)


def _command(words: Sequence[str]) -> str:
    return shlex.join(["marrow", *words, *([] if "--resume" in words else ["--resume"])])


if __name__ == "__main__":
    main()
