"""What a training takes of the machine."""

import os
import platform
import resource
import subprocess
import sys

import pytest

WHOLE = 48 * 2**20 // resource.getpagesize()  # pages of a block that glibc does not keep by itself
PAGES = """
import resource, torch
from marrow.core.resources import keep_freed_memory
keep_freed_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(12 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(pages() for _ in range(20)))  # what comes between may take a part of the block, so not every time
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_taken_again_unless_the_user_has_settings_of_their_own():
    bare = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}

    def asked_again(**more: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PAGES], env=bare | more, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert asked_again() < WHOLE / 2
    assert asked_again(MALLOC_ARENA_MAX="4") > WHOLE / 2
