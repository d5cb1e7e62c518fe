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
    texts = {name: _read(root / name, name) for name in PARTS}
    changed, baseline = [], Baseline.load(root)
    for name, before in texts.items():
        text = before
        for part, write in PARTS[name].items():
            begin, end = BEGIN.format(part), END.format(part)
            kept, _, rest = text.partition(begin)
            text = kept + begin + write(baseline) + end + rest.partition(end)[2]
        if text != before:
            write_text(root / name, text)
            changed.append(name)
    return changed


def _read(path: Path, name: str) -> str:
    if not path.is_file():
        raise UserError(f"{name} is missing: restore it from git or, for a new model, write it like its neighbours")
    text = path.read_text(encoding="utf-8")
    for part in PARTS[name]:
        if END.format(part) not in text.partition(BEGIN.format(part))[2]:
            raise UserError(f"{name} lacks the comments around its part {part!r}: restore them from git")
    return text
