"""Fills the page on benchmarks with tables of what stands in `benchmarks/results/`.

`<!-- benchmark loop -->` becomes the table of `loop.json`: by the function of that name here, else by `plain`.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Iterator

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
MISSING = "Not measured yet on a quiet machine."
SHOWN_VERSIONS = 12

Found = dict[str, Any]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return re.sub(r"<!-- benchmark (\w+) -->", lambda mark: section(mark[1]), markdown)


def section(name: str, folder: Path = RESULTS) -> str:
    """The table of one result and when and where it was measured; one sentence where there is no result."""
    file = folder / f"{name}.json"
    if not file.is_file():
        return MISSING
    found = json.loads(file.read_text(encoding="utf-8"))
    return "\n".join([*TABLES.get(name, plain)(found), "", circumstances(found, file)])


def circumstances(found: Found, file: Path) -> str:
    """Date, machine, load and versions, as far as the file knows them."""
    said = [str(found.get("date") or committed(file))]
    said += [str(found[k]) for k in ("machine", "cpu") if isinstance(found.get(k), str)]
    counts = {k: found[k] for k in ("cores", "threads", "rounds") if isinstance(found.get(k), int)}
    said += [f"{n} {k if n > 1 else k[:-1]}" for k, n in counts.items()]
    if (load := found.get("load")) is not None:
        said.append(f"load {as_load(load)}")
    versions = found.get("versions") or {k: found[k] for k in ("torch",) if k in found}
    said += [f"{k} {v}" for k, v in list(versions.items())[:SHOWN_VERSIONS] if isinstance(v, str) and v]
    return f"<small>{'; '.join(said)}.</small>"


def as_load(load: Any) -> str:
    """One number, or the first of each triple."""
    if isinstance(load, dict):
        return ", ".join(f"{as_load(v)} {k}" for k, v in load.items())
    return number(load[0] if isinstance(load, list) else load)


def committed(file: Path) -> str:
    """The day of the commit that brought the file, for results that do not say when they were measured."""
    if not shutil.which("git"):
        return "no date"
    done = subprocess.run(["git", "log", "-1", "--format=%cs", "--", file.name],
                          cwd=file.parent, capture_output=True, text=True)  # fmt: skip
    return f"committed {done.stdout.strip()}" if done.stdout.strip() else "no date"


def table(head: list[str], rows: list[list[Any]]) -> Iterator[str]:
    """Words to the left, numbers to the right."""
    right = [i > 0 and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---:' if r else '---' for r in right)} |"
    for row in rows:
        yield f"| {' | '.join(number(cell) for cell in row)} |"


def number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("<", "&lt;")


def is_flat(value: Any) -> bool:
    return not isinstance(value, dict | list)


def plain(found: Found) -> Iterator[str]:
    """Any file: each list of flat rows a table, mappings of numbers with the same keys side by side, the rest in words."""
    columns: Found = {}
    for name, value in found.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            keys = list(dict.fromkeys(k for row in value for k, cell in row.items() if is_flat(cell)))
            yield from ("", *table(keys, [[row.get(k) for k in keys] for row in value]), "")
        elif isinstance(value, dict) and name not in ("versions", "load", "target") and value:
            if all(map(is_flat, value.values())):
                columns[name] = value
            elif all(isinstance(v, dict) for v in value.values()):
                yield from ("", f"**{name.replace('_', ' ')}**", "", *side_by_side(value))
    if columns:
        yield from ("", *side_by_side(columns))


def side_by_side(columns: Found) -> Iterator[str]:
    """One row for each key, one column for each mapping that has flat values."""
    flat = {name: {k: v for k, v in values.items() if is_flat(v)} for name, values in columns.items()}
    keys = list(dict.fromkeys(k for values in flat.values() for k in values))
    rows = [[k.replace("_", " "), *(values.get(k) for values in flat.values())] for k in keys]
    yield from table(["", *(name.replace("_", " ") for name in flat)], rows)


def digits(found: Found) -> Iterator[str]:
    wanted = {"teacher": "teacher, all labels", "baseline": "baseline, the student network on few labels",
              "student": "student, taught without labels", "fp32": "fp32 file", "int8": "int8 file"}  # fmt: skip
    values, intervals = found["top1, pooled"], found["ci95, pooled"]
    rows = [[wanted[k], percent(values[k]), " to ".join(map(percent, intervals[k]))] for k in wanted if k in values]
    yield from table(["", "top-1", "95 % interval"], rows)
    gain, loss = found["student over baseline"], found["int8 over fp32"]
    yield (f"\n{len(found['seeds'])} seeds, {found['n, pooled']} test images in all. The student is {gain['points']:.1f} points "
           f"over its baseline ({' to '.join(f'{v:.1f}' for v in gain['ci95'])} over the seeds), int8 {loss['points']:+.1f} points "
           f"against its fp32 file, with {found['int8 bytes / fp32 bytes']:.2f} of the bytes and in 1 / "
           f"{found['fp32 time / int8 time']:.1f} of the time. Minutes a run: "
           f"{', '.join(f'{m:.1f}' for m in found['minutes'])}.")  # fmt: skip


def percent(value: float) -> str:
    return f"{100 * value:.1f}&nbsp;%"


def crash(found: Found) -> Iterator[str]:
    """How many trials of each command ended as an uninterrupted run does, and how often they were killed."""
    by_command: dict[str, list[Found]] = {}
    for trial in found["trials"]:
        by_command.setdefault(trial["trial"].partition("-")[0], []).append(trial)
    rows = [[f"marrow {name}", len(trials), sum(t["starts"] - 1 for t in trials), sum(t["equal"] for t in trials)]
            for name, trials in by_command.items()]  # fmt: skip
    yield from table(["command", "trials", "times killed", "equal ends"], rows)


def distill(found: Found) -> Iterator[str]:
    """The loops, each beside the one by hand in its own process; then whole pipelines, where a peer was there."""
    rows = []
    for arm, measured in found["loop"].items():
        ms, over = measured["milliseconds_a_step"], measured["over_hand_written"]
        rows.append([arm, ms[arm], ms["hand-written"], f"{over['wall']:.2f}x", f"{over['cpu']:.2f}x"])
    yield from table(["loop", "ms a step", "by hand", "over it", "in processor time"], rows)
    if whole := found["pipeline"]:
        yield "\n**From a folder of photos to trained features**\n"
        yield from table(["", "images a second"], [[arm, rate] for arm, rate in whole["images_per_second"].items()])
        over = whole["marrow_over"]
        yield f"\nmarrow is {over['wall']:.2f} times as fast, {over['cpu']:.2f} times in processor time."


def loading(found: Found) -> Iterator[str]:
    for case, measured in found["cases"].items():
        speeds, over = measured["images_per_second"], measured["marrow_over"]
        yield f"\n**{case}**\n"
        yield from table(["", "images a second", "marrow is"],
                         [[arm, round(v), f"{over[arm]:.2f}x" if arm in over else ""] for arm, v in speeds.items()])  # fmt: skip


def cache(found: Found) -> Iterator[str]:
    rows = []
    for run in found["runs"]:
        wall, cpu = (run["share_of_student_alone"][clock] for clock in ("wall", "cpu"))
        rows += [[f"{run['outputs']:,} outputs, {run['divergence']}", arm, run["images_per_second"][arm], percent(wall[arm]),
                  percent(cpu[arm])] for arm in wall]  # fmt: skip
    yield from table(["", "arm", "images a second", "of the student alone", "by processor time"], rows)


def int8(found: Found) -> Iterator[str]:
    rows = [[r["net"], r["runtime"], r["quantizer"], r["median"], f"{r['faster']:.2f}x", f"{r['share']:.2f}", r["sqnr_db"]]
            for r in found["rows"]]  # fmt: skip
    yield from table(["net", "runtime", "quantizer", "ms", "faster", "bytes", "signal, dB"], rows)


def pruning(found: Found) -> Iterator[str]:
    rows = [
        [r["net"], r["marrow"], r.get("macs ratio"), r.get("onnxruntime gain"), r["torch-pruning"]]
        for r in found["nets"]
    ]
    yield from table(["net", "marrow", "MACs left", "time gain / MAC gain", "Torch-Pruning alone"], rows)


def backbones(found: Found) -> Iterator[str]:
    """Each of our nets above the peer it was measured beside, then how much longer ours took."""
    times = ("torch ms", "fp32 ms", "int8 ms", "torch images/s", "fp32 images/s", "int8 images/s")
    rows = [
        [r["net"], r["top1"], r["params"] / 1e6, r["macs"] / 1e9, *(r[k] for k in times), r["int8 dB"]]
        for r in found["rows"]
    ]
    yield from table(["net", "published top-1", "M params", "G MACs", *times, "int8 signal, dB"], rows)
    yield "\n**Our time over the peer's, batch 1**\n"
    ours = [r for r in found["rows"] if "peer" in r]
    yield from table(["net", "peer", "PyTorch", "fp32 file", "int8 file"],
                     [[r["net"], r["peer"], *(r[f"{k} over peer, batch 1"] for k in ("torch", "fp32", "int8"))] for r in ours])  # fmt: skip


def methods(found: Found) -> Iterator[str]:
    """A row a method: its step over the plain one, and where its time goes."""
    parts = list(found["rows"][0]["shares"])
    rows = [[r["method"], r["milliseconds"], r["over_plain"], r["peak_mb"], r["memory_over_plain"],
             *(percent(r["shares"][part]) for part in parts)] for r in found["rows"]]  # fmt: skip
    yield from table(["method", "ms", "of the plain step", "MB", "of the plain one's", *parts], rows)


TABLES = {f.__name__: f for f in (digits, crash, distill, loading, cache, int8, pruning, backbones, methods)}
