"""Which images are trained on, chosen by, and measured with."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..core.errors import MarrowError
from ..data import splits_of

HELD_OUT = 0.1  # of images without labels: so much is measured on, and as much again chosen by


class Parts(NamedTuple):
    """Sources as recipes write them."""

    train: dict[str, Any]
    val: dict[str, Any]
    test: dict[str, Any]


def parts(images: str, val: str | None = None, test: str | None = None, *, labelled: bool = True,
          group: str | None = None) -> Parts:  # fmt: skip
    """The splits that the data brings; what it does not bring is cut from train by the hash of the content or group."""
    brought = splits_of(images, "--data")
    about: dict[str, Any] = ({} if labelled else {"labels": False}) | ({"group": group} if group else {})
    given = {"images": images, **about}
    if not brought and labelled:
        found = {s: {**given, "split": s} for s in Parts._fields}
    elif not brought:
        found = _cut(given, 0.0 if test else HELD_OUT, 0.0 if val else HELD_OUT)
    elif "train" not in brought:
        raise MarrowError(f"{images} has {', '.join(brought)} but no train", where="--data")
    else:
        whole = {**given, "split": "train"}
        missing = [s for s, other in (("test", test), ("val", val)) if s not in brought and not other]
        found = _cut(whole, *(HELD_OUT if s in missing else 0.0 for s in ("test", "val")))
        found |= {s: {**given, "split": s} for s in ("val", "test") if s in brought}
    for name, other in (("val", val), ("test", test)):
        if other:
            own = splits_of(other, f"--{name}")
            found[name] = {"images": other, **about, **({"split": name} if name in own else {})}
    return Parts(**found)


def _cut(whole: dict[str, Any], test: float, val: float) -> dict[str, dict[str, Any]]:
    """Test first, then val, then what is left to train on."""
    ends = {"test": [0.0, test], "val": [test, test + val], "train": [test + val, 1.0]}
    return {name: whole if ends[name] == [0.0, 1.0] else {**whole, "hash": ends[name]}
            for name in ends if ends[name][1] > ends[name][0]}  # fmt: skip
