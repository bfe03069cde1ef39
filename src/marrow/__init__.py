"""marrow takes what is worth keeping out of a big neural network.

    import marrow
    report = marrow.make("photos/")
    model = marrow.load(report["out"] + "/student")

Nothing heavy is imported before one of the names is used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOMES = {
    "make": "marrow.make",
    "run": "marrow.run",
    "evaluate": "marrow.run",
    "predict": "marrow.ship.predict",
    "prove": "marrow.claims",
    "load": "marrow.core.models",
    "save": "marrow.core.artifact",
    "backbone": "marrow.core.models",
    "task": "marrow.core.models",
    "Recipe": "marrow.core.recipe",
    "Engine": "marrow.core.engine",
    "Settings": "marrow.core.settings",
    "Data": "marrow.core.loader",
    "MarrowError": "marrow.core.errors",
}
_NEED_ARCHITECTURES = {"make", "run", "evaluate", "predict", "prove", "load", "backbone", "task"}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'marrow' has no attribute '{name}'")
    if name in _NEED_ARCHITECTURES:
        import_module("marrow.backbones")
    value = getattr(import_module(_HOMES[name]), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Importing `marrow.make` would put the module in the place of the function `make`; the function stays."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
