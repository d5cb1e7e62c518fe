"""What README.md and docs/ say of models and measures is what the code and the committed baseline say."""

import shutil

import pytest

from tests.conftest import ROOT
from visage.documentation import PARTS, write_documentation
from visage.errors import UserError
from visage.measures.table import MEASURES


@pytest.fixture
def copy(tmp_path):
    for name in PARTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("params.yaml", "src", "metrics"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_the_generated_tables_are_up_to_date(copy):
    assert write_documentation(copy) == [], "run `make docs`"


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
