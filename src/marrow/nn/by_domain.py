"""A batch whose examples say which domain they are from, taken apart by domain."""

from __future__ import annotations

from typing import Any, Mapping

from torch import Tensor

from ..core.errors import MarrowError


def domains_of(batch: Mapping[str, Any], where: str) -> list[str]:
    """The domain of each example."""
    if "domain" not in batch:
        raise MarrowError("the images do not say which domain they are from", where=where,
                          hint="Give each source its own, such as domain: sketch.")  # fmt: skip
    return batch["domain"]


def rows_by_domain(batch: Mapping[str, Any], where: str) -> dict[str, list[int]]:
    """The row numbers of each domain, by its name, in the order of the names."""
    domains = domains_of(batch, where)
    found: dict[str, list[int]] = {name: [] for name in sorted(set(domains))}
    for i, name in enumerate(domains):
        found[name].append(i)
    return found


def taken(fields: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """These rows of each field, one entry an example, and of the fields inside of fields."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found[name] = taken(value, rows)
        else:
            found[name] = value[rows] if isinstance(value, Tensor) else [value[i] for i in rows]
    return found
