"""What a method that wraps another one asks of it."""

from __future__ import annotations

from .contracts import Method, stem_of
from .errors import MarrowError


def check_inner(inner: Method, wrapper: str) -> None:
    """Raise unless the method's step is its `score` of what it embeds, from one stream, by one optimiser.

    Whatever that stream is called, the stage's own is 'train'.
    """
    stem = stem_of(type(inner))
    if "embedding-loss" not in inner.gives:
        raise MarrowError(f"{stem} gives no 'embedding-loss': its loss is not one of embeddings that could be taken apart",
                          where=f"{wrapper}.inner", hint="supervised, ssld and cvrl give one.")  # fmt: skip
    if len(inner.streams) != 1 or inner.players != ("main",) or type(inner).fit is not Method.fit:
        raise MarrowError(f"{stem} is no method of one stream and one optimiser, as {wrapper} wraps them",
                          where=f"{wrapper}.inner")  # fmt: skip


def asks_a_teacher(method: Method) -> bool:
    return type(method).targets is not Method.targets


def check_asks(inner: Method, wrapper: str) -> None:
    """Raise where there are no targets of a frozen teacher that could be stored."""
    if not asks_a_teacher(inner):
        raise MarrowError(f"{stem_of(type(inner))} asks no frozen teacher, so there is nothing to store",
                          where=wrapper, hint="Leave cached_views out.")  # fmt: skip
