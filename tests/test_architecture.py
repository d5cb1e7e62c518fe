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
PLAIN = {
    "visage.config",
    "visage.data.card",
    "visage.errors",
    "visage.files",
    "visage.fork_server",
    "visage.machine",
    "visage.measures.table",
    "visage.metrics",
    "visage.pictures",
    "visage.redaction",
    "visage.results",
    "visage.scratch",
}
"""Plain data, for all rooms but the mathematics."""
MAY_IMPORT = {
    "maths": {"maths"},
    "nn": {"nn", "maths"},
    "models": {"nn", "maths", "models.base"},
    "measures": {"measures", "maths", "plain"},
    "data": {"data", "plain"},
    "inference": {"inference", "models.base", "maths", "data.arrays", "plain"},
    "weights": {"plain"},
    "training": {"training", "inference", "models.base", "maths", "weights", "plain"},
    "attribute_network": {"training", "inference", "measures", "maths", "data", "weights", "plain"},
    "reference": {"reference", "attribute_network", "inference", "measures", "maths", "data", "plain"},
    "evaluation": {
        *("evaluation", "reference", "attribute_network", "training.devices", "inference", "models.base", "measures"),
        *("maths", "data", "weights", "plain"),
    },
    "report": {"report", "measures", "plain"},
    "tracking": {"tracking", "using.loaded", "training.outputs", "weights", "plain"},
    "params": {"params", "training.plan", "models.base", "data", "plain"},
    "train_run": {"tracking", "training", "inference", "models.base", "maths", "data", "weights", "plain"},
    "evaluate_run": {"tracking", "evaluation", "training", "inference", "maths", "plain"},
    "stage": {"plain"},
    "pipeline": {"pipeline", "report", "stage", "plain"},
    "using": {
        *("using", "attribute_network", "reference", "inference", "measures", "maths", "models.base", "training"),
        *("params", "report.wording", "report.model_page", "data", "weights", "plain"),
    },
    "cli": {"cli", "using", "visage", "measures.table", "report.wording", "stage", "plain"},
    "documentation": {
        "documentation",
        "using.catalogue",
        "params",
        "models.base",
        "report",
        "training.outputs",
        "plain",
    },
}
"""Room (a package, or a module of its own) -> what it may import; imports flow down only."""
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def imports_of(path):
    """The dotted names that a file imports from any package, `from a.b import c` as a.b.c where that is a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import, which no digest sees"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & set(MODULES)) or {node.module}
    return found


def file_of(module):
    path = SRC.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("module", [m for m in MODULES if m != "visage" and m not in PLAIN])
def test_imports_flow_one_way(module):
    room = module.split(".")[1]
    for name in imports_of(file_of(module)):
        if name.split(".")[0] != "visage" or (module, name) == ("visage.models.base", "visage.models"):
            continue  # the models' base lists its package's files
        inner = name.removeprefix("visage.")
        kinds = {inner, inner.split(".")[0]} | ({"plain"} if name in PLAIN else set())
        assert kinds & MAY_IMPORT[room], f"{module} imports {name}"


def test_models_never_import_models():
    for module in MODULES:
        if module.startswith("visage.models.") and module != "visage.models.base":
            named = {name for name in imports_of(file_of(module)) if name.startswith("visage.models.")}
            assert named <= {"visage.models.base"}


def test_only_tracking_names_mlflow_and_nothing_names_dvc():
    for path in [*SRC.rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        packages = {name.split(".")[0] for name in imports_of(path)}
        assert "dvc" not in packages, path
        if SRC / "visage" / "tracking" not in path.parents:
            assert "mlflow" not in packages, path


def modules_after(statement, names):
    """Which of some modules a fresh interpreter holds after a statement."""
    code = f"import runpy, sys\n{statement}\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_plain_data_needs_no_torch():
    assert modules_after(f"import {', '.join(sorted(PLAIN))}", ["torch", "torchvision", "mlflow", "pandas"]) == []


@pytest.mark.parametrize("statement", ["import visage", "import visage.cli.main"])
def test_the_package_and_its_command_line_start_without_slow_imports(statement):
    slow = ["torch", "numpy", "pandas", "sklearn", "mlflow", "matplotlib", "pydantic", "PIL", "gradio"]
    assert modules_after(statement, slow) == []


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_training_and_evaluation_start_without_slow_imports(stage):
    slow = ["torchvision", "pandas", "sklearn", "mlflow", "matplotlib"]
    assert modules_after(f"runpy.run_path('stages/{stage}.py', run_name='x')", slow) == []


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - {"configure"}))
def test_each_stage_depends_on_its_own_code(stage):
    assert {f"stages/{stage}.py", f"configs/code/{stage}.json"} <= set(STAGES[stage]["deps"])
    assert not [dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")]


def test_configure_reads_all_code_and_all_parameters():
    assert {"stages", "src/visage", "params.yaml"} <= set(STAGES["configure"]["deps"])


def test_every_stage_has_a_doorway_and_every_doorway_is_short():
    doorways = {path.stem: path for path in (ROOT / "stages").glob("*.py")}
    assert doorways.keys() == STAGES.keys()
    for path in doorways.values():
        assert len(path.read_text().splitlines()) < 60, path.name


def test_plumbing_makes_no_numbers():
    """What is left out of the digests needs nothing that computes; tracking reads weights, to name their hash."""
    roots = {name for name in MODULES if any(name == p or name.startswith(f"{p}.") for p in PLUMBING)}
    roots -= {name for name in roots if name.split(".")[1] in {"params", "tracking"}}
    needed = first_party_imports(roots, SRC) - {"visage", "visage.data", "visage.measures"}
    assert needed == roots
