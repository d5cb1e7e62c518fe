"""The comparison table: one row per model, each cell a number of a known kind or a dash with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visage.measures.comparison import on_common_images, paired_difference
from visage.measures.table import GROUPS, MEASURES, Measure
from visage.report.figures import COSTS, Pooled
from visage.report.linear import Opponent, beaten
from visage.report.models import Model
from visage.report.wording import KINDS, MARKS, WRITE, significant

COLUMNS = [measure for measure in MEASURES if not measure.reference]
"""What differs from model to model."""
VIEWS = {"headline": "Headline", **GROUPS, "all": "All"}
"""Views of the table: a column is in its group's and in the last one, the most important ones also in the first."""
SUSPICIOUS = 0.8
"""A ratio of distances to the nearest training face, samples over test faces, below which samples may be copies."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The content of a cell.

    value: None for a dash; then `reason` says why. order: the kind's place among the groups of a sorted column.
    detail: small print under the number (interval, or range of the seeds); flags: words that qualify it.
    hint: appears on hover. indicative: whether fewer than 1000 images are behind it.
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


def columns_of(models: Sequence[Model]) -> list[Measure]:
    """The columns but those that no evaluation knows of."""
    known = {metric for model in models for metric in model.metrics}
    return [column for column in COLUMNS if column.key in COSTS or column.key in known or not known]


def views(column: Measure) -> str:
    """The views that contain a column, separated by spaces."""
    return f"{'headline ' * column.headline}{column.group} all"


def cell(model: Model, column: Measure, verdict: str = "", linear: Sequence[Opponent] = ()) -> Cell:
    """One cell. verdict: of `verdicts`, if there is one. linear: the references that the model should beat."""
    pooled = model.pooled(column.key)
    return _cell(pooled, column, [verdict, warning(column, pooled), beaten(model, column.key, linear)])


def linear_cells(opponent: Opponent, columns: Sequence[Measure]) -> list[Cell]:
    """The row of a linear reference."""
    return [_cell(opponent.pooled(column.key), column, []) for column in columns]


def _cell(pooled: Pooled, column: Measure, flags: Sequence[str]) -> Cell:
    write = WRITE[column.format]
    order = list(KINDS).index(pooled.kind)
    if pooled.value is None:
        return Cell(column.key, "–", None, order, reason=pooled.reason)
    return Cell(
        column.key,
        (MARKS.get(pooled.kind, "") if column.ranked else "") + write(pooled.value),
        pooled.value,
        order,
        detail=spread(pooled, write),
        flags=[flag for flag in flags if flag],
        hint=hint(pooled, write),
        indicative=pooled.indicative,
    )


def warning(column: Measure, pooled: Pooled) -> str:
    """What a number alone gives away: a score points the wrong way, samples lie too close to training faces."""
    if column.key == "auroc" and pooled.inverted:
        return "inverted"
    if column.key in ("memorization", "memorization_pixels") and pooled.value is not None:
        return "suspicious" if pooled.value < SUSPICIOUS else ""
    return ""


def spread(pooled: Pooled, write: Callable[[float], str]) -> str:
    """The interval, or "seeds" and their range, or nothing where they are written alike; how many of them have none."""
    ends = [write(end) for end in pooled.spread or ()]
    several = len(pooled.values) > 1
    width = "" if several and ends[0] == ends[1] else "–".join(ends)
    if pooled.gaps:
        return f"{len(pooled.values)} of {len(pooled.figures)} seeds {width}".rstrip()
    return f"seeds {width}" if several and width else width


def hint(pooled: Pooled, write: Callable[[float], str]) -> str:
    """What a number is, in one line."""
    first, several = pooled.defined[0], len(pooled.values) > 1
    parts = [
        KINDS[pooled.kind],
        f"n = {first.n}{' (indicative)' if pooled.indicative else ''}" if first.n else "",
        f"mean of {len(pooled.values)} seeds" if several else "",
        *(f"a seed has no value: {figure.note}" for figure in pooled.gaps),
        "" if several or pooled.spread is None else "95 % " + " to ".join(write(end) for end in pooled.spread),
        first.note,
    ]
    return "; ".join(part for part in parts if part)


def footnotes(columns: Sequence[Measure], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Every reason for a dash, once; those of the first view before the others, so that its numbers run from 1."""
    order = sorted(range(len(columns)), key=lambda i: not columns[i].headline)
    return list(dict.fromkeys(row[i].reason for i in order for row in rows if row[i].reason))


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model compares with the best one of its kind. flag: for the table; text: the comparison as a phrase."""

    flag: str
    text: str


BEST = {"exact": "best exact", "upper_bound": "best bound", "lower_bound": "best bound", "estimate": "best estimate"}


def verdicts(models: Sequence[Model], column: Measure) -> dict[str, Verdict]:
    """Label -> which model is the best within each kind, and which others cannot be told from it.

    Models are compared on the images that all of one kind were measured on, seeds averaged: a mean over other images,
    or over the seeds that did not fail, is no rival. A model is tied with the best where the 95 % interval of its mean
    difference per image from it (paired bootstrap) does not lie wholly on the worse side of 0.
    """
    found: dict[str, Verdict] = {}
    for kind in KINDS:
        rivals = [model for model in models if (p := model.pooled(column.key)).value is not None and p.kind == kind]
        found |= _among(rivals, column, kind)
    return found


def _among(models: Sequence[Model], column: Measure, kind: str) -> dict[str, Verdict]:
    """The verdicts on models whose figures are of one kind."""
    kept = {model.label: found for model in models if (found := model.per_image(column.key)) is not None}
    hashes = {run.results.data_hash for model in models if model.label in kept for run in model.runs}
    if len(kept) < 2 or len(hashes) > 1:
        return {}
    values = dict(zip(kept, on_common_images(list(kept.values())), strict=True))
    n = min(len(found.rows) for found in values.values())
    if n < 2:
        return {}
    sign = 1 if column.better == "lower" else -1
    best = min(values, key=lambda label: sign * float(values[label].values.mean()))
    others = {}
    for label, rival in values.items():
        if label == best:
            continue
        difference = paired_difference(rival, values[best])
        tied = min(sign * difference.low, sign * difference.high) <= 0
        interval = f"95 % {significant(difference.low)} to {significant(difference.high)}"
        words = f"differs by {significant(difference.mean)} ({interval}, paired over {n} images)"
        text = f"{'tied with' if tied else 'worse than'} the best, {best}: {words}"
        others[label] = Verdict("tied with the best" if tied else "", text)
    name = BEST[kind] if column.ranked else "best"
    return {best: Verdict(name, f"the best of {len(values)} ({KINDS[kind]}) on {n} common images"), **others}
