"""The one error a user can fix, and how names are suggested."""

from difflib import get_close_matches
from typing import Iterable


class MarrowError(ValueError):
    """What a user can fix: one plain sentence saying where, what came and what would fit.

    The command prints it without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = ""):
        self.message, self.where, self.hint = message, where, hint
        ended = message if not hint or message.endswith((".", "?", "!")) else f"{message}."
        super().__init__((f"{where}: " if where else "") + ended + (f" {hint}" if hint else ""))

    @classmethod
    def listing(cls, problems: list[str], where: str) -> "MarrowError":
        """One error for several problems found in one pass; a single problem keeps its own sentence."""
        if len(problems) == 1:
            return cls(problems[0])
        return cls("\n  ".join([f"{len(problems)} problems in {where}", *problems]))


class ParityError(MarrowError):
    """An exported file disagrees with its model; the command ends with exit code 3."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived; a checkpoint was written and `--resume` goes on from it (exit code 130)."""


def near(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the closest known ones, or all when there are few."""
    known = sorted(known)
    if close := get_close_matches(str(word), known, n=3, cutoff=0.6):
        return "; did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    if known and len(known) <= 12:
        return "; known: " + ", ".join(known)
    return ""
