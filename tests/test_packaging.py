"""What is installed: the tested set covers every dependency, and fits the bounds that the package declares."""

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = chain(PROJECT["dependencies"], chain.from_iterable(extras))
    return [r for r in map(Requirement, lines) if r.name != "marrow"]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def test_the_tested_set_pins_every_dependency_within_its_bounds():
    pins = {canonicalize_name(name): version for name, version in pinned().items()}
    wrong = [str(r) for r in declared() if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]
    assert not wrong


def test_the_extra_all_names_every_extra_that_users_install():
    extras = PROJECT["optional-dependencies"]
    [everything] = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "docs"}


def test_the_version_is_said_once():
    from importlib.metadata import version

    assert version("marrow") == PROJECT["version"]
