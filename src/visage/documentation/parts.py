"""Which parts of which pages are generated, and how they are brought up to date.

Tables of models and figures come from params.yaml, the model files and the committed figures and costs of the baseline;
those of measures, scores and sets from `visage.measures.table`; the pages of models from their docstrings and settings.
Each part is enclosed by two comments in its file, so that pages are complete wherever Markdown is read; a test fails
where one of them is out of date.
"""

from collections.abc import Callable
from pathlib import Path

from visage.documentation import gallery, model_pages, tables
from visage.documentation.baseline import Baseline
from visage.errors import UserError
from visage.files import write_text
from visage.models import base

BEGIN, END = "<!-- {}: written by `make docs` -->\n", "<!-- end of {} -->"
"""The comments around a generated part."""

PARTS: dict[str, dict[str, Callable[[Baseline], str]]] = {
    "README.md": {"models": tables.models_table, "figures": tables.figures_table},
    "docs/measures.md": {"measures": tables.measures_tables, "scores and sets": tables.scores_tables},
    "docs/published.md": {"ours": tables.published_table},
    "docs/gallery.md": {"gallery": gallery.strips},
    "docs/models/index.md": {"models": model_pages.index},
    **{f"docs/models/{name}.md": model_pages.parts(name) for name in base.names()},
}
"""File -> name of a part -> what writes it."""


def write_documentation(root: Path) -> list[str]:
    """Bring the generated parts up to date; the names of the files that changed.

    Raises:
        UserError: a file is missing, or lacks the comments of a part.
    """
    changed, baseline = [], Baseline.load(root)
    for name, parts in PARTS.items():
        path = root / name
        if not path.is_file():
            raise UserError(
                f"{name} is missing: restore it from git or, for a new model, write it after its neighbours"
            )
        before = text = path.read_text(encoding="utf-8")
        for part, write in parts.items():
            text = _replaced(text, part, write(baseline), name)
        if text != before:
            write_text(path, text)
            changed.append(name)
    return changed


def _replaced(text: str, part: str, content: str, file: str) -> str:
    begin, end = BEGIN.format(part), END.format(part)
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (opened and closed):
        raise UserError(f"{file} lacks the comments around its part {part!r}: restore them from git")
    return before + begin + content + end + after
