"""The numbers of the page: one figure of a run or of the reference, and the same figure of several seeds together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from visage.measures.table import BY_KEY
from visage.report.load import Run
from visage.report.wording import WRITE
from visage.results import Record, Reference, TrainingCost

NOT_EVALUATED = "not evaluated yet: run `dvc repro`"
NOT_TRAINED = "not trained yet: run `dvc repro`"
NOT_MEASURED = "this score was not measured on this set"
INDICATIVE = 1000
"""A figure from fewer images is an indication, not a result."""


class Key(NamedTuple):
    """Which figure is meant.

    metric: a row of `visage.measures.table`.
    images, score: of a figure about other images; "" for the headline set and the model's default score.
    """

    metric: str
    images: str = ""
    score: str = ""

    def __str__(self) -> str:
        """The name by which the page's script finds the figure."""
        return " ".join(part for part in self if part)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and what is needed to judge it.

    value: None exactly where kind is "undefined"; `note` then holds the reason.
    kind: a key of `wording.KINDS`. n: images behind it, 0 where it is not about images. ci95: its 95 % interval.
    """

    value: float | None
    kind: str
    n: int = 0
    ci95: tuple[float, float] | None = None
    note: str = ""


def undefined(reason: str) -> Figure:
    """A gap with its reason."""
    return Figure(None, "undefined", note=reason)


def figure_of(run: Run, key: Key) -> Figure:
    """A figure of a run, from its evaluation or from its costs; undefined, with the reason, where nothing wrote it."""
    if key.metric in COSTS:
        return COSTS[key.metric](run)
    if not run.evaluated:
        return undefined(NOT_EVALUATED)
    record = run.results.find(*key)
    if record is None:
        return undefined(NOT_MEASURED if key.images else f"the evaluation wrote no {key.metric}")
    return recorded(record)


def reference_figure(reference: Reference, key: Key) -> Figure:
    """A figure that depends on no model; undefined, with the reason, where nothing wrote it."""
    record = reference.find(*key)
    if record is None:
        return undefined(NOT_MEASURED if key.images else f"the reference has no {key.metric}")
    return recorded(record)


def recorded(record: Record) -> Figure:
    """A stored figure."""
    return Figure(record.value, record.kind, record.n, record.ci95, record.note)


# --- costs ------------------------------------------------------------------------------------------------------------


def _parameters(run: Run) -> Figure:
    return Figure(run.training.parameters.total, "counted") if run.training else undefined(NOT_TRAINED)


def _images_shown(run: Run) -> Figure:
    return Figure(run.training.images_shown / 1000, "counted") if run.training else undefined(NOT_TRAINED)


def _train_pflop(run: Run) -> Figure:
    cost = run.training_cost
    if cost is None:
        return _no_training_cost(run)
    counts = [stage.train_pflop for stage in _stages(cost)]
    counted = [count for count in counts if count is not None]
    if len(counted) < len(counts):
        return undefined("its operations could not be counted")
    return _with_first_stage("train_pflop", "counted", counted)


def _seconds(run: Run) -> Figure:
    cost = run.training_cost
    if cost is None:
        return _no_training_cost(run)
    return _with_first_stage("seconds", "measured", [stage.seconds for stage in _stages(cost)], cost.footprint.device)


def _images_per_second(run: Run) -> Figure:
    cost = run.training_cost
    return _clocked(cost.images_per_second, cost.footprint.device) if cost else _no_training_cost(run)


def _peak_memory(run: Run) -> Figure:
    cost = run.training_cost
    return _clocked(cost.footprint.peak_memory_mb, cost.footprint.device) if cost else _no_training_cost(run)


def _sample_gflop(run: Run) -> Figure:
    gflop = run.evaluation_cost.sample_gflop if run.evaluation_cost else None
    return _no_sampling_cost(run) if gflop is None else Figure(gflop, "counted")


def _sampling(run: Run) -> Figure:
    cost = run.evaluation_cost
    if cost is None or cost.samples_per_second is None:
        return _no_sampling_cost(run)
    return _clocked(cost.samples_per_second, cost.footprint.device)


COSTS: dict[str, Callable[[Run], Figure]] = {
    "parameters": _parameters,
    "kimg": _images_shown,
    "train_pflop": _train_pflop,
    "seconds": _seconds,
    "images_per_second": _images_per_second,
    "peak_memory_mb": _peak_memory,
    "sample_gflop": _sample_gflop,
    "samples_per_second": _sampling,
}
"""Figures that do not come from the records of an evaluation."""


def _stages(cost: TrainingCost) -> list[TrainingCost]:
    """The training and, after it, those of its first stages."""
    return [cost, *_stages(cost.first_stage)] if cost.first_stage else [cost]


def _with_first_stage(metric: str, kind: str, costs: Sequence[float], device: str = "") -> Figure:
    """The sum of the costs of all stages; the note says how much of it went into the first stage."""
    write, unit = WRITE[BY_KEY[metric].format], BY_KEY[metric].unit
    words = write(sum(costs[1:])) + (f" {unit}" if BY_KEY[metric].format != "duration" else "")
    notes = [f"on {device}" if device else "", f"{words} of it for the first stage" if len(costs) > 1 else ""]
    return Figure(sum(costs), kind, note="; ".join(note for note in notes if note))


def _clocked(value: float, device: str) -> Figure:
    return Figure(value, "measured", note=f"on {device}")


def _no_training_cost(run: Run) -> Figure:
    return undefined("not recorded" if run.training else NOT_TRAINED)


def _no_sampling_cost(run: Run) -> Figure:
    return undefined(run.results.abilities.get("Samples") or ("not recorded" if run.training else NOT_TRAINED))


# --- several seeds ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pooled:
    """One figure of all seeds, undefined ones included, in the order of the seeds."""

    figures: Sequence[Figure]

    @property
    def defined(self) -> list[Figure]:
        """Those that have a value."""
        return [figure for figure in self.figures if figure.value is not None]

    @property
    def gaps(self) -> list[Figure]:
        """Those that have none; their notes say why."""
        return [figure for figure in self.figures if figure.value is None]

    @property
    def values(self) -> list[float]:
        """The values that there are."""
        return [figure.value for figure in self.figures if figure.value is not None]

    @property
    def value(self) -> float | None:
        """Their mean; None where no seed has one."""
        return fmean(self.values) if self.values else None

    @property
    def kind(self) -> str:
        """What kind of number it is: the same for every seed, as they share their model."""
        return self.defined[0].kind if self.defined else "undefined"

    @property
    def reason(self) -> str:
        """Why there is no value; "" where there is one."""
        return "" if self.defined else self.figures[0].note

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest seed; the 95 % interval of a single one, None where it has none."""
        if len(self.values) > 1:
            return min(self.values), max(self.values)
        return self.defined[0].ci95 if self.defined else None

    @property
    def indicative(self) -> bool:
        """Whether fewer than 1000 images are behind some value."""
        return any(0 < figure.n < INDICATIVE for figure in self.defined)

    @property
    def inverted(self) -> bool:
        """Whether every seed's whole interval lies below 1/2: so low an AUROC says the opposite."""
        intervals = [figure.ci95 for figure in self.defined]
        return bool(intervals) and all(interval is not None and interval[1] < 0.5 for interval in intervals)
