"""A source whose examples say which domain they are from."""

from __future__ import annotations

from ..core.source import Source
from .combine import Wrapped


class OfDomain(Wrapped):
    """The same examples with the field `domain`, a name; a test condition by which rows are grouped."""

    def __init__(self, base: Source, domain: str):
        super().__init__(base)
        self.domain = domain

    def __getitem__(self, index: int) -> dict:
        return {**self.base[index], "domain": self.domain}

    def undecoded(self, index: int) -> dict:
        return {**self.base.undecoded(index), "domain": self.domain}
