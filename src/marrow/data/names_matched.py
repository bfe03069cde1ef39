"""Searches names by a pattern from elsewhere, which may take endless time over a name of thirty letters.

Nothing interrupts a search under way, and no look at a pattern tells for certain how long it takes. So a process of its own
does it, whose computing time the system limits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Sequence

from ..core.errors import MarrowError

SECONDS = 5  # of computing, for all names; the plainest patterns take one a million names
PER_SECOND = 20_000  # names above 100,000 get more

SEARCH = """
import json, re, resource, sys
pattern, names, seconds = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
pattern = re.compile(pattern)
found = (pattern.search(name) for name in names)
json.dump([(match[1 if pattern.groups else 0] or None) if match else None for match in found], sys.stdout)
"""


def matched(pattern: str, names: Sequence[str], where: str) -> list[str | None]:
    """Of each name the pattern's first bracketed part, else all it matches; None where that is nothing."""
    seconds = max(SECONDS, len(names) // PER_SECOND)
    # -I -S: nothing of the user's is imported, and Python starts in a hundredth of a second.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", SEARCH], input=json.dumps([pattern, list(names), seconds]),
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode < 0:
        raise MarrowError(f"'{pattern}' was searched in {len(names)} names for {seconds} seconds without an end.",
                          where=where, hint="Write it without repetitions of repetitions.")  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MarrowError(f"'{pattern}' could not be searched in the names ({reason})", where=where)
    return json.loads(done.stdout)
