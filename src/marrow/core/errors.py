"""The one error a user can fix, and how names are suggested."""

import re
from difflib import SequenceMatcher, get_close_matches
from typing import Any, Iterable

MOST_PROBLEMS = 100
LONGEST_LINE = 1000
# What a terminal acts on instead of printing it, but for the line's end; what turns the direction of a text around.
UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


class MarrowError(ValueError):
    """What a user can fix: one plain sentence saying where, what came and what would fit.

    The command prints it without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = ""):
        message, where, hint = shown(message), shown(where), shown(hint)
        self.message, self.where, self.hint = message, where, hint
        ended = message if not hint or message.endswith((".", "?", "!")) else f"{message}."
        super().__init__((f"{where}: " if where else "") + ended + (f" {hint}" if hint else ""))

    @classmethod
    def listing(cls, problems: list[str], where: str) -> "MarrowError":
        """One error for several problems found in one pass; a single problem keeps its own sentence."""
        if len(problems) == 1:
            return cls(problems[0])
        count = f"{len(problems)}" if len(problems) < MOST_PROBLEMS else f"{MOST_PROBLEMS} or more"
        return cls("\n  ".join([f"{count} problems in {where}", *problems[:MOST_PROBLEMS]]))


class ParityError(MarrowError):
    """An exported file disagrees with its model; the command ends with exit code 3."""


class BudgetMissed(MarrowError):
    """Everything is written, but no file is inside the user's budgets; the command ends with exit code 3.

    options: what to give instead so that the nearest file is accepted.
    """

    def __init__(self, message: str, options: tuple[str, ...]):
        super().__init__(message)
        self.options = options


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived; a checkpoint was written and `--resume` goes on from it (exit code 130)."""


def visible(text: str) -> str:
    """A text in which control characters, and such that turn its direction around, are written out as \\u202e."""
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shown(text: str) -> str:
    """A text that may hold parts of a hostile file, as a terminal takes it: visible, and no line without end."""
    lines = visible(text).split("\n")
    return "\n".join(t if len(t) <= LONGEST_LINE else f"{t[: LONGEST_LINE - 200]} ... {t[-150:]}" for t in lines)


def near(word: str, known: Iterable[Any]) -> str:
    """The end of a sentence about an unknown word: the closest known ones, or all when there are few."""
    known = sorted(map(str, known))
    if close := get_close_matches(str(word), known, n=3, cutoff=0.6):
        best, *others = (SequenceMatcher(None, c, str(word)).ratio() for c in close)
        meant = [close[0], *(c for c, ratio in zip(close[1:], others) if ratio > best - 0.2)]
        return "; did you mean " + " or ".join(f"'{c}'" for c in meant) + "?"
    if known and len(known) <= 12:
        return "; known: " + ", ".join(known)
    return ""
