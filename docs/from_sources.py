"""Fills pages with what stands in the sources: docstrings of every piece, and the results of the claims."""

import ast
from pathlib import Path

from marrow.claims import ledger
from marrow.core.catalogue import CONTRACTS, PACKAGE, stems
from marrow.core.signature import REQUIRED, Signature, signature


def on_page_markdown(markdown: str, **_) -> str:
    """Called by mkdocs for each page; `<!-- methods -->` and `<!-- claims -->` are where the text goes."""
    if "<!-- methods -->" in markdown:
        markdown = markdown.replace("<!-- methods -->", "\n".join(methods()))
    if "<!-- claims -->" in markdown:
        markdown = markdown.replace("<!-- claims -->", "\n".join(claims()))
    return markdown


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
    yield "| system | says | difference | 95 % interval | seeds | verdict |\n| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        low, high = row.get("ci95") or ("", "")
        difference = f"{row['difference']} {row['measure']}" if "difference" in row else ""
        yield (f"| {row['system']} | {row['says']} | {difference} | {low}{' to ' if low != '' else ''}{high} "
               f"| {len(row.get('seeds', ())) or ''} | **{row['verdict']}** |")  # fmt: skip
