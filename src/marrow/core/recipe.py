"""Recipes: flat YAML that is complete; what you read is what runs.

`read` turns a file and overrides into a `Recipe` and refuses it with everything that the static pass finds
(`core/static_check.py`). No torch here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import yaml

from .catalogue import VERBS
from .errors import MarrowError, near
from .settings import Optim, Settings
from .stage_keys import SEEDS, STAGE_KEYS, is_per_player
from .static_check import check_static

MOST_BYTES = 200_000  # YAML of single characters takes a few seconds for as many
MOST_NESTING = 40


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage; `values` is its mapping as written."""

    index: int
    values: dict[str, Any]

    @property
    def verb(self) -> str:
        return next(v for v in VERBS if v in self.values)

    @property
    def stem(self) -> str:
        return self.values[self.verb]

    @property
    def name(self) -> str:
        """The stage's folder."""
        return self.values.get("name", f"{self.index}-{self.stem}")

    @property
    def roles(self) -> dict[str, dict]:
        """Model specs by role."""
        return {k: v for k, v in self.values.items() if k not in STAGE_KEYS}

    @property
    def args(self) -> dict[str, Any]:
        """Arguments of the class; lists are tuples, as signatures say."""
        return {k: _tuples(v) for k, v in self.values.get("args", {}).items()}

    @property
    def data(self) -> dict[str, Any] | None:
        return self.values.get("data")

    @property
    def streams(self) -> dict[str, list[dict]]:
        """Sources by stream, `val` among them."""
        return {k: v for k, v in (self.data or {}).items() if k not in ("batch", "workers")}

    @property
    def probe(self) -> Stage | None:
        """The examine stage that looks at the model while it is trained."""
        found = self.values.get("probe")
        return Stage(self.index, {k: v for k, v in found.items() if k != "every_percent"}) if found else None

    def to_dict(self) -> dict[str, Any]:
        return _copied(self.values)

    def seed(self, recipe: int) -> int:
        """The recipe's seed; a stage with a `seed` of its own has one that no other recipe seed gives it."""
        return (recipe * SEEDS + self.values["seed"]) % 2**63 if "seed" in self.values else recipe

    def settings(self, seed: int = 0) -> Settings:
        """What the engine needs; `accumulate: k` becomes the micro-batch that k make one batch of."""
        given = {f.name: self.values[f.name] for f in dataclasses.fields(Settings) if f.name in self.values}
        given |= {k: v for k, v in (self.data or {}).items() if k in ("batch", "workers")}
        if "optim" in given:
            each = given["optim"] if is_per_player(given["optim"]) else {"main": given["optim"]}
            given["optim"] = {player: _optim(values) for player, values in each.items()}
        if "lr_multipliers" in given:
            given["lr_multipliers"] = tuple(given["lr_multipliers"])
        if "accumulate" in self.values:
            given["micro_batch"] = -(-given.get("batch", Settings.batch) // self.values["accumulate"])
        return Settings(**{**given, "seed": self.seed(seed)})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _optim(values: Mapping[str, Any]) -> Optim:
    curve = {k: values[k] for k in ("schedule", "warmup_percent") if k in values}
    kind = next(k for k in values if k not in curve)
    args = dict(values[kind])
    rate = {"lr": args.pop("lr")} if "lr" in args else {}
    return Optim(kind=kind, args=args, **rate, **curve)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A seed and stages. Built from plain values; `check_static` and `check_fit` judge them."""

    seed: int
    stages: list[Stage]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        stages = _copied(values["stages"])
        return cls(values.get("seed", 0), [Stage(i, stage) for i, stage in enumerate(stages)])

    def to_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "stages": [s.to_dict() for s in self.stages]}

    def to_yaml(self) -> str:
        return yaml.dump(self.to_dict(), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file with single values replaced (`stages.1.args.temperature=2`), checked statically."""
    values = override(load(path), changes(overrides))
    if problems := check_static(values):
        raise MarrowError.listing(problems, Path(path).name)
    return Recipe.from_dict(values)


def load(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked but for YAML's own traps."""
    path = Path(path)
    if not path.is_file():
        raise MarrowError(f"no recipe at {path}")
    if path.stat().st_size > MOST_BYTES:
        raise MarrowError(f"{path.name} has {path.stat().st_size:,} bytes; a recipe has at most {MOST_BYTES:,}")
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MarrowError(f"{path.name} is not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} line {mark.line + 1}" if mark else path.name
        raise MarrowError(f"not YAML: {getattr(error, 'problem', None) or error}", where=where) from None
    if not isinstance(values, dict):
        raise MarrowError("a recipe is a mapping with the keys seed and stages", where=path.name)
    return values


def parse(text: str) -> Any:
    """One YAML value."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506, it derives from SafeLoader


def _copied(value: Any) -> Any:
    """Of plain values, sharing nothing: stages built from one Python dict must not change together."""
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, (list, tuple)) else value


def changes(texts: Iterable[str]) -> dict[str, Any]:
    """`path=value` as typed on a command line -> {path: value}."""
    found: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")):
            raise MarrowError(f"'{text}' does not replace anything; write stages.1.args.temperature=2")
        try:
            found[path] = parse(value)
        except yaml.YAMLError:
            raise MarrowError(f"'{value}' is not a YAML value", where=path) from None
    return found


def override(values: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with values replaced by dotted path: `{"stages.1.args.temperature": 2}`.

    Stages go by index or name. A key that is missing is added: the static pass judges whether it may be there.
    """
    copied = _copied(values)
    for path, value in replaced.items():
        keys = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
        target: Any = copied
        for i, key in enumerate(keys[:-1]):
            target = _step(target, key, ".".join(keys[:i]), path)
        _step(target, keys[-1], ".".join(keys[:-1]), path)
        target[_position(target, keys[-1], path) if isinstance(target, list) else keys[-1]] = _copied(value)
    return copied


def _step(target: Any, key: str, place: str, path: str) -> Any:
    if isinstance(target, list):
        return target[_position(target, key, path)]
    if isinstance(target, dict):
        return target.setdefault(key, {})
    raise MarrowError(f"{place} is {target!r} and has no '{key}'", where=path)


def _position(items: list, key: str, path: str) -> int:
    names = [item.get("name", "") if isinstance(item, dict) else "" for item in items]
    if key in names:
        return names.index(key)
    known = [str(i) for i in range(len(items))] + [n for n in names if n]
    if key not in known:
        raise MarrowError(f"there is no '{key}'{near(key, known)}", where=path)
    return int(key)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain types (1e-3 is a number, `no` a word, dates are words); no duplicate keys, anchors or tags."""

    yaml_implicit_resolvers: dict = {}
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise MarrowError("anchors and aliases are not read; a recipe is flat, write the value out", where=line)
        if event.tag:
            raise MarrowError(f"tags such as '{event.tag}' are not read; values are plain", where=line)
        if self._depth > MOST_NESTING:
            raise MarrowError(f"nested more than {MOST_NESTING} levels deep", where=line)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            line = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or not isinstance(self.construct_object(key), str):
                raise MarrowError("a key is a name", where=line)
            if key.value in seen:
                raise MarrowError(f"'{key.value}' is given twice", where=line)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        if not math.isfinite(number := float(self.construct_scalar(node))):
            raise MarrowError(f"'{node.value}' is more than a float can hold", where=f"line {node.start_mark.line + 1}")
        return number


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("null", r"^(~|null|)$", ["~", "n", ""]),
    ("bool", r"^(true|True|false|False)$", list("tTfF")),
    ("int", r"^[-+]?(0|[1-9][0-9]{0,17})$", list("-+0123456789")),
    ("float", r"^[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$", list("-+.0123456789")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)
