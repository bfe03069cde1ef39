"""Fuzzing of what reads files from elsewhere, with atheris; run by hand, in an environment that has it:

    pip install atheris
    python tests/hostile/fuzz.py TARGET FOLDER -max_total_time=600

TARGET is one of recipe, meta, header, image, shard and onnx. FOLDER keeps what was tried and reached new code; further words go to libFuzzer. Every end but success and MarrowError is a
find: its input is kept in `FOLDER/found`, one for each place, and the fuzzing goes on. What is worth keeping lies in
`corpus/<target>/` beside this file, which is where a run starts from and what `test_corpus.py` replays.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Callable

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


def recipe(data: bytes, folder: Path) -> None:
    """Text of a recipe -> read and checked statically, then said again as YAML."""
    from marrow.core.recipe import Recipe, parse, read

    file = folder / "recipe.yaml"
    file.write_bytes(data)
    found = read(file)
    assert Recipe.from_dict(parse(found.to_yaml())) == found


def meta(data: bytes, folder: Path) -> None:
    """Bytes of an artifact.json -> checked, and its spec built without memory."""
    from marrow.core import plain_json
    from marrow.core.artifact_check import check
    from marrow.core.spec import meta as built

    file = folder / "artifact.json"
    file.write_bytes(data)
    found = check(plain_json.read(file, "fuzz", plain_json.LARGEST_META), "fuzz")
    json.dumps(found, allow_nan=False)
    if found["spec"]:
        built(found["spec"])


def header(data: bytes, folder: Path) -> None:
    """Bytes of a safetensors file -> names, shapes and types, then a table."""
    from safetensors.torch import load

    from marrow.core.artifact import tensors_in
    from marrow.core.table import Table

    file = folder / "table.safetensors"
    file.write_bytes(data)
    listed = tensors_in(file)
    assert set(load(data)) == set(listed)
    Table(load(data))


def image(data: bytes, folder: Path) -> None:
    """Bytes of a picture -> what its header says, its pixels, and its pixels as class ids; each may be refused alone."""
    from marrow.core.source import Unreadable
    from marrow.data.decode import decode, decode_ids, undecoded
    from marrow.data.header import header

    for reader in (header, decode, decode_ids, undecoded):
        try:
            reader(data, "picture")
        except Unreadable:
            continue


def shard(data: bytes, folder: Path) -> None:
    """Bytes of a tar shard -> its samples, all of which lie inside it."""
    from marrow.data.tar_scan import samples

    file = folder / "shard.tar"
    file.write_bytes(data)
    for found in samples(str(file), "fuzz"):
        assert isinstance(found, str) or 0 <= found.offset <= found.offset + found.size <= len(data)


def onnx(data: bytes, folder: Path) -> None:
    """Bytes of an ONNX file -> checked, without being run."""
    from marrow.core.onnx_check import check

    file = folder / "model.onnx"
    file.write_bytes(data)
    check(file)


TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "recipe": recipe, "meta": meta, "header": header, "image": image, "shard": shard, "onnx": onnx,
}  # fmt: skip


def main(target: str, kept: Path, more: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["marrow", "yaml", "json", "PIL", "tarfile"]):
        import marrow.core.recipe
        import marrow.core.spec
        import marrow.data.header
        import marrow.data.tar_scan
    import marrow.backbones  # noqa: F401
    from marrow.core.errors import MarrowError

    found, places = kept / "found", set()
    found.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp())

    def once(data: bytes) -> None:
        try:
            TARGETS[target](data, folder)
        except MarrowError:
            return
        except Exception as error:  # noqa: BLE001, whatever it is, it is a find
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = (type(error).__name__, Path(last.filename).name, last.lineno)
            if place not in places:
                places.add(place)
                (found / "-".join(map(str, place))).write_bytes(data)
                print("found", *place, str(error)[:200], flush=True)

    atheris.Setup([sys.argv[0], str(kept), str(CORPUS / target), *more], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
