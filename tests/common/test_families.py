"""Every method on nets of many families: a step with a gradient on the net, or one sentence about what is missing.

`python -m tests.common.test_families` prints the table that stands in `docs/families.md`.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from marrow.core.catalogue import contract_class, stems
from marrow.core.contracts import Backbone
from marrow.core.errors import MarrowError
from marrow.core.fit_check import lacking

from . import pieces
from .families import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
MISSING = re.compile(r" needs (.+?)(?: from \w+;|;|, and )")
QUICK = ("resnet18", "convnext_femto", "beit_base_patch16_224", "levit_128s", "swin_small_patch4_window7_224")


@cache
def net(name: str) -> Backbone:
    torch.manual_seed(0)
    found = pieces.backbone(name)
    assert "pooled" in found.gives  # which is found out once, and copied along
    return found


def refusal(stem: str, name: str) -> str:
    """The sentence that refuses this net in all roles, before any data is looked at; "" where it fits."""
    cls = contract_class("teach", stem)
    found = pieces.models(cls, net(name))
    for role, words in cls.needs.items():
        if sentence := lacking(stem, role, words, found[role]):
            return sentence
    try:
        cls(**found, **pieces.plain_arguments(cls))
    except MarrowError as error:
        return str(error)
    return ""


def train(stem: str, name: str) -> None:
    """One step through the engine, which refuses losses that are not finite; some weight of the net has a gradient."""
    method = pieces.method(stem, on=net(name))
    reached: set[str] = set()
    inside = {id(p) for m in method.modules() if isinstance(m, Backbone) for p in m.parameters()}
    weights = {n: p for n, p in method.named_parameters() if p.requires_grad}
    for n, parameter in weights.items():
        parameter.register_post_accumulate_grad_hook(lambda p, n=n: reached.add(n) if p.grad.any() else None)
    method.fit(pieces.engine(type(method), steps=1), pieces.data(method.streams))
    if "trains" not in method.exempt:
        assert any(id(weights[n]) in inside for n in reached), f"{stem} moves nothing of {name}"
        assert all(p.isfinite().all() for p in weights.values())


def missing(stem: str, name: str) -> str:
    """What the sentence says is needed, in few words; "" where the net fits."""
    sentence = refusal(stem, name)
    return re.sub(r" \(.*?\)|'", "", MISSING.search(sentence)[1]) if sentence else ""


def row(name: str, methods: list[str]) -> str:
    return f"| `{name}` | " + " | ".join(missing(stem, name) or "runs" for stem in methods) + " |"


def shown() -> list[str]:
    """The methods that the page has a column for."""
    head = next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| net |"))
    return head.strip("| ").split(" | ")[1:]


def table() -> Iterator[str]:
    """Which methods run on all nets, on none, and a row a net for the others."""
    runs = {stem: [name for name in FAMILIES if not refusal(stem, name)] for stem in stems("teach")}
    yield f"On all {len(FAMILIES)} run {', '.join(f'`{s}`' for s, on in runs.items() if len(on) == len(FAMILIES))}."
    for stem in (s for s, on in runs.items() if not on):
        yield f"On none runs `{stem}`, which needs {missing(stem, next(iter(FAMILIES)))}."
    some = [s for s, on in runs.items() if 0 < len(on) < len(FAMILIES)]
    yield from ("", f"| net | {' | '.join(some)} |", "| --- |" + " --- |" * len(some))
    yield from (row(name, some) for name in FAMILIES)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("stem", stems("teach"))
def test_a_step_or_a_sentence(stem, name):
    step_or_sentence(stem, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in QUICK])
@pytest.mark.parametrize("stem", stems("teach"))
def test_a_step_or_a_sentence_on_the_others(stem, name):
    step_or_sentence(stem, name)


def step_or_sentence(stem: str, name: str) -> None:
    if sentence := refusal(stem, name):
        assert MISSING.search(sentence) and name in sentence and "\n" not in sentence, sentence
    else:
        train(stem, name)


@pytest.mark.parametrize("name", QUICK)
def test_the_page_tells_what_runs(name):
    assert row(name, shown()) in PAGE.read_text("utf-8").splitlines()


@pytest.mark.slow
def test_the_page_is_whole():
    assert "\n".join(table()) in PAGE.read_text("utf-8")


if __name__ == "__main__":
    print("\n".join(table()))
