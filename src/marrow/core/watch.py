"""A probe that looks at a model while it is trained: a curve that means something where a falling loss does not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Mapping

from torch import nn

from . import exact
from .contracts import Probe, stem_of
from .errors import MarrowError
from .selection import named, values_of

if TYPE_CHECKING:
    from .loader import Data

MARK = "probe/"  # in front of what it says, in logs


@dataclasses.dataclass(frozen=True)
class Watch:
    """Which probe looks, on what, and every how many percent of the training; also before the first step and at the end.

    models: of the probe's roles that are not the model under training. where: its place in a recipe.
    """

    probe: Probe
    data: Data
    every_percent: float
    models: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    where: str = "probe"

    def look(self, model: nn.Module, engine: Any) -> dict[str, float]:
        """What the probe says of the model as it is now; nothing outside notices."""
        try:
            with exact.preserved():
                report = self.probe.run(roles(type(self.probe), model, self.models), self.data, engine)
        except MarrowError as error:
            raise MarrowError(str(error), where=self.where) from None
        return values_of(named(report.rows, None), MARK)


def roles(probe: type[Probe], model: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """The models of a probe: the given ones; a role that is left out is the model under training, or its part of that name."""
    left, parts = [role for role in probe.needs if role not in given], dict(model.named_children())
    if not left:
        raise MarrowError(f"all models of {stem_of(probe)} are given, so it does not look at the one under training")
    if len(left) > 1 and not set(left) <= parts.keys():
        raise MarrowError(f"{stem_of(probe)} compares {' and '.join(sorted(left))}, and one of them is the model under training; "
                          "give the other")  # fmt: skip
    return {**given, **{role: parts.get(role, model) for role in left}}
