"""The house rules that a machine can check, over the whole package: who imports whom, names, sizes, four files a method."""

import ast
import subprocess
import sys
from collections import defaultdict
from importlib.util import resolve_name
from pathlib import Path

import marrow
from marrow.core.catalogue import CONTRACTS, PACKAGE, stems

ROOT = Path(__file__).parent.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
VERBS = {"teach", "shrink", "examine", "ship"}
NOUNS = {"backbones", "tasks"}
MAY_IMPORT = {"core": set(), "nn": {"core"}, "data": {"core"}}
MAY_IMPORT |= dict.fromkeys(NOUNS, {"core", "nn", "data"})
MAY_IMPORT |= dict.fromkeys(VERBS, {"core", "nn", "data"} | NOUNS)

LIGHTNING = {"core/engine.py", "core/launch.py"}
# Slow to import or an optional extra. A verb's file is loaded when it is asked for and may have them at its top.
LATE = {"sklearn", "pyarrow", "onnxruntime", "torchmetrics", "tensorboard", "rich", "jinja2"}

LONGEST = 350
LONGEST_ENGINE = 300

# Files without a claim of their own; each with the reason.
WITHOUT_CLAIM = {
    "supervised": "plain training is the baseline of the other claims, not a claim itself",
    "ssld_select": "the first stage of ssld's full recipe",
    "token_mixing": "the augmentation of vit_resnas, whose claim compares what was found at equal training",
    "hard_distillation": "the training of a token that vit_resnas has beside its own; ssld has the claim of distillation",
    "multi_architectural": "it trains the supernet in which vit_resnas_search searches",
    "vrex": "the heads of rich_representations where domains are known; its own paper is none of the systems",
    "vit_resnas_search": "its claim is that of the nets, vit_resnas",
    "feature_distillation": "no published system: its parts are, and `make` measures each run by knn_agreement",
    "mae": "the teacher in the claims of tinymim and hybrid_distillation",
    "nested_size": "it cuts what matryoshka trained, in whose claim it stands",
    "adaptive_classification": "it measures and promises nothing",
    "adaptive_retrieval": "it measures and promises nothing",
    "pixcontrast": "an arm of the claim of pixpro, from the same paper",
    "separation": "it measures and promises nothing",
    "dense_probe": "it measures and promises nothing",
    "attention_diversity": "it measures and promises nothing",
    "knn": "it measures and promises nothing",
    "few_shot": "it measures and promises nothing",
    "linear_probe": "it measures and promises nothing; the claim about rich representations goes by it",
    "domain_shift": "it measures and promises nothing",
    "knn_agreement": "it measures and promises nothing",
    "object_importance": "it measures and promises nothing",
    "drop_blocks": "no paper: it leaves blocks out and promises nothing",
    "prune": "no paper of ours: the criterion that learned pruning is measured against",
}


def inside(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def is_late(node: ast.AST) -> bool:
    """What is inside does not run as the module is loaded."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports(file: Path) -> list[tuple[str, bool]]:
    """Every absolute module name that a file imports, with whether it does so as it is loaded."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    late = {id(inner) for node in ast.walk(tree) if is_late(node) for inner in ast.walk(node)}
    package = ".".join(("marrow", *file.relative_to(PACKAGE).parent.parts))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            # `from ..core import artifact` names a module only with its alias.
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin.startswith("marrow") else [origin]
        else:
            continue
        found += [(name, id(node) not in late) for name in names]
    return found


def test_imports_point_one_way():
    wrong = []
    for file in MODULES:
        folder = file.relative_to(PACKAGE).parts[0]
        if folder not in MAY_IMPORT:
            continue  # files at the top may import everything
        for name, _ in imports(file):
            first, *rest = name.split(".")
            if first == "marrow" and rest and rest[0] != folder and rest[0] not in MAY_IMPORT[folder]:
                wrong.append(f"{inside(file)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_method_imports_another():
    wrong = []
    for folder in VERBS & set(CONTRACTS):
        taken = {f"marrow.{folder}.{stem}" for stem in stems(folder)}
        for file in (PACKAGE / folder).glob("*.py"):
            wrong += [f"{inside(file)} imports {name}" for name, _ in imports(file)
                      if ".".join(name.split(".")[:3]) in taken and name.split(".")[2] != file.stem]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_lightning_is_imported_in_two_files_only():
    files = {inside(f) for f in MODULES if any(n.startswith(("lightning", "pytorch_lightning")) for n, _ in imports(f))}
    assert files <= LIGHTNING


def test_heavy_libraries_are_imported_where_they_are_used():
    wrong = [f"{inside(file)} imports {name} at its top" for file in MODULES for name, at_top in imports(file)
             if at_top and name.split(".")[0] in LATE and file.parent.name not in VERBS]  # fmt: skip
    assert not wrong, "\n".join(wrong)


def test_import_marrow_loads_neither_torch_nor_timm():
    script = (
        "import sys, marrow; print([m for m in ('torch', 'timm', 'numpy', 'rich', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_few_and_there():
    assert 1 <= len(marrow.__all__) <= 15
    for name in marrow.__all__:
        assert getattr(marrow, name) is not None, name
    assert set(marrow.__all__) <= set(dir(marrow))


def test_stems_are_unique_over_all_folders():
    where = defaultdict(set)
    for folder in VERBS | NOUNS:
        for file in (PACKAGE / folder).glob("*.py"):
            if file.stem != "__init__":
                where[file.stem].add(folder)
    assert not {stem: sorted(folders) for stem, folders in where.items() if len(folders) > 1}


def test_file_names_say_what_is_inside():
    empty = {"utils", "util", "helpers", "misc", "common"}
    assert not [inside(f) for f in MODULES if f.stem in empty]


def test_files_hold_one_idea():
    lengths = {inside(f): len(f.read_text(encoding="utf-8").splitlines()) for f in MODULES}
    assert lengths["core/engine.py"] < LONGEST_ENGINE
    assert not {f: n for f, n in lengths.items() if n > LONGEST}


def test_every_module_says_what_it_is_for():
    silent = [inside(f) for f in MODULES if f.read_text(encoding="utf-8").strip()
              and not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))]  # fmt: skip
    assert not silent


def test_every_method_has_its_four_files():
    missing = []
    for folder in ("teach", "shrink", "examine"):
        for stem in stems(folder):
            wanted = [f"recipes/{stem}.yaml", f"tests/{folder}/test_{stem}.py"]
            wanted += [f"claims/{stem}.py"] if stem not in WITHOUT_CLAIM else []
            missing += [file for file in wanted if not (ROOT / file).is_file()]
    assert not missing
