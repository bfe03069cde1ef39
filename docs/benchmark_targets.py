"""Fills `<!-- targets -->` with every figure that marrow set itself, beside what was measured and whether it was met."""

import json
from pathlib import Path
from typing import Any, Iterator, NamedTuple

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"

Found = dict[str, Any]


class Row(NamedTuple):
    what: str
    target: str
    measured: str
    met: bool


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return markdown.replace("<!-- targets -->", "\n".join(lines())) if "<!-- targets -->" in markdown else markdown


def lines() -> Iterator[str]:
    yield "| what | target | measured | met |"
    yield "| --- | --- | --- | --- |"
    for row in rows():
        yield f"| {row.what} | {row.target} | {row.measured} | {'yes' if row.met else '**no**'} |"


def rows(folder: Path = RESULTS) -> Iterator[Row]:
    """What was measured, by script; a script without a result has no row."""
    for of in (loop, distill, cache, loading, int8, pruning, methods, crash, start):
        file = folder / f"{of.__name__}.json"
        if file.is_file():
            yield from of(json.loads(file.read_text(encoding="utf-8")))


def loop(found: Found) -> Iterator[Row]:
    tiny, real = found["targets"]
    yield Row(
        "training loop, tiny MLP", "at most 60 us a step over the bare loop", f"{tiny['measured']:.0f} us", tiny["met"]
    )
    yield Row(
        "training loop, real net", "at most 1.02 times the bare loop", f"{real['measured']:.3f} times", real["met"]
    )


def distill(found: Found) -> Iterator[Row]:
    over = found["loop"]["marrow"]["over_hand_written"]["wall"]
    yield Row("online distillation", "at most 1.05 times the loop by hand", f"{over:.3f} times", over <= 1.05)


def cache(found: Found) -> Iterator[Row]:
    for run in found["runs"]:
        share = run["share_of_student_alone"]["wall"]["cached"]
        yield Row(f"cached teacher, {run['outputs']:,} outputs, {run['divergence']}",
                  "at least 95 % of the images/s of the student alone", f"{100 * share:.1f} %", share >= found["target"])  # fmt: skip


def loading(found: Found) -> Iterator[Row]:
    over = found["cases"]["320x256, one thread"]["marrow_over"]["timm"]
    yield Row("loading, 320x256 JPEG", "at least 1.8 times timm's loader", f"{over:.2f} times", over >= 1.8)


def int8(found: Found) -> Iterator[Row]:
    for aim in found["targets"]:
        words, _, figure = aim["target"].rpartition(", ")
        yield Row(f"int8, {aim['net']}: {words}", figure, f"{aim['measured']:.3g}", aim["met"])


def pruning(found: Found) -> Iterator[Row]:
    nets = found["nets"]
    cut, peer = (sum(net[who] == "passes" for net in nets) for who in ("marrow", "torch-pruning"))
    yield Row(
        "pruning: nets cut, of those measured",
        f"all (Torch-Pruning alone: {peer})",
        f"{cut} of {len(nets)}",
        cut == len(nets),
    )
    gain = found["median onnxruntime gain"]
    yield Row("pruning: time gain / MAC gain, median above 50 M MACs", "at least 0.8", f"{gain:.2f}", gain >= 0.8)


def methods(found: Found) -> Iterator[Row]:
    most, measured = found["target"]["advstyle"], found["target"]["measured"]
    yield Row("AdvStyle's step, which needs no further forward", f"at most {most} times the plain step",
              f"{measured:.2f} times", found["target"]["met"])  # fmt: skip


def crash(found: Found) -> Iterator[Row]:
    count = len(found["trials"])
    yield Row(
        "runs killed at random and resumed", "all end equal", f"{found['equal']} of {count}", found["equal"] == count
    )


def start(found: Found) -> Iterator[Row]:
    for row in found["rows"]:
        if "target" in row:
            took = f"{row['seconds']:.2f} s, {row['over empty Python']:.2f} over Python's own; loads {row['loads']}"
            yield Row(row["command"], row["target"].replace("<", "&lt;"), took, row["met"])
