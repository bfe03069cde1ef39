"""What the fuzzer found once, and the inputs that reach most of the code: each is taken, or refused in a sentence."""

import pytest

from marrow.core.errors import MarrowError

from .fuzz import CORPUS, TARGETS
from .inputs import soon

INPUTS = sorted(p for target in TARGETS for p in (CORPUS / target).iterdir())


@pytest.mark.parametrize("file", INPUTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_it_ends_well_or_in_a_sentence(file, tmp_path):
    with soon():
        try:
            TARGETS[file.parent.name](file.read_bytes(), tmp_path)
        except MarrowError as error:
            assert str(error)


def test_the_corpus_is_small_and_whole():
    assert sum(p.stat().st_size for p in INPUTS) < 300_000
    assert all(len(list((CORPUS / target).iterdir())) > 10 for target in TARGETS)
