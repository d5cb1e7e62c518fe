"""What README.md and docs/ say of models and measures is what the code and the committed baseline say."""

import io
import shutil
import subprocess
import tarfile

import pytest

from tests.conftest import ROOT
from visage.documentation import PARTS, write_documentation
from visage.errors import UserError
from visage.measures.table import MEASURES


def copied(folder, settings_and_figures=ROOT):
    for name in PARTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "src").symlink_to(ROOT / "src")
    for name in ("params.yaml", "metrics"):
        (folder / name).symlink_to(settings_and_figures / name)
    return folder


@pytest.fixture
def copy(tmp_path):
    return copied(tmp_path / "copy")


@pytest.fixture
def committed(tmp_path):
    """The same with settings and figures of the last commit: who runs the project has others."""
    command = ["git", "archive", "HEAD", "params.yaml", "metrics"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "archive", filter="data")
    return copied(tmp_path / "committed", tmp_path / "archive")


def test_the_generated_tables_are_up_to_date(copy, committed):
    assert [] in (write_documentation(copy), write_documentation(committed)), "run `make docs`"


@pytest.mark.long
def test_a_table_that_was_edited_is_written_again(copy):
    page = copy / "docs" / "measures.md"
    text = page.read_text()
    assert all(f"`{measure.key}`" in text for measure in MEASURES)
    page.write_text(text.replace("Recon. MSE", "Something else"))
    assert write_documentation(copy) == ["docs/measures.md"]
    assert page.read_text() == text


def test_a_page_without_the_comments_is_refused(copy):
    page = copy / "README.md"
    page.write_text(page.read_text().replace("<!-- end of models -->", ""))
    with pytest.raises(UserError, match=r"README\.md lacks the comments around its part 'models'"):
        write_documentation(copy)


def test_a_model_without_a_page_is_named(copy):
    (copy / "docs" / "models" / "glow.md").unlink()
    with pytest.raises(UserError, match=r"docs/models/glow\.md is missing: .* write it like its neighbours"):
        write_documentation(copy)
