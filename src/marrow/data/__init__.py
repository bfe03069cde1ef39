"""Sources, splits and views of data."""

from .check import check_labelled
from .open import open_source, open_sources, splits_of

__all__ = ["check_labelled", "open_source", "open_sources", "splits_of"]
