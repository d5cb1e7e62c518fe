"""The comparison table: one row per label, each cell a number of a known kind or a dash with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from visage.report.columns import COLUMNS, Column
from visage.report.entries import FACTS, Entry, Pooled, record_of
from visage.report.load import Run
from visage.report.wording import KINDS, MARKS, significant

RESAMPLES = 2000
SUSPICIOUS = 0.8
"""A ratio of distances to the nearest training face, samples over test faces, below which samples may be copies."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell shows.

    value: None = a dash; then `reason` says why. order: the kind's place among the groups of a sorted column.
    detail: small print under the number (interval, or range of the seeds); flags: words that qualify it.
    hint: shown on hover. indicative: whether fewer than 1000 images stand behind it.
    """

    key: str
    text: str
    value: float | None
    order: int
    detail: str = ""
    flags: Sequence[str] = ()
    hint: str = ""
    reason: str = ""
    indicative: bool = False


def columns_of(shown: Sequence[Entry]) -> list[Column]:
    """The columns but those of which no evaluation has heard."""
    known = {name for entry in shown for name in entry.names()}
    return [column for column in COLUMNS if column.key in FACTS or column.key in known or not known]


def cell(entry: Entry, column: Column, verdict: str = "") -> Cell:
    """One cell. verdict: of `verdicts`, if there is one."""
    pooled = entry.pooled(column.key)
    order = list(KINDS).index(pooled.kind)
    if pooled.value is None:
        return Cell(column.key, "–", None, order, reason=pooled.reason)
    return Cell(
        column.key,
        (MARKS.get(pooled.kind, "") if column.ranked else "") + column.write(pooled.value),
        pooled.value,
        order,
        detail=spread(pooled, column.write),
        flags=[flag for flag in (verdict, warning(column, pooled)) if flag],
        hint=hint(pooled, column.write),
        indicative=pooled.indicative,
    )


def warning(column: Column, pooled: Pooled) -> str:
    """What a number alone gives away: a score points the wrong way, samples lie too close to training faces."""
    if column.key == "ood_auroc" and pooled.inverted:
        return "inverted"
    if column.key in ("memorization", "memorization_pixels") and pooled.value is not None:
        return "suspicious" if pooled.value < SUSPICIOUS else ""
    return ""


def spread(pooled: Pooled, write: Callable[[float], str]) -> str:
    """The interval, or "seeds" and their range; nothing where seeds do not differ in what is written."""
    if pooled.spread is None:
        return ""
    low, high = (write(end) for end in pooled.spread)
    if len(pooled.values) > 1:
        return f"seeds {low}–{high}" if low != high else ""
    return f"{low}–{high}"


def hint(pooled: Pooled, write: Callable[[float], str]) -> str:
    """What a number is, in one line."""
    first, several = pooled.defined[0], len(pooled.values) > 1
    parts = [
        KINDS[pooled.kind],
        f"n = {first.n}{' (indicative)' if pooled.indicative else ''}" if first.n else "",
        f"mean of {len(pooled.values)} seeds" if several else "",
        "" if several or pooled.spread is None else "95 % " + " to ".join(write(end) for end in pooled.spread),
        first.note,
    ]
    return "; ".join(part for part in parts if part)


def footnotes(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Every reason for a dash, once; those of the first view before the others, so that its numbers run from 1."""
    order = sorted(range(len(columns)), key=lambda i: not columns[i].headline)
    return list(dict.fromkeys(row[i].reason for i in order for row in rows if row[i].reason))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a run stands beside the best one of its kind. flag: for the table; text: the comparison in words."""

    flag: str
    text: str


BEST = {"exact": "best exact", "upper_bound": "best bound", "lower_bound": "best bound", "estimate": "best estimate"}


def verdicts(shown: Sequence[Entry], column: Column) -> dict[str, Verdict]:
    """Label -> which run is the best within each kind, and which others cannot be told from it.

    A run is tied with the best where the 95 % interval of its mean per-image difference from it (paired bootstrap over
    the images that both were measured on) does not lie wholly on the worse side of 0.
    """
    found: dict[str, Verdict] = {}
    for kind in KINDS:
        rivals = [entry for entry in shown if (p := entry.pooled(column.key)).value is not None and p.kind == kind]
        if len(rivals) < 2:
            continue
        sign = 1 if column.better == "lower" else -1
        best = min(rivals, key=lambda entry: sign * (entry.pooled(column.key).value or 0.0))
        name = BEST[kind] if column.ranked else "best"
        found[best.label] = Verdict(name, f"the best of {len(rivals)} ({KINDS[kind]})")
        for entry in rivals:
            difference = None if entry is best else paired_difference(entry, best, column.key)
            if difference is not None:
                mean, low, high, n = difference
                tied = min(sign * low, sign * high) <= 0
                words = f"{significant(mean)} (95 % {significant(low)} to {significant(high)}, paired over {n} images)"
                text = f"{'tied with' if tied else 'worse than'} the best, {best.label}: differs by {words}"
                found[entry.label] = Verdict("tied with the best" if tied else "", text)
    return found


def paired_difference(entry: Entry, other: Entry, measure: str) -> tuple[float, float, float, int] | None:
    """The mean per-image difference, its 95 % interval, and the number of images; None without images in common."""
    mine, theirs = per_image(entry, measure), per_image(other, measure)
    if (
        mine is None
        or theirs is None
        or len({record.data_hash for e in (entry, other) for record in e.pooled(measure).defined}) > 1
    ):
        return None
    rows, here, there = np.intersect1d(mine[0], theirs[0], return_indices=True)
    if len(rows) < 2:
        return None
    difference = mine[1][here] - theirs[1][there]
    mean = float(difference.mean())
    if np.ptp(difference) == 0:
        return mean, mean, mean, len(rows)
    interval = bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, batch=200, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return mean, float(interval.low), float(interval.high), len(rows)


def per_image(entry: Entry, measure: str) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Rows of test images, and the measure of each, mean over the seeds; None where it was not kept or not finite."""
    kept = [(run.rows, run.scores.get(f"value/{measure}")) for run in entry.runs]
    first = kept[0][0]
    arrays = [values for rows, values in kept if values is not None and np.array_equal(rows, first)]
    if len(arrays) < len(kept) or len({len(values) for values in arrays}) > 1 or len(arrays[0]) > len(first):
        return None
    mean: NDArray[np.float64] = np.mean(arrays, axis=0)
    return (first[: len(mean)], mean) if np.isfinite(mean).all() else None


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """The figures as data, a row per run: full precision, empty where undefined.

    Beside them the kind of bits/dim and the interval of the AUROC.
    """
    return pd.DataFrame([_data(run) for run in runs])


def _data(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "label": run.config.label, "recipe": run.config.recipe}
    row |= {"size": run.config.size, "seed": run.config.seed, "scale": run.config.scale}
    for column in COLUMNS:
        record = record_of(run, column.key)
        row[column.key] = record.value
        if column.key == "bits_per_dim":
            row["bits_per_dim_kind"] = record.kind
        if column.key == "ood_auroc":
            row["ood_auroc_low"], row["ood_auroc_high"] = record.ci95 or (None, None)
            row["ood_inverted"] = Pooled([record]).inverted
    return row
