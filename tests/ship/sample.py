"""Made-up runs for the report page, the page as tags and text, and its tables as cells."""

import html.parser
import io
import json
import re

from PIL import Image

from marrow.ship import report
from marrow.ship.interval import wilson

NASTY = "<script>alert(1)</script>\n\"'><img src=https://evil.example/x onerror=alert(2)> & =cmd ../.."


def row(name, right, ms, size, **more):
    latency = {"runtime": "onnxruntime", "batch": 1, "threads": 1, "median": ms, "p90": ms * 1.1}
    return {"name": name, "kind": "task", "metric": "top1", "value": right / 500, "n": 500, "split": "test",
            "ci95": list(wilson(right, 500)), "params": 11_173_962, "macs": 37_000_000, "bytes": size,
            "latency_ms": latency, **more}  # fmt: skip


def sample(**changes):
    rows = [
        row("teacher", 493, 2.1, 44_720_000),
        row("baseline", 482, 0.452, 10_930_000),
        row("student", 492, 0.45, 10_930_000, more={"balanced_top1": 0.981}),
        {"name": "pruned", "kind": None, "metric": None, "value": None, "reason": "the student was not pruned"},
        row("int8", 491, 0.35, 2_900_000),
    ]
    return {"task": "classify", "name": "digits", "data": {"images": "digits"}, "device": {"cpu": "any"}, "rows": rows,
            "baseline": "the student trained without the teacher", "ship": "int8",
            "verdict": "Ship int8.\nIt is small.", **changes}  # fmt: skip


def unlabelled(metric, **changes):
    """A run without labels: the teacher is what is asked, and there is no baseline."""
    rows = [{**row("teacher", 500, 2.1, 44_720_000), "metric": metric, "value": None, "ci95": None, "reason": "it is asked"},
            {"name": "baseline", "kind": None, "metric": None, "value": None, "reason": "no labels to train it on"},
            {**row("student", 460, 0.45, 10_930_000), "metric": metric},
            {**row("int8", 450, 0.35, 2_900_000), "metric": metric, "more": {"chance": 0.02}}]  # fmt: skip
    return sample(rows=rows, baseline="no labels to train it on", **changes)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (32, 32), 90).save(file, "png")
    return file.getvalue()


CURVES = {
    "teacher": [(0, "loss", 2.3), (10, "loss", 1.1), (10, "lr", 0.1), (10, "val/top1", 0.5), (20, "val/top1", 0.9)],
    "student": [
        (0, "loss", 2.0),
        (0, "sym_kl", 2.0),
        (9, "loss", 1.0),
        (9, "sym_kl", 1.0),
        (9, "val/top1", 0.8),
        (9, "agreement", 0.7),
        (10, "grad_norm", 3.0),
    ],
}


def full(text="x"):
    """Every part a report can have, with `text` wherever a user's words may stand."""
    given = sample(name=text, verdict=text, baseline=text, task=text, data={text: text}, device={text: [text]},
                   choices=[{"what": text, "value": text, "reason": text}],
                   budgets=[{"what": text, "limit": text, "value": text, "met": False}], accept=text, early=[text],
                   confusion={"of": text, "labels": [text, "b"], "counts": [[9, 1], [0, 10]]},
                   per_class=[{"class": text, "n": 10, "recall": {"teacher": 0.9, "int8": 0.8, text: 0.7}}],
                   layers={"of": [text, text], "rows": [{"name": text, "kind": text, "params": [9, 5], "macs": [90, 50]}]},
                   estimate={"minutes": {text: 1.0}, text: 1.0}, actual={"minutes": {text: 1.0}, text: 2.0}, recipe=text,
                   use=[text],
                   findings=[{"severity": text, "what": text, "count": 1234, "examples": [text, text], "remedy": text}],
                   lineage=[{"name": text, "kind": text, "hash": "a" * 64, "parents": ["b" * 64]}],
                   licences=[{"of": text, "name": text, "licence": text, "terms": text}])  # fmt: skip
    given["rows"][0] |= {"kind": text, "reason": text, "parity": {text: text}}
    given["rows"].append(row(text, 480, 1.0, 5_000))
    given["rows"][3]["reason"] = text
    pictures = [{"png": png(), "label": text, "teacher": text, "student": text}]
    return given, {"curves": {**CURVES, text: [(1, text, 1.0), (2, text, 2.0)]}, "thumbnails": pictures}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside style and script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.inside):
            self.text += data


def written(tmp_path, given, **more):
    return report.write(given, tmp_path / "report.html", **more).read_text(encoding="utf-8")


def cells(text, section):
    """The rows of a section's table, each as its cells' texts."""
    body = text.split(f'id="{section}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    body = re.sub(r"<wbr>|<small>.*?</small>", "", body).replace("\N{NO-BREAK SPACE}", " ")
    lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in body.split("<tr")[1:]]
    return [[re.sub("<[^>]*>", "", cell).strip() for cell in line] for line in lines]


LIMITS = [{"what": "latency", "limit": "1 ms", "value": "0.35 ms", "met": True},
          {"what": "drop", "limit": "0.1 points", "value": "0.4 points", "met": False}]  # fmt: skip


def recalls(count=3):
    return [{"class": f"class {i}", "n": 10 + i, "recall": {"teacher": 0.9, "int8": 0.9 - i / 200, "student": None}}
            for i in range(count)]  # fmt: skip


def layered(count):
    rows = [{"name": f"layer.{i}", "kind": "Conv2d", "params": [100, 60], "macs": [1000 * (i + 1), 500 * (i + 1)]}
            for i in range(count)]  # fmt: skip
    return {"of": ["student", "pruned"], "rows": [*rows, {"name": "norm", "kind": "Norm", "params": [8, 4], "macs": [0, 0]},
                                                  {"name": "gone", "kind": "Linear", "params": [5, None],
                                                   "macs": [50, None]}]}  # fmt: skip


def run_folder(path, given):
    (path / "logs").mkdir(parents=True)
    (path / "report.json").write_text(json.dumps(given), encoding="utf-8")
    (path / "logs" / "student.csv").write_text("step,name,value\n1,loss,2.0\n5,loss,1.0\n5,val/top1,0.7\n")
    return path
