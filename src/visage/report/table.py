"""The comparison table: one row per run, each cell a number of a known kind or a dash with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from visage.report.load import Record, Run
from visage.report.wording import KINDS, MARKS, count, decimals, duration, share, significant, thousands

NOT_EVALUATED = "not evaluated yet: run `dvc repro`"
NOT_TRAINED = "not trained yet: run `dvc repro`"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    key: its name in table.csv; for figures of the evaluation also the record's name.
    better: "lower", "higher" or "" where neither is.
    ranked: numbers of different kinds (exact, bound) stand in it and must not be ranked against each other.
    """

    key: str
    title: str
    unit: str
    help: str
    write: Callable[[float], str]
    better: str = ""
    ranked: bool = False


FACTS = (
    Column("parameters", "Parameters", "", "Trainable numbers, all networks together", count),
    Column("kimg", "Images shown", "thousand", "Training images shown, repeats counted", thousands),
)
MEASURES = (
    Column(
        "recon_mse",
        "Recon. MSE",
        "",
        "Squared error of the reconstruction per pixel and channel, pixels in [0, 1]",
        significant,
        "lower",
    ),
    Column(
        "psnr",
        "PSNR",
        "dB",
        "Peak signal-to-noise ratio of the reconstruction",
        partial(decimals, places=2),
        "higher",
    ),
    Column("ssim", "SSIM", "", "Structural similarity of the reconstruction; 1 = identical", share, "higher"),
    Column(
        "rate",
        "Rate",
        "nats",
        "KL(q(z|x) ‖ p(z)) per image: what the code tells about the image",
        partial(decimals, places=1),
    ),
    Column(
        "distortion",
        "Distortion",
        "nats",
        "−E log P(x|z) per image: what the code leaves open",
        partial(decimals, places=1),
        "lower",
    ),
    Column(
        "elbo",
        "ELBO",
        "nats",
        "−distortion − rate: a lower bound on log P(image)",
        partial(decimals, places=1),
        "higher",
    ),
    Column(
        "bits_per_dim",
        "Bits/dim",
        "",
        "−log₂ P(8-bit image) per dimension; ≤ marks an upper bound",
        partial(decimals, places=3),
        "lower",
        ranked=True,
    ),
    Column(
        "ood_auroc",
        "OOD AUROC",
        "",
        "Chance that the model's own score puts an image of the other set above a face; .5 = none",
        share,
        "higher",
    ),
)
COSTS = (
    Column("seconds", "Training", "time", "Wall clock of the training", duration, "lower"),
    Column("images_per_second", "Speed", "images/s", "Training images per second", significant, "higher"),
    Column("peak_memory_mb", "Peak memory", "MB", "Of the training process, or of the GPU", significant, "lower"),
    Column("sample_seconds_per_64", "64 samples", "time", "Wall clock of drawing 64 images", duration, "lower"),
)
COLUMNS = FACTS + MEASURES + COSTS


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell shows.

    value: None = a dash; then `reason` says why. order: the kind's place among the groups of a sorted column.
    detail: small print under the number (interval, `inverted`); hint: shown on hover.
    """

    text: str
    value: float | None
    kind: str
    order: int
    detail: str = ""
    flag: str = ""
    hint: str = ""
    reason: str = ""


def record_of(run: Run, name: str) -> Record:
    """A figure of the run; an undefined one, with the reason, where the evaluation has not written it."""
    reason = f"the evaluation wrote no {name}" if run.records else NOT_EVALUATED
    return run.records.get(name, Record(name, None, "", "undefined", 0, None, reason, "", ""))


def inverted(record: Record) -> bool:
    """Whether the whole interval of an AUROC lies below chance: the other images look more like faces than faces do."""
    return record.ci95 is not None and record.ci95[1] < 0.5


def record_cell(run: Run, column: Column) -> Cell:
    """The cell of a figure of the evaluation."""
    record = record_of(run, column.key)
    order = list(KINDS).index(record.kind)
    if record.value is None:
        return Cell("–", None, record.kind, order, reason=record.note)
    mark = MARKS.get(record.kind, "") if column.ranked else ""
    interval = "" if record.ci95 is None else f"95 % {column.write(record.ci95[0])} to {column.write(record.ci95[1])}"
    hint = "; ".join(part for part in (KINDS[record.kind], f"n = {record.n}", interval, record.note) if part)
    shown = column.key == "ood_auroc" and record.ci95 is not None
    return Cell(
        mark + column.write(record.value),
        record.value,
        record.kind,
        order,
        detail=interval.removeprefix("95 % ").replace(" to ", "–") if shown else "",
        flag="inverted" if shown and inverted(record) else "",
        hint=hint,
    )


def fact(run: Run, key: str) -> float | None:
    """A number about the training: the size of the model, what it saw, what it cost."""
    if key == "parameters":
        total: float | None = run.training.get("parameters", {}).get("total")
        return total
    if key == "kimg":
        shown = run.training.get("images_shown")
        return None if shown is None else shown / 1000
    if key == "sample_seconds_per_64":
        return run.sampling
    value: float | None = run.cost.get(key)
    return value


def fact_cell(run: Run, column: Column) -> Cell:
    """The cell of a number about the training."""
    value = fact(run, column.key)
    if value is None:
        return Cell("–", None, "undefined", 0, reason="not recorded" if run.training else NOT_TRAINED)
    device = run.cost.get("device")
    return Cell(column.write(value), value, "exact", 0, hint=f"on {device}" if device and column in COSTS else "")


def cells(run: Run) -> list[Cell]:
    """A row of the table, in the order of COLUMNS."""
    return [record_cell(run, column) if column in MEASURES else fact_cell(run, column) for column in COLUMNS]


def footnotes(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Every reason for a dash, once, in the order of reading."""
    return list(dict.fromkeys(cell.reason for row in rows for cell in row if cell.reason))


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """The table as data: full precision, empty where undefined; beside them the kind of bits/dim, AUROC's interval."""
    return pd.DataFrame([_data(run) for run in runs])


def _data(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "recipe": run.config.recipe, "size": run.config.size}
    row["scale"] = run.config.scale
    for column in COLUMNS:
        row[column.key] = record_of(run, column.key).value if column in MEASURES else fact(run, column.key)
        if column.key == "bits_per_dim":
            row["bits_per_dim_kind"] = record_of(run, column.key).kind
        if column.key == "ood_auroc":
            record = record_of(run, column.key)
            row["ood_auroc_low"], row["ood_auroc_high"] = record.ci95 or (None, None)
            row["ood_inverted"] = inverted(record)
    return row
