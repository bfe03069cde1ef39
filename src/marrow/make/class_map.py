"""`--class-map`: which of the user's classes each of the teacher's classes is."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import yaml

from ..core.errors import MarrowError, near

OPTION = "--class-map"
SHOWN = 5  # problems; a map of a thousand classes with the wrong names has a thousand


def read(path: str, teacher: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """For each of the teacher's classes the number of one of `classes`, or -1.

    The file is a YAML or JSON mapping from the teacher's names (or numbers, from 0) to the data's; null, or not to be
    mentioned, drops a class. Every class of the data needs one of the teacher's. All problems are raised at once.
    """
    found = [-1] * len(teacher)
    problems = []
    for key, value in _mapping(path).items():
        number = list(teacher).index(key) if key in teacher else int(key) if key.isdigit() else -1
        if not 0 <= number < len(teacher):
            problems.append(f"{OPTION}: the teacher has no class '{key}'{near(key, teacher)}")
        elif value is not None and value not in classes:
            problems.append(f"{OPTION}: the data has no class '{value}'{near(value, classes)}")
        elif value is not None:
            found[number] = list(classes).index(value)
    if not problems and (left := [c for i, c in enumerate(classes) if i not in found]):
        problems.append(f"{OPTION}: no class of the teacher stands for '{left[0]}'"
                        + (f" and {len(left) - 1} more" if len(left) > 1 else ""))  # fmt: skip
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise MarrowError.listing([*problems[:SHOWN], *more], path)
    return tuple(found)


def _mapping(path: str) -> dict[str, str | None]:
    """The lines of the file; keys and values are names, whatever else YAML would make of `9` or `no`."""
    file = Path(path)
    if not file.is_file():
        raise MarrowError(f"no file {path}", where=OPTION)
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _no_map(f"{path} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise _no_map(f"{path} is not a mapping")
    found: dict[str, str | None] = {}
    for key, value in root.value:
        line = f"line {key.start_mark.line + 1} of {path}"
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            raise _no_map(f"{line} does not name one class and one other")
        if key.value in found:
            raise _no_map(f"{line} names '{key.value}' again")
        found[key.value] = None if value.value in ("", "~", "null") and value.style is None else value.value
    return found


def _no_map(problem: str) -> MarrowError:
    return MarrowError(f"{problem}; a class map has lines such as 'tabby: cat', the teacher's class and then the data's",
                       where=OPTION)  # fmt: skip
