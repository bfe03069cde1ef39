"""Fills pages with what stands in the sources: contracts, docstrings, the results of claims and of the main job."""

import ast
import json
import re
from pathlib import Path
from statistics import mean

from marrow.claims import ledger
from marrow.core.catalogue import CONTRACTS, PACKAGE, stems
from marrow.core.signature import REQUIRED, Signature, signature


def on_page_markdown(markdown: str, **_) -> str:
    """Called by mkdocs for each page; comments such as `<!-- methods -->` are where the text goes."""
    if "<!-- methods -->" in markdown:
        markdown = markdown.replace("<!-- methods -->", "\n".join(methods()))
    if "<!-- claims -->" in markdown:
        markdown = markdown.replace("<!-- claims -->", "\n".join(claims()))
    if "<!-- results -->" in markdown:
        markdown = markdown.replace("<!-- results -->", "\n".join(results()))
    markdown = re.sub(r"<!-- claim (\w+) -->", lambda mark: "\n".join(measured(mark[1])), markdown)
    return re.sub(r"<!-- contract ([\w ]+) -->", lambda mark: contracts(mark[1].split()), markdown)


def contracts(names: list[str]) -> str:
    """The text of these classes of `core/contracts.py`."""
    source = (PACKAGE / "core" / "contracts.py").read_text(encoding="utf-8")
    found = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)}
    lines = source.splitlines()
    texts = [
        lines[min([n.lineno, *(d.lineno for d in n.decorator_list)]) - 1 : n.end_lineno] for n in map(found.get, names)
    ]
    return "```python\n" + "\n\n\n".join("\n".join(text) for text in texts) + "\n```"


def methods():
    for folder in CONTRACTS:
        if stems(folder):
            yield f"## {folder}\n"
        for stem in stems(folder):
            known = signature(folder, stem)
            yield f"### {stem}\n\n{module_text(PACKAGE / folder / f'{stem}.py')}\n"
            yield f"```python\n{call(known)}\n```\n\n{as_text(known.doc)}\n"


def call(known: Signature) -> str:
    arguments = [f"{name}: {a.annotation}" + ("" if a.default is REQUIRED else f" = {a.default!r}")
                 for name, a in known.arguments.items()]  # fmt: skip
    line = f"{known.name}({', '.join(arguments)})"
    return line if len(line) < 90 else f"{known.name}(\n" + "".join(f"    {a},\n" for a in arguments) + ")"


def module_text(file: Path) -> str:
    return as_text(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "")


def as_text(docstring: str) -> str:
    """Markdown would take an angle bracket for a tag."""
    return docstring.replace("<", "&lt;")


def claims():
    rows = ledger()
    if not rows:
        yield "No claim is stated yet."
        return
    yield "| system | says | points | 95 % interval | seeds | verdict |\n| --- | --- | ---: | ---: | ---: | --- |"
    for row in rows:
        points = f"{100 * row['difference']:+.1f} {row['measure']}" if "difference" in row else ""
        interval = " to ".join(f"{100 * v:+.1f}" for v in row.get("ci95") or ())
        yield (f"| {row['system']} | {row['says']} | {points} | {interval} "
               f"| {len(row.get('seeds', ())) or ''} | **{row['verdict']}** |")  # fmt: skip


def measured(name: str, rows: list[dict] | None = None):
    """One claim for the page of its system: the arms with their seeds, the difference, and what to know before trusting it."""
    [row] = [r for r in (ledger() if rows is None else rows) if r["system"] == name]
    yield f"The claim: {row['says']}.\n"
    if row["verdict"] == "not run yet":
        yield f"It has not been run yet; `marrow claim {name}` runs it."
        return
    yield f"| arm | {row['measure']} | over '{row['than']}' |\n| --- | ---: | ---: |"
    for arm, values in row["arms"].items():
        over = row["over_baseline"].get(arm)
        yield f"| {arm} | {spread([100 * v for v in values], '.1f')}&nbsp;% | {'' if over is None else f'{100 * over:+.1f}'} |"
    interval = f", 95 % interval {' to '.join(f'{100 * v:+.1f}' for v in row['ci95'])}" if row["ci95"] else ""
    yield (f"\n**{row['verdict'].capitalize()}**: '{row['better']}' is {100 * row['difference']:+.1f} points over "
           f"'{row['than']}'{interval}, {len(row['seeds'])} seeds; {100 * row['by']:g} were asked for. ± is half the range "
           f"over the seeds. {row['data']}; {row['minutes']:.0f} CPU minutes. {row['unlike']}")  # fmt: skip


def results():
    """A part for each case: its rows over the seeds, and the minutes."""
    for file in sorted((Path(__file__).parent / "results").glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        runs = found["runs"]
        metric = next(r["metric"] for r in runs[0]["rows"] if r["metric"])
        yield f"## {file.stem.replace('_', ' ').capitalize()}\n\n{found['what']}\n"
        yield f"`{command(runs[0]['options'])}`, {len(runs)} seed{'s' if len(runs) > 1 else ''}.\n"
        yield f"| | {metric} | ms | bytes | images |\n| --- | ---: | ---: | ---: | ---: |"
        for i, row in enumerate(runs[0]["rows"]):
            same = [r["rows"][i] for r in runs]
            yield f"| {row['name'].replace('_', ' ')} | {' | '.join(figures(same))} |"
        expected, took = ([r[k]["minutes"]["all"] for r in runs] for k in ("estimate", "actual"))
        shipped = ", ".join(dict.fromkeys(r["ship"].replace("_", " ") for r in runs))
        yield f"\nShipped: {shipped}. Minutes expected {spread(expected, '.1f')}, took {spread(took, '.1f')}."
        for budget in runs[0]["budgets"]:
            met = sum(b["met"] for r in runs for b in r["budgets"] if b["what"] == budget["what"])
            yield f" Budget of {budget['limit']} ({budget['what']}): met in {met} of {len(runs)}."
        yield ""


def figures(rows):
    """Value, milliseconds, bytes and images of one row over the seeds."""
    if rows[0]["value"] is None:
        yield from (rows[0].get("reason") or "", "" if rows[0].get("ms") is None else f"{rows[0]['ms']:.2f}")
        yield from (f"{rows[0]['bytes']:,}" if rows[0].get("bytes") else "", "")
        return
    yield spread([100 * r["value"] for r in rows], ".1f") + "&nbsp;%"
    yield spread([r["ms"] for r in rows if r["ms"] is not None], ".2f")
    yield f"{rows[0]['bytes']:,}"
    yield str(rows[0]["n"])


def spread(values, form):
    if not values:
        return ""
    half = (max(values) - min(values)) / 2
    return f"{mean(values):{form}}" + (f" ± {half:{form}}" if len(values) > 1 else "")


def command(options):
    words = [
        f"--{k.replace('_', '-')} {v:g}" if isinstance(v, float) else f"--{k.replace('_', '-')} {v}"
        for k, v in options.items()
    ]
    return " ".join(["marrow make", *words])
