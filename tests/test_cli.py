"""The command: exit codes, one sentence an error, JSON that other programs can read."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from marrow.cli import main
from marrow.core.catalogue import CONTRACTS, stems
from marrow.core.errors import MarrowError
from marrow.show import as_text, describe, lineage, listing
from marrow.text_table import pairs, table, words

TINY = "{backbone: resnet10t, img_size: 32, channels: [8, 16, 24, 32], stem_width: 8}"
RECIPE = f"""\
seed: 0
stages:
  - teach: supervised
    name: small
    task: {{task: classify, backbone: {TINY}, classes: 10}}
    data: {{train: [{{images: digits}}], batch: 16}}
    steps: 2
"""


def command(capsys, *argv):
    """(exit code, stdout, stderr) of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    return ended.value.code, *capsys.readouterr()


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    from marrow.core.artifact import save
    from marrow.core.models import backbone, task

    folder = tmp_path_factory.mktemp("run")
    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    parent = save(folder / "teacher", task("classify", backbone=net, classes=3), labels=["a", "b", "c"])
    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    return save(folder / "student", task("classify", backbone=net, classes=3), labels=["a", "b", "c"],
                parents=[parent.hash, "0" * 64], metrics=[{"metric": "top1", "value": 0.5, "n": 8, "split": "test"}])  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["run", "none.yaml"], "error: no recipe at none.yaml\n"),
        (["list", "method"], "error: list: unknown kind 'method'; did you mean 'methods'?\n"),
        (["show", "supervisd"], "error: show: nothing is called 'supervisd'; did you mean 'supervised'?\n"),
        (["runn"], "No such command 'runn'. Did you mean 'run'"),
        (["run", "x.yaml", "--resum"], "--resume"),
        (["run", "x.yaml", "--devices", "0"], "--devices"),
    ],
)
def test_what_the_user_can_put_right_ends_with_2(capsys, argv, sentence):
    code, out, err = command(capsys, *argv)
    assert code == 2 and out == ""
    assert sentence in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys):
    code, _, err = command(capsys, "--debug", "run", "none.yaml")
    assert code == 2
    assert "Traceback" in err and err.endswith("error: no recipe at none.yaml\n")


def test_check_prints_models_and_cost(capsys, recipe):
    code, out, _ = command(capsys, "check", recipe)
    assert code == 0
    head, row = out.splitlines()
    assert head.split() == ["stage", "verb", "role", "model", "params", "macs", "bytes"]
    assert row.split()[:4] == ["small", "teach", "task", "classify(resnet10t)"]
    code, out, _ = command(capsys, "check", recipe, "--json")
    assert json.loads(out)[0]["stage"] == "small"


def test_check_prints_all_problems(capsys, recipe):
    code, out, err = command(capsys, "check", recipe, "stages.0.task.backbone.backbone=resnet81")
    assert (code, out) == (2, "")
    assert err.startswith("error: stages[0].task.backbone: unknown backbone 'resnet81'; did you mean")


def test_list_names_everything(capsys):
    code, out, _ = command(capsys, "list", "--json")
    found = json.loads(out)
    assert code == 0
    assert [r["name"] for r in found["methods"]] == list(stems("teach"))
    assert [r["name"] for r in found["tasks"]] == list(stems("tasks"))
    assert "cifar_resnet20" in [r["name"] for r in found["backbones"]]
    assert all(row["what"] for row in found["methods"])


def test_list_backbones_searches_timm():
    names = [r["name"] for r in listing("backbones", "resnet1*t")["backbones"]]
    assert "resnet10t" in names and all(n.startswith("resnet1") for n in names)
    with pytest.raises(MarrowError, match="no backbone is called 'resnet81'; did you mean"):
        listing("backbones", "resnet81")


@pytest.mark.parametrize(("folder", "stem"), [(f, s) for f in CONTRACTS for s in stems(f)])
def test_show_every_class(folder, stem):
    facts = describe(stem)
    assert facts["kind"] == CONTRACTS[folder].lower()
    assert facts["class"] in as_text(facts) or facts["about"] in as_text(facts)
    assert json.loads(json.dumps(facts)) == facts


def test_show_a_method():
    facts = describe("ssld")
    assert facts["models"]["student"] == "Task, that gives logits"
    assert facts["arguments"]["temperature"] == "float = 1.0"
    assert facts["streams"] == ["train"]


def test_show_a_backbone(capsys):
    code, out, _ = command(capsys, "show", "resnet18", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["params"], facts["macs"], facts["dim"]) == (11_176_512, 1_813_561_344, 512)
    assert facts["gives"] == ["maps", "pooled", "relu"]


def test_show_an_artifact(capsys, artifact):
    code, out, _ = command(capsys, "show", artifact.path, "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["name"], facts["kind"], facts["model"]) == ("student", "task", "classify(resnet10t)")
    assert facts["metrics"][0]["value"] == 0.5
    assert [row["parent"] for row in facts["lineage"]] == ["teacher", "not beside it"]
    code, out, _ = command(capsys, "show", artifact.path)
    assert "weights.safetensors" in out and "top1" in out


def test_a_probe_in_a_recipe_is_read_on_the_terminal(capsys, tmp_path):
    source = "[{images: digits, split: %s}]"
    (tmp_path / "look.yaml").write_text(
        "seed: 0\nstages:\n  - examine: knn\n    name: near\n"
        "    model: {backbone: resnet10t, img_size: 16, channels: [8, 8, 8, 8], stem_width: 8}\n"
        f"    data: {{train: {source % 'train'}, test: {source % 'test'}}}\n"
    )
    code, out, _ = command(capsys, "run", tmp_path / "look.yaml", "--out", tmp_path / "look", "--json")
    [row] = json.loads(out)
    assert code == 0 and (row["stage"], row["metric"]) == ("near", "knn_top1") and 0 < row["value"] < 1
    code, out, _ = command(capsys, "show", tmp_path / "look" / "near", "--json")
    assert code == 0 and json.loads(out)["metrics"][0]["value"] == row["value"]


def test_lineage_follows_parents(tmp_path, artifact):
    assert lineage(artifact)[0]["kind"] == "task"


def test_a_damaged_artifact_is_named(capsys, tmp_path):
    (tmp_path / "artifact.json").write_text("{", encoding="utf-8")
    code, _, err = command(capsys, "show", tmp_path)
    assert code == 2 and "artifact.json is not JSON" in err


def test_doctor(capsys):
    code, out, _ = command(capsys, "doctor", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["versions"]["torch"] and facts["devices"][0]["device"] == "cpu"
    assert {"extra", "installed", "missing"} <= set(facts["extras"][0])
    assert all(
        e["installed"] or any(f"marrow[{e['extra']}]" in line for line in facts["advice"]) for e in facts["extras"]
    )


def test_claim_without_names_prints_the_ledger(capsys):
    code, out, _ = command(capsys, "claim", "--json")
    assert code == 0
    assert all({"system", "verdict"} <= set(row) for row in json.loads(out))


def ended(code, *, full=False):
    """(exit code, stderr) of a script in a process of its own."""
    with open("/dev/full" if full else os.devnull, "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=out, stderr=subprocess.PIPE, text=True
        )
    return done.returncode, done.stderr


AT_IMPORT = """
    import os, signal, sys
    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                {happens}
    sys.meta_path.insert(0, Watch())
    from marrow.cli import main
    main({argv})
"""


def test_ctrl_c_ends_with_130_and_the_way_on(recipe):
    happens = f"os.kill(os.getpid(), {int(signal.SIGINT)})"
    code, err = ended(AT_IMPORT.format(happens=happens, argv=["run", str(recipe), "--out", "x"]))
    assert code == 130
    assert err.strip() == f"interrupted; go on with: marrow run {recipe} --out x --resume"


def test_a_bug_ends_with_1_in_one_line(recipe):
    argv = ["check", str(recipe)]
    code, err = ended(AT_IMPORT.format(happens='raise RuntimeError("boom")', argv=argv))
    assert code == 1
    assert err == ("error: this is a bug in marrow: RuntimeError: boom; run again with --debug for the traceback\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_no_bug():
    code, err = ended("from marrow.cli import main; main(['list'])", full=True)
    assert code == 2
    assert err.startswith("error: No space left on device\n")


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    code = "from marrow.cli import main; main(['list'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_tables():
    rows = [{"name": "a", "n": 1234567, "share": 0.98765}, {"name": "longer", "n": None, "share": 12345.6}]
    assert table(rows).splitlines() == [
        "name            n   share",
        "a       1,234,567  0.9877",
        "longer             12,346",
    ]
    assert table([]) == ""
    wrapped = table([{"name": "a", "what": "one two three four five six seven"}], width=34)
    assert wrapped.splitlines()[1:] == ["a     one two three four five six", "      seven"]
    assert pairs({"a": [1, 2], "long": {"x": True}}) == "a     1, 2\nlong  x yes"
    assert [words(v) for v in (None, True, 5, 0.5, "x")] == ["", "yes", "5", "0.5", "x"]
