"""The notebook says what it does, in order, and does it."""

import ast
import builtins

import nbformat
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.test_pipeline import SETTINGS, origin

NOTEBOOK = ROOT / "docs" / "visage.ipynb"
GIVEN = {
    "IMAGES": SETTINGS["data.synthetic.images"],
    "KIMG": 0.16,
    "MEASURED": SETTINGS["evaluate.images"],
    "SETTINGS": {"data.synthetic.images_per_identity": 4},
}


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_as_it_was_written(notebook):
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert code(notebook)[0].metadata.tags == ["parameters"]
    assert notebook.cells[0].cell_type == "markdown"
    assert 'REPOSITORY = "<this repository>"' in code(notebook)[0].source


def test_every_name_is_defined_before_it_is_used(notebook):
    """In the order of the cells; ruff, which reads notebooks, looks within each."""
    known = set(dir(builtins))
    for cell in code(notebook):
        nodes = list(ast.walk(ast.parse(cell.source)))
        known |= {alias.asname or alias.name.split(".")[0] for n in nodes if hasattr(n, "names") for alias in n.names}
        known |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert {node.id for node in nodes if isinstance(node, ast.Name)} <= known


def test_its_settings_are_those_of_params_yaml(notebook):
    cells = [cell.source for cell in code(notebook)]
    names = {}
    exec(cells[0] + "\n" + next(cell for cell in cells if cell.startswith("settings")), names)
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    for key in names["settings"]:
        section = params
        for word in key.split("."):
            assert word in section, key
            section = section[word]
    assert set(names["RUNS"]) <= set(params["runs"])
    assert names["changes"][:2] == ["-S", "runs=[vae-32,dcgan-32]"]


@pytest.mark.long
def test_it_runs_from_top_to_bottom_in_a_checkout(notebook, tmp_path, monkeypatch):
    project = origin(tmp_path / "visage", "docs")
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    given = "\n".join(f"{name} = {value!r}" for name, value in GIVEN.items())
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(project / "docs")}}).execute()

    outputs = [output for cell in code(notebook) for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3  # samples of both, and reconstructions by the one that encodes
    tables = [
        output.data["text/plain"] for output in outputs if "recon_mse" in output.get("data", {}).get("text/plain", "")
    ]
    assert len(tables) == 1
    assert all(name in tables[0] for name in ("vae-32-0", "dcgan-32-0"))
    assert (project / "report.zip").stat().st_size > 0
