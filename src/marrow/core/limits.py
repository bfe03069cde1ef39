"""Building and running what a description from elsewhere asks for: counted while it is built, and others' errors in words.

timm, transformers and torch check few of their arguments. A net of a billion blocks would fill the memory with Python
objects although its weights take none on the meta device.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from .errors import MarrowError

LARGEST = 2**20  # of the numbers that describe a model, such as classes
LARGEST_OF_NET = 2**16  # of those that describe a backbone: widths and depths
LARGEST_SIDE = 2**14  # pixels
MOST_PIECES = 10_000  # modules and parameters; timm's largest net has 2,900
MOST_KEPT = 2**30  # bytes of buffers that no file holds; timm's largest have 12 MiB

# What constructors raise on arguments that they do not check. OSError is not among them: it is about files.
FOREIGN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError,
           MemoryError, NameError)  # fmt: skip


@contextmanager
def building(what: str, where: str) -> Iterator[None]:
    """Inside, a module of too many pieces is given up, and what other libraries raise becomes one sentence."""
    pieces = 0

    def count(*_: Any) -> None:
        nonlocal pieces
        pieces += 1
        if pieces > MOST_PIECES:
            raise MarrowError(f"{what} would have more than {MOST_PIECES:,} modules and parameters", where=where)

    hooks = [register_module_module_registration_hook(count), register_module_parameter_registration_hook(count)]
    try:
        yield
    except MarrowError:
        raise
    except FOREIGN as error:
        raise MarrowError(f"{what} cannot be built with these arguments ({told(error)})", where=where) from error
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def running(what: str, size: tuple[int, int], where: str) -> Iterator[None]:
    """Inside, a net that was built and does not run on pictures of its input size says so in one sentence."""
    try:
        yield
    except MarrowError:
        raise
    except FOREIGN as error:
        raise MarrowError(f"{what} does not run on pictures of {size[0]} x {size[1]} ({told(error)})", where=where,
                          hint="Give another img_size, or other arguments.") from error  # fmt: skip


def told(error: BaseException) -> str:
    """The first line of what another library says; the error's name where it says little."""
    first = str(error).strip().partition("\n")[0]
    return first if len(first) > 12 else f"{type(error).__name__}: {first}".rstrip(": ")


def sizes(values: Any, where: str, most: int = LARGEST) -> None:
    """Raise at the first number that describes no net, anywhere in plain values."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            sizes(value, f"{where}.{key}", most)
    elif isinstance(values, (list, tuple)):
        for value in values:
            sizes(value, where, most)
    elif isinstance(values, (int, float)) and not abs(values) <= most:
        raise MarrowError(f"{values} is beyond any net; numbers up to {most:,} are read", where=where)


def input_values(img_size: Any, mean: Any, std: Any, crop_pct: Any, interpolation: Any, where: str) -> None:
    """Raise where what a description says about a net's input is no input."""
    sides = img_size if isinstance(img_size, (tuple, list)) else (img_size, img_size)
    if img_size is not None and not (len(sides) == 2 and all(map(side, sides))):
        raise MarrowError(f"one or two numbers of pixels up to {LARGEST_SIDE:,} are needed, got {img_size!r}",
                          where=f"{where}.img_size")  # fmt: skip
    for name, values, least in (("mean", mean, -math.inf), ("std", std, 0.0)):
        known = isinstance(values, (tuple, list)) and values and all(_number(v) and v > least for v in values)
        if values is not None and not known:
            raise MarrowError(f"a number for each channel is needed, got {values!r}", where=f"{where}.{name}")
    if crop_pct is not None and not (_number(crop_pct) and 0.1 <= crop_pct <= 1):
        raise MarrowError(f"a number from 0.1 to 1 is needed, got {crop_pct!r}", where=f"{where}.crop_pct")
    if not (interpolation is None or isinstance(interpolation, str)):
        raise MarrowError(f"the name of a filter is needed, got {interpolation!r}", where=f"{where}.interpolation")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def side(value: Any) -> bool:
    """Whether a value is a number of pixels that a picture can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIDE


def room(model: nn.Module, where: str) -> None:
    """Raise when a model on the meta device would take much memory that its weight file does not account for."""
    saved = model.state_dict()
    kept = sum(b.numel() * b.element_size() for name, b in model.named_buffers() if name not in saved)
    if kept > MOST_KEPT:
        raise MarrowError(
            f"besides its weights the model would keep {kept:,} bytes, more than {MOST_KEPT:,}", where=where
        )
