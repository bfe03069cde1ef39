"""How long commands take to start, and what they load: `python benchmarks/start.py [--out FILE]`.

Each is a process of its own, as long as it takes from its start to its end: the empty `python -c pass` is among them, and
what an import costs beyond it stands beside. Commands take turns; figures are medians over the rounds. The processor's
time, of all threads, is what other processes disturb least. Peers run in environments of their own; before the first round
each command runs once, so that all find their files in the system's cache and their modules compiled.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

from int8 import PEERS as INT8_PEERS
from loading import LIGHTLY
from loop import PEERS as LOOP_PEERS
from peers import environment, same_torch

from marrow.core.versions import versions

HEAVY = ("torch", "numpy", "rich", "pydantic")
WRONG = """seed: 0
stages:
  - teach: supervisd
    task: {task: classify, backbone: {backbone: resnet18}, classes: 10}
"""
LOADED = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)))); "


class Command(NamedTuple):
    name: str
    words: list[str]
    exit_code: int = 0
    seconds: float | None = None  # the target
    over_python: bool = False  # whether the target is meant for what comes on top of an empty Python
    code: str = ""  # the same within Python, to see what it loads
    without: tuple[str, ...] = ()  # modules that it is not to load


def python_code(name: str, python: Path | str, code: str, **more) -> Command:
    return Command(name, [str(python), "-c", code], code=code, **more)


def marrows(folder: Path) -> list[Command]:
    (folder / "wrong.yaml").write_text(WRONG, encoding="utf-8")
    command = [sys.executable, "-m", "marrow.cli"]
    call = "from marrow.cli import main; main({!r})"
    return [
        python_code("python -c pass", sys.executable, "pass"),
        python_code("import marrow", sys.executable, "import marrow", seconds=0.1, over_python=True,
                    without=HEAVY),
        Command("marrow --help", [*command, "--help"], 0, 0.3, code=call.format(["--help"]), without=HEAVY),
        Command("marrow run, a wrong recipe", [*command, "run", "wrong.yaml"], 2, 1.5, code=call.format(["run", "wrong.yaml"]),
                without=("torch",)),
    ]  # fmt: skip


def peers() -> list[Command]:
    """Those whose environments can be made."""
    found = [python_code("import timm", sys.executable, "import timm")]
    if python := environment("lightly-train", *LIGHTLY):
        found.append(Command("lightly-train --help", [str(python.with_name("lightly-train")), "--help"]))
    if python := environment("ultralytics", "ultralytics==8.4.190", same_torch()):
        found.append(Command("yolo help", [str(python.with_name("yolo")), "help"]))
    if python := environment("openvino", *INT8_PEERS["openvino"]):
        found.append(python_code("import nncf", python, "import nncf"))
    if python := environment("lightning", *LOOP_PEERS["lightning"]):
        found.append(python_code("import lightning", python, "import lightning"))
    return found


def run(command: Command, folder: Path) -> tuple[float, float]:
    """Seconds by the wall clock and of the processor."""
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command.words, cwd=folder, capture_output=True, text=True, timeout=300)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != command.exit_code:
        said = (done.stderr or done.stdout).strip().splitlines() or [""]
        raise ChildProcessError(f"{command.name} ended with {done.returncode}: {said[-1][:200]}")
    return took, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def loaded(command: Command, folder: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOADED + command.code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def measure(rounds: int, folder: Path) -> list[dict]:
    ours, theirs = marrows(folder), []
    for command in ours:
        run(command, folder)
    for command in peers():
        try:
            run(command, folder)
            theirs.append(command)
        except (OSError, subprocess.TimeoutExpired) as failed:  # a missing system library, for one
            print(f"{command.name} left out: {failed}", flush=True)
    times: dict[str, list[tuple[float, float]]] = {command.name: [] for command in (*ours, *theirs)}
    for _ in range(rounds):
        for command in (*ours, *theirs):
            times[command.name].append(run(command, folder))
    empty, rows = times[ours[0].name], []
    for command in (*ours, *theirs):
        walls, processor = zip(*times[command.name])
        over = statistics.median(wall - nothing for wall, (nothing, _) in zip(walls, empty))
        row = {"command": command.name, "seconds": round(statistics.median(walls), 3), "over empty Python": round(over, 3),
               "processor seconds": round(statistics.median(processor), 3)}  # fmt: skip
        if command.seconds:
            modules = loaded(command, folder)
            judged = row["over empty Python" if command.over_python else "seconds"]
            row |= {"target": f"< {command.seconds} s, no {', '.join(command.without)}", "modules": len(modules),
                    "loads": ", ".join(m for m in HEAVY if m in modules) or "none of them",
                    "met": judged < command.seconds and not modules.intersection(command.without)}  # fmt: skip
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args.rounds, Path(folder))
    print(f"{'command':28} {'seconds':>8} {'over empty':>11} {'processor':>10}  target, and what of it is loaded")
    for row in rows:
        verdict = (
            f"{row['target']}: {'met' if row['met'] else 'missed'} (loads {row['loads']})" if "target" in row else ""
        )
        print(f"{row['command']:28} {row['seconds']:8.3f} {row['over empty Python']:11.3f} {row['processor seconds']:10.3f}  "
              f"{verdict}")  # fmt: skip
    if args.out:
        found = {"date": date.today().isoformat(), "rows": rows, "rounds": args.rounds, "cores": os.cpu_count(),
                 "load": {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)},
                 "machine": platform.machine(), "versions": versions()}  # fmt: skip
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
