"""What a parquet file says it holds: columns, types and the names of its classes, checked before any of it is used."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from ..core.errors import MarrowError
from ..core.limits import told


class Schema:
    """What is read from a file: its columns, and the names of its classes."""

    def __init__(self, schema: Any, file: str, where: str, labelled: bool):
        import pyarrow.types as types

        names = schema.names
        if "image" not in names:
            raise MarrowError(f"{file} has no column 'image'; it has {', '.join(names)}", where=where)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise MarrowError(f"{file} has the column '{twice}' more than once", where=where)
        self.read, self.mask, self.label = [], "mask" in names, "label" in names
        self.own = "name" if "name" in names and is_text(schema.field("name").type) else None
        for name in ("image", "mask"):
            if name in names:
                kind = schema.field(name).type
                held = types.is_struct(kind) and "bytes" in [f.name for f in kind]
                if not (held or types.is_binary(kind) or types.is_large_binary(kind)):
                    raise MarrowError(f"column '{name}' of {file} is {kind}; struct<bytes, path> or binary is needed",
                                      where=where)  # fmt: skip
                self.read.append(f"{name}.bytes" if held else name)
                pathed = held and "path" in [f.name for f in kind] and is_text(kind.field("path").type)
                self.own = self.own or ("image.path" if pathed and name == "image" else None)
        for field in schema:
            plain = any(f(field.type) for f in (types.is_integer, types.is_floating, types.is_string, types.is_boolean))
            if field.name not in ("image", "mask", "label") and plain:
                self.read.append(field.name)
        about = (schema.metadata or {}).get(b"huggingface")
        self.names = _class_names(about, file, where) if self.label and labelled and about is not None else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and {**self.__dict__, "own": None} == {**other.__dict__, "own": None}


def opened(path: str, where: str) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MarrowError('This step needs pyarrow. Install it with: pip install "marrow[hf]"', where=where) from None
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise MarrowError(f"{Path(path).name} is not a readable parquet file ({told(error)})", where=where) from None


def is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_large_string(kind)


@contextmanager
def reading(file: str, where: str) -> Iterator[None]:
    """What lies behind a whole schema may be damaged all the same."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise MarrowError(f"{file} is damaged ({told(error)})", where=where) from None


def _class_names(about: bytes, file: str, where: str) -> list[str] | None:
    """Those that the Hugging Face layout keeps for the column `label`; None where it keeps none."""
    try:
        found = json.loads(about)
    except (ValueError, RecursionError):
        raise MarrowError(f"what {file} says about its columns ('huggingface') is no JSON", where=where,
                          hint="Give 'labels: false', or write the file again.") from None  # fmt: skip
    for key in ("info", "features", "label", "names"):
        found = found.get(key) if isinstance(found, dict) else None
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(n, str) for n in found) or len(set(found)) < len(found):
        raise MarrowError(f"the class names in {file} are no list of distinct texts", where=where)
    return found
