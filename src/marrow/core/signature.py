"""Constructor signatures read from source text, so that a recipe is checked without importing what it names.

Signatures are literal: plain defaults; `int | float | str | bool | Literal[...] | tuple | None` for values;
`Backbone`, `Task`, `Method` for the models that a method or task is given. Shrinkers, probes and exporters are handed
their models by `plan`, `run` and `export`: their roles are the keys of `needs`.
"""

from __future__ import annotations

import ast
import dataclasses
from functools import lru_cache
from typing import Any, Iterator, Mapping

from .catalogue import CONTRACTS, class_node
from .errors import near

REQUIRED = object()
ROLES = frozenset({"Backbone", "Task", "Method", "Runner", "nn.Module"})


@dataclasses.dataclass(frozen=True)
class Argument:
    annotation: str
    default: Any = REQUIRED

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of model that fit; empty for a plain value."""
        return frozenset(ast.unparse(n) for n in _alternatives(_expression(self.annotation))) & ROLES


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a contract class says about itself."""

    stem: str
    name: str
    doc: str
    arguments: Mapping[str, Argument]
    needs: Mapping[str, set[str]]
    streams: tuple[str, ...]
    players: tuple[str, ...]
    owns_loop: bool  # it overrides `fit`
    takes_files: bool  # a probe or exporter, to which an exported file is a model like others

    @property
    def roles(self) -> dict[str, Argument]:
        """Models by name; those that only `needs` names are of any kind and required."""
        annotated = {k: a for k, a in self.arguments.items() if a.kinds}
        anything = Argument("Backbone | Task | Runner" if self.takes_files else "Backbone | Task")
        return annotated or dict.fromkeys(self.needs, anything)

    @property
    def values(self) -> dict[str, Argument]:
        return {k: a for k, a in self.arguments.items() if not a.kinds}


@lru_cache(maxsize=None)
def signature(folder: str, stem: str) -> Signature | None:
    """The signature of the class of `folder/stem.py`; None when there is no such class."""
    node = class_node(folder, stem, CONTRACTS[folder]) if stem.isidentifier() else None
    if node is None:
        return None
    default_streams = ("train",) if folder == "teach" else ()
    return Signature(
        stem=stem,
        name=node.name,
        doc=ast.get_docstring(node) or "",
        arguments=dict(arguments_of(node)),
        needs=_attribute(node, "needs", {}),
        streams=_attribute(node, "streams", default_streams),
        players=_attribute(node, "players", ("main",)),
        takes_files=folder in ("examine", "ship"),
        owns_loop=any(isinstance(n, ast.FunctionDef) and n.name == "fit" for n in node.body),
    )


def check_values(values: Mapping[str, Any], known: Mapping[str, Argument], owner: str, where: str) -> Iterator[str]:
    """Problems of plain arguments: unknown, missing, of the wrong type."""
    for key, value in values.items():
        if key not in known:
            yield f"{where}.{key}: {owner} has no argument '{key}'{near(key, known)}"
        elif not fits(value, known[key].annotation):
            wanted, suggestion = known[key].annotation, ""
            if choices := _choices(_expression(wanted)):
                wanted, suggestion = "one of " + ", ".join(map(str, choices)), near(str(value), map(str, choices))
            yield (f"{where}.{key}: {owner} takes {wanted} for '{key}', got {value!r}"
                   + (suggestion if "did you mean" in suggestion else ""))  # fmt: skip
    if missing := [k for k, a in known.items() if a.default is REQUIRED and k not in values]:
        yield f"{where}: {owner} needs {', '.join(missing)}"


def fits(value: Any, annotation: str) -> bool:
    """Whether a value from YAML (lists stand for tuples) is of an annotated type."""
    return any(_fits(value, node) for node in _alternatives(_expression(annotation)))


def _fits(value: Any, node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="tuple" | "list"):
            return isinstance(value, (list, tuple))
        case ast.Subscript(value=ast.Name(id="Literal")):
            return any(value == choice and type(value) is type(choice) for choice in _choices(node))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[one, ast.Constant(value=v)])) if v is ...:
            return isinstance(value, (list, tuple)) and all(fits(x, ast.unparse(one)) for x in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=inner):
            each = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return (isinstance(value, (list, tuple)) and len(value) == len(each)
                    and all(fits(x, ast.unparse(n)) for x, n in zip(value, each)))  # fmt: skip
    raise TypeError(f"'{ast.unparse(node)}' is not an annotation that recipes know")


def arguments_of(node: ast.ClassDef) -> Iterator[tuple[str, Argument]]:
    """Names and arguments of a class's constructor."""
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        return
    args = init.args
    positional = [*args.posonlyargs, *args.args][1:]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    for arg, default in [*zip(positional, defaults), *zip(args.kwonlyargs, args.kw_defaults)]:
        annotation = ast.unparse(arg.annotation) if arg.annotation else ""
        yield arg.arg, Argument(annotation, REQUIRED if default is None else ast.literal_eval(default))


def _attribute(node: ast.ClassDef, name: str, default: Any) -> Any:
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=n)], value=value) | ast.AnnAssign(target=ast.Name(id=n), value=value):
                if n == name and value is not None:
                    return ast.literal_eval(value)
    return default


def _expression(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _choices(node: ast.expr) -> tuple:
    """The values of Literal[...]; empty for another annotation."""
    match node:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=listed):
            values = ast.literal_eval(listed)
            return values if isinstance(values, tuple) else (values,)
    return ()


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _alternatives(node.left) + _alternatives(node.right)
    return [node]
