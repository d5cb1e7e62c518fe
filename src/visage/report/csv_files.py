"""The report's tables as data: table.csv and curves.csv."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from visage.files import replacing
from visage.measures.table import Measure
from visage.report.figures import Figure, Key, Pooled, figure_of
from visage.report.linear import Opponent
from visage.report.load import Run
from visage.report.table import COLUMNS


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table with full precision."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def figures_frame(runs: Sequence[Run], linear: Sequence[Opponent]) -> pd.DataFrame:
    """The figures, a row per run, at full precision, empty where undefined; named as in metrics/*.json.

    Beside them the kinds of bits/dim and of the AUROC, and the AUROC's interval. The last rows, which have no recipe,
    are those of linear references.
    """
    return pd.DataFrame([*(_row(run) for run in runs), *(_linear_row(one) for one in linear)])


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "label": run.config.label, "recipe": run.config.recipe}
    row |= {"size": run.config.size, "seed": run.config.seed, "scale": run.config.scale}
    return row | _figures(lambda metric: figure_of(run, Key(metric)))


def _linear_row(opponent: Opponent) -> dict[str, Any]:
    return {"run": opponent.label, "label": opponent.label, "size": opponent.size} | _figures(opponent.figure)


def _figures(find: Callable[[str], Figure]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in COLUMNS:
        figure = find(column.key)
        row[_name(column)] = figure.value
        if column.key in {"bits_per_dim", "auroc"}:
            row[f"{_name(column)}_kind"] = figure.kind
        if column.key == "auroc":
            row["ood_auroc_low"], row["ood_auroc_high"] = figure.ci95 or (None, None)
            row["ood_inverted"] = Pooled([figure]).inverted
    return row


def _name(column: Measure) -> str:
    return f"ood_{column.key}" if column.group == "ood" else column.key


def curves_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """All training curves as one tidy table: run, step, kimg, term, value."""
    parts = [pd.DataFrame({"run": [], "step": [], "kimg": [], "term": [], "value": []})]
    for run in runs:
        for source, prefix in ((run.history, ""), (run.validation, "validation/")):
            if len(source):
                tidy = source.melt(["step", "kimg"], var_name="term").dropna(subset="value")
                parts.append(tidy.assign(run=run.name, term=prefix + tidy["term"]))
    return pd.concat([part for part in parts if len(part)] or parts)[["run", "step", "kimg", "term", "value"]]
