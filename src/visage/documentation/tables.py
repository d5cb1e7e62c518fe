"""The tables of README.md and docs/measures.md."""

import re
from collections.abc import Mapping, Sequence

from visage.config import RunConfig
from visage.documentation.baseline import Baseline
from visage.measures.table import BASELINES, BY_KEY, GROUPS, MEASURES, SCORES, SETS, Measure
from visage.models import base
from visage.report.model_page import ABILITIES
from visage.report.wording import MARKS, WRITE, count, duration
from visage.using.catalogue import title

SIZE = 32
"""The image size of the README's tables."""
FIGURES = ("recon_mse", "bits_per_dim", "fd_attr128", "coverage")
"""One for each task, and how varied the samples are."""
ARROWS = {"lower": "↓", "higher": "↑", "": ""}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |\n" for line in lines)


def models_table(baseline: Baseline) -> str:
    """A row for each recipe of params.yaml that the default run trains at `SIZE`."""
    return table(
        ("run", "model, file", "paper", "can", "parameters", "trains in"),
        [_model_row(config, baseline) for config in baseline.of_size(SIZE)],
    )


def _model_row(config: RunConfig, baseline: Baseline) -> list[str]:
    model = baseline.models[config.name]
    abilities = {name: words for name, words in ABILITIES.items() if name != "ScoresOod"}  # which every model has
    can = [words for name, words in abilities.items() if base.can(model, getattr(base, name))]
    cost = baseline.cost(config.name)
    return [
        f"`{config.recipe}`",
        f"{title(type(model))}, [{config.model}.py](src/visage/models/{config.model}.py)",
        re.sub(r", (arXiv:[\d.]+)", r"", model.paper),
        ", ".join(can),
        count(baseline.parameters(config.name)),
        "–" if cost is None else duration(round(cost.seconds)),
    ]


def figures_table(baseline: Baseline) -> str:
    """A row of committed figures for each run of `models_table`, then for each of their linear references."""
    columns = [BY_KEY[metric] for metric in FIGURES]
    rows, codes = [], {0.0}
    for config in baseline.of_size(SIZE):
        found = baseline.figures(config.name)
        codes.add(found.get("code_numbers", 0.0))
        mark = kind_mark(baseline.models[config.name])
        rows.append([f"`{config.recipe}`", *(written(found, column, mark) for column in columns)])
    for name, found in baseline.figures("reference").get(str(SIZE), {}).items():
        if name == "gaussian" or (name.startswith("pca_") and found["code_numbers"] in codes):
            words = "one Gaussian" if name == "gaussian" else f"PCA, {count(found['code_numbers'])} numbers"
            rows.append([f"*{words}: a linear reference*", *(written(found, column, "") for column in columns)])
    return table(("run", *(f"{column.title} {ARROWS[column.better]}" for column in columns)), rows)


def published_table(baseline: Baseline) -> str:
    """A row for each run with samples or a likelihood, then one for the Gaussian of each size."""
    columns = [BY_KEY[key] for key in ("bits_per_dim", "fd_attr128", "fd_attr128_floor")]
    reference = baseline.figures("reference")
    rows = []
    for config in baseline.configs:
        floor = {"fd_attr128_floor": reference.get(str(config.size), {}).get("fd_attr128_floor")}
        found, mark = baseline.figures(config.name), kind_mark(baseline.models[config.name])
        if "fd_attr128" in found or "bits_per_dim" in found:
            rows.append([f"`{config.label}`", *(written({**floor, **found}, column, mark) for column in columns)])
    rows += [
        [f"*one Gaussian, {size} pixels*", *(written({**found, **found["gaussian"]}, column, "") for column in columns)]
        for size, found in reference.items()
        if "gaussian" in found
    ]
    return f"\n{table(('run', *(column.title for column in columns)), rows)}\n"


def written(found: Mapping[str, float], measure: Measure, mark: str) -> str:
    """A figure as the page writes it, a dash where there is none; mark: of bits/dim."""
    if measure.key not in found:
        return "–"
    return (mark if measure.key.startswith("bits_per_dim") else "") + WRITE[measure.format](found[measure.key])


def kind_mark(model: base.GenerativeModel) -> str:
    """What kind of number a model's bits/dim are."""
    if base.can(model, base.HasLogProb):
        return ""
    return MARKS["upper_bound" if base.can(model, base.HasBound) else "estimate"]


def measures_tables(_: Baseline) -> str:
    """A table of measures for each group."""
    parts = []
    for group, words in GROUPS.items():
        rows = [
            [f"`{m.key}`", f"{m.title}{f' ({m.unit})' if m.unit else ''}", ARROWS[m.better], m.explanation]
            for m in MEASURES
            if m.group == group
        ]
        parts.append(f"\n### {words}\n\n{table(('figure', 'title', 'better', 'what it is'), rows)}")
    return "".join(parts) + "\n"


def scores_tables(_: Baseline) -> str:
    """The scores that evaluation derives, those that need no model, and the sets of images."""
    scores = table(("score", "of", "what it is"), [(f"`{name}`", of, words) for name, (of, words) in SCORES.items()])
    trivial = table(("score without a model", "what it is"), [(f"`{name}`", what) for name, what in BASELINES.items()])
    sets = table(
        ("set", "what it holds", "what it isolates"),
        [(f"`{name}`", words.title, words.isolates) for name, words in SETS.items()],
    )
    return f"\n{scores}\n{trivial}\n{sets}\n"
