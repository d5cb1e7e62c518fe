"""The report's tables as data: table.csv and curves.csv."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from visage.files import replacing
from visage.measures.table import Measure
from visage.report.figures import Key, Pooled, figure_of
from visage.report.load import Run
from visage.report.table import COLUMNS


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table with full precision."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def figures_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """The figures, a row per run, at full precision, empty where undefined; named as in metrics/*.json.

    Beside them the kind of bits/dim and the interval of the AUROC.
    """
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "label": run.config.label, "recipe": run.config.recipe}
    row |= {"size": run.config.size, "seed": run.config.seed, "scale": run.config.scale}
    for column in COLUMNS:
        figure = figure_of(run, Key(column.key))
        row[_name(column)] = figure.value
        if column.key == "bits_per_dim":
            row["bits_per_dim_kind"] = figure.kind
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
