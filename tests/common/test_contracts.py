"""Every class of the catalogue: what its signature and docstring promise, and how many exceptions the house has."""

import inspect
import re
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from marrow.core.catalogue import contract_class
from marrow.core.contracts import Backbone, Method, Task, signature_of
from marrow.core.signature import REQUIRED, signature

from . import pieces

ROOT = Path(__file__).parents[2]
PLAIN = (int, float, str, bool, type(None))


def plain(hint: object) -> bool:
    """int | float | str | bool | None, Literal, and tuples, lists or dicts of these."""
    if get_origin(hint) is Literal or hint in PLAIN or hint is Ellipsis:
        return True
    return bool(get_args(hint)) and all(plain(inner) for inner in get_args(hint))


@pytest.mark.parametrize(("folder", "stem"), pieces.every_stem())
def test_the_constructor_is_models_and_then_plain_values(folder, stem):
    cls = contract_class(folder, stem)
    hints = get_type_hints(cls.__init__)
    for name, parameter in signature_of(cls).items():
        assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), f"{name}: no *args or **kwargs"
        assert name in hints, f"{name} has no type"
        is_model = hints[name] in (Backbone, Task, Method)
        assert is_model or plain(hints[name]), f"{name}: {hints[name]} is no plain type"
        if folder == "teach" and not is_model:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{name} stands before the star"


@pytest.mark.parametrize(("folder", "stem"), pieces.every_stem())
def test_the_static_pass_reads_what_inspect_sees(folder, stem):
    cls, read = contract_class(folder, stem), signature(folder, stem)
    seen = signature_of(cls)
    assert list(read.arguments) == list(seen)
    for name, argument in read.arguments.items():
        default = seen[name].default
        assert argument.default is REQUIRED if default is inspect.Parameter.empty else argument.default == default, name
        assert argument.annotation == seen[name].annotation, name
    assert read.name == cls.__name__
    for attribute in ("needs", "streams", "players"):
        if hasattr(cls, attribute):
            assert getattr(read, attribute) == getattr(cls, attribute), attribute


@pytest.mark.parametrize(("folder", "stem"), pieces.every_stem())
def test_the_first_line_says_what_it_is(folder, stem):
    cls = contract_class(folder, stem)
    first = cls.__doc__.strip().split("\n\n")[0]
    assert first.endswith((".", ":")), first
    if (ROOT / "claims" / f"{stem}.py").is_file():
        text = f"{sys.modules[cls.__module__].__doc__} {cls.__doc__}"
        assert re.search(r"\b(19|20)\d\d\b", text), "no paper with its year"


def test_exceptions_are_few_and_have_a_reason():
    found = []
    for folder, stem in pieces.every_stem():
        exempt = getattr(contract_class(folder, stem), "exempt", {})
        found += [f"{folder}/{stem} is exempt from '{check}': {reason}" for check, reason in exempt.items()]
    print("\n".join(found))
    assert len(found) <= 5, found
    assert all(len(line.split(": ", 1)[1]) > 10 for line in found), found
