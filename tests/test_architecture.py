"""The house keeps its shape: who may import whom, and which code each stage declares that it depends on."""

import ast
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from visage.params import PLUMBING, first_party_imports

SRC = ROOT / "src"
MODULES = sorted(
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__") for path in SRC.rglob("*.py")
)
MAY_IMPORT = {
    "maths": {"maths"},
    "nn": {"nn", "maths"},
    "models": {"nn", "maths", "models.base"},
    "data": {"data", "plumbing"},
    "training": {"training", "models.base", "maths", "plumbing"},
    "evaluation": {"evaluation", "models.base", "maths", "data", "plumbing", "attribute_network"},
    "report": {"report", "plumbing"},
}


def imports_of(module):
    path = SRC.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name for name in found if name.split(".")[0] == "visage"}


@pytest.mark.parametrize("module", [m for m in MODULES if m.count(".") == 2])
def test_imports_flow_one_way(module):
    room = module.split(".")[1]
    for name in imports_of(module) - {f"visage.{room}"}:
        inner = name.removeprefix("visage.")
        kinds = {inner, inner.split(".")[0]} | ({"plumbing"} if name in PLUMBING else set())
        if module == "visage.models.base" and name == "visage.models":
            continue  # it lists the package's files
        assert kinds & MAY_IMPORT[room], f"{module} imports {name}"


def test_models_never_import_models():
    for module in MODULES:
        if module.startswith("visage.models.") and module != "visage.models.base":
            assert {i for i in imports_of(module) if i.startswith("visage.models.")} <= {"visage.models.base"}


def test_only_tracking_names_mlflow_and_nothing_in_training_names_dvc():
    for path in [*SRC.rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        tree = ast.parse(path.read_text())
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        if path.name != "tracking.py":
            assert not {n for n in names if n.split(".")[0] == "mlflow"}, path
        assert not {n for n in names if n.split(".")[0] == "dvc"}, path


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_training_and_evaluation_start_without_slow_imports(stage):
    code = (
        f"import runpy, sys; runpy.run_path('stages/{stage}.py', run_name='x');"
        "print([m for m in ('torchvision', 'pandas', 'sklearn', 'mlflow', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def stage_imports(stage):
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    roots = [
        n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("visage")
    ]
    return first_party_imports(roots, SRC)


@pytest.mark.parametrize("stage", ["download", "preprocess", "train", "evaluate", "report"])
def test_each_stage_depends_on_the_code_it_runs(stage):
    """What a stage imports is declared in its `deps`, or is in the digest of its run's config, or makes no numbers."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    declared = [d for d in stages[stage]["deps"] if d.startswith("src/")]
    assert f"stages/{stage}.py" in stages[stage]["deps"]
    digested = first_party_imports(["visage.training.loop", "visage.evaluation.validation"], SRC)
    indifferent = PLUMBING | {"visage", "visage.stage", "visage.tracking"}
    if stage in {"train", "evaluate"}:
        # outputs.py writes and reads the weights' files; where a device is and what a config says changes no number
        indifferent |= digested | {
            "visage.training.outputs",
            "visage.training.devices",
            "visage.data",
            "visage.data.arrays",
        }
    for module in stage_imports(stage) - indifferent:
        path = "src/" + module.replace(".", "/")
        covered = any(path == d or path + ".py" == d or path.startswith(d + "/") for d in declared)
        assert covered or (SRC.parent / path).is_dir(), f"stages/{stage}.py runs {path}.py, which its deps do not name"


def test_doorways_are_short():
    for path in (ROOT / "stages").glob("*.py"):
        assert len(path.read_text().splitlines()) < 60, path.name
