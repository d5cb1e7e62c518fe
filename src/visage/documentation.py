"""`python -m visage.documentation`: write the generated parts of README.md and docs/measures.md.

The README's tables come from params.yaml, the model files and the committed figures and costs of the baseline; those
of measures, scores and sets come from `visage.measures.table`. Each part is enclosed by two comments in its file; a
test fails where one of them is out of date.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visage import params
from visage.config import RunConfig
from visage.errors import UserError
from visage.files import read_json, write_text
from visage.measures.table import BASELINES, BY_KEY, GROUPS, MEASURES, SCORES, SETS, Measure
from visage.models import base
from visage.report.model_page import ABILITIES
from visage.report.wording import MARKS, WRITE, count, duration
from visage.results import TrainingCost, read
from visage.training.outputs import build_model

BEGIN, END = "<!-- {}: written by `make docs` -->\n", "<!-- end of {} -->"
"""The comments around a generated part."""
SIZE = 32
"""The image size of the README's tables."""
FIGURES = ("recon_mse", "bits_per_dim", "fd_attr128", "coverage")
"""One for each task, and how varied the samples are."""
ARROWS = {"lower": "↓", "higher": "↑", "": ""}


def write_documentation(root: Path) -> list[str]:
    """Bring the generated parts up to date; the names of the files that changed.

    Raises:
        UserError: a file lacks the comments of a part.
    """
    changed = []
    for name, parts in PARTS.items():
        path = root / name
        before = text = path.read_text(encoding="utf-8")
        for part, write in parts.items():
            text = _replaced(text, part, write(root), name)
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |\n" for line in lines)


def models_table(root: Path) -> str:
    """A row for each recipe of params.yaml that the default run trains at `SIZE`."""
    shipped = params.load(root / "params.yaml")
    configs = params.resolve(shipped, root / "src")
    return table(
        ("run", "model, file", "paper", "can", "parameters", "trains in"),
        [_model_row(config, root) for config in configs if config.size == SIZE and config.seed == shipped.seeds[0]],
    )


def _model_row(config: RunConfig, root: Path) -> list[str]:
    model = build_model(config)
    kind = base.find(config.model)
    abilities = {name: words for name, words in ABILITIES.items() if name != "ScoresOod"}  # which every model has
    can = [words for name, words in abilities.items() if base.can(model, getattr(base, name))]
    trained = sum(p.numel() for modules in model.players().values() for m in modules for p in m.parameters())
    cost = root / "metrics" / "cost" / "train" / f"{config.name}.json"
    seconds = read(cost, TrainingCost).seconds if cost.is_file() else None
    return [
        f"`{config.recipe}`",
        f"{_title(kind)}, [{config.model}.py](src/visage/models/{config.model}.py)",
        re.sub(r", (arXiv:[\d.]+)", r"", kind.paper),
        ", ".join(can),
        count(trained),
        "–" if seconds is None else duration(round(seconds)),
    ]


def _title(kind: type[base.GenerativeModel]) -> str:
    """The beginning of the model file's docstring, up to the paper."""
    module = __import__(kind.__module__, fromlist=["__doc__"])
    first = (module.__doc__ or "").split("\n", 1)[0]
    return re.split(r" \(|[:,.]", first)[0].removeprefix("The ")


def figures_table(root: Path) -> str:
    """A row of committed figures for each run of `models_table`, then for each of their linear references."""
    shipped = params.load(root / "params.yaml")
    configs = params.resolve(shipped, root / "src")
    columns = [BY_KEY[metric] for metric in FIGURES]
    rows, codes = [], {0.0}
    for config in configs:
        if config.size == SIZE and config.seed == shipped.seeds[0]:
            found = _figures(root, config.name)
            codes.add(found.get("code_numbers", 0.0))
            rows.append([f"`{config.recipe}`", *_written(found, columns, _mark(build_model(config)))])
    for name, found in _figures(root, "reference").get(str(SIZE), {}).items():
        if name == "gaussian" or (name.startswith("pca_") and found["code_numbers"] in codes):
            words = "one Gaussian" if name == "gaussian" else f"PCA, {count(found['code_numbers'])} numbers"
            rows.append([f"*{words}: a linear reference*", *_written(found, columns, "")])
    return table(("run", *(f"{column.title} {ARROWS[column.better]}" for column in columns)), rows)


def _figures(root: Path, name: str) -> dict[str, Any]:
    """The committed figures of a run or a stage, by name; none where it has not run."""
    path = root / "metrics" / f"{name}.json"
    return dict(read_json(path)) if path.is_file() else {}


def _written(found: Mapping[str, float], columns: Sequence[Measure], mark: str) -> list[str]:
    """A cell for each column; mark: of bits/dim."""
    return [
        (mark if column.key == "bits_per_dim" else "") + WRITE[column.format](found[column.key])
        if column.key in found
        else "–"
        for column in columns
    ]


def _mark(model: base.GenerativeModel) -> str:
    """What kind of number a model's bits/dim are."""
    if base.can(model, base.HasLogProb):
        return ""
    return MARKS["upper_bound" if base.can(model, base.HasBound) else "estimate"]


def measures_tables(root: Path) -> str:
    """A table of measures for each group."""
    parts = []
    for group, title in GROUPS.items():
        rows = [
            [f"`{m.key}`", f"{m.title}{f' ({m.unit})' if m.unit else ''}", ARROWS[m.better], m.explanation]
            for m in MEASURES
            if m.group == group
        ]
        parts.append(f"\n### {title}\n\n{table(('figure', 'title', 'better', 'what it is'), rows)}")
    return "".join(parts) + "\n"


def scores_tables(root: Path) -> str:
    """The scores that evaluation derives, those that need no model, and the sets of images."""
    scores = table(("score", "of", "what it is"), [(f"`{name}`", of, words) for name, (of, words) in SCORES.items()])
    trivial = table(("score without a model", "what it is"), [(f"`{name}`", what) for name, what in BASELINES.items()])
    sets = table(
        ("set", "what it holds", "what it isolates"),
        [(f"`{name}`", words.title, words.isolates) for name, words in SETS.items()],
    )
    return f"\n{scores}\n{trivial}\n{sets}\n"


PARTS: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {"models": models_table, "figures": figures_table},
    "docs/measures.md": {"measures": measures_tables, "scores and sets": scores_tables},
}


def main() -> None:
    """Bring the documentation of the project in the working directory up to date."""
    for name in write_documentation(Path.cwd()):
        print(f"{name}: updated")


if __name__ == "__main__":
    main()
