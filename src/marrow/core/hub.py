"""The Hugging Face hub: whether it answers, and what of it is on this machine already.

huggingface_hub tries every file five times and takes most of a minute to say that there is no network; here one short
question decides beforehand.
"""

from __future__ import annotations

from http.client import HTTPException
from typing import Sequence
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub import constants, try_to_load_from_cache

SECONDS = 5.0


def answers() -> bool:
    """Whether the hub can be reached now; a proxy in the environment is used, HF_HUB_OFFLINE is obeyed."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=SECONDS).close()
    except HTTPError:
        return True  # it refuses the question, so it is there
    except (OSError, HTTPException):
        return False
    return True


def cached(repository: str, names: Sequence[str]) -> str | None:
    """The first of these files that an earlier download left on this machine."""
    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((file for file in found if isinstance(file, str)), None)
