"""What a start loads: the command is quick because nothing heavy is imported before it is needed."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "numpy", "rich", "timm", "torchvision", "sklearn", "onnxruntime", "lightning_fabric")
WRONG = (
    "seed: 0\nstages:\n  - teach: supervisd\n    task: {task: classify, backbone: {backbone: resnet18}, classes: 10}\n"
)
REPORT = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr)); "


def started(code: str, cwd: Path | None = None) -> tuple[int, str, set[str], float]:
    """(exit code, what it said, the modules it had loaded at its end, seconds)."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", REPORT + code], capture_output=True, text=True, cwd=cwd, timeout=120)
    *said, modules = done.stderr.strip().splitlines()
    return done.returncode, done.stdout + "\n".join(said), set(json.loads(modules)), time.perf_counter() - start


def test_import_marrow():
    code, _, modules, seconds = started("import marrow; assert len(dir(marrow)) <= 15")
    assert code == 0
    assert not modules & {*HEAVY, "pydantic", "typer", "yaml"}
    print(f"import marrow: {seconds:.2f} s with the start of Python")


def test_help():
    code, said, modules, seconds = started("from marrow.cli import main; main(['--help'])")
    assert code == 0
    for command in "make run check list show predict evaluate export bench report examine doctor claim".split():
        assert f"\n  {command} " in said
    assert not modules & {*HEAVY, "pydantic"}
    print(f"marrow --help: {seconds:.2f} s")


def test_a_wrong_recipe(tmp_path):
    (tmp_path / "wrong.yaml").write_text(WRONG, encoding="utf-8")
    code, said, modules, seconds = started("from marrow.cli import main; main(['run', 'wrong.yaml'])", tmp_path)
    assert code == 2
    assert "error: 2 problems in wrong.yaml\n" in said
    assert "stages[0].teach: unknown method 'supervisd'; did you mean 'supervised'?" in said
    assert "Traceback" not in said
    assert not modules & set(HEAVY)  # pydantic belongs to typer, which parses with it
    assert list(tmp_path.iterdir()) == [tmp_path / "wrong.yaml"]
    print(f"marrow run, a wrong recipe: {seconds:.2f} s")


def test_public_names():
    import marrow

    for name in marrow.__all__:
        assert callable(getattr(marrow, name)), name
    assert len(marrow.__all__) <= 15
    with pytest.raises(AttributeError, match="no attribute 'teech'"):
        _ = marrow.teech


def test_a_module_does_not_take_the_place_of_its_function():
    from importlib import import_module

    import marrow

    module = import_module("marrow.run")
    assert marrow.run is module.run
