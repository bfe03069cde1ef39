"""Sources, splits and views of data."""

from .check import check_labelled
from .classes import class_counts, imbalanced
from .open import open_source, open_sources, splits_of

__all__ = ["check_labelled", "class_counts", "imbalanced", "open_source", "open_sources", "splits_of"]
