"""What is compared: the runs of one label, which differ in their seed alone, and their figures taken together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from visage.config import RunConfig
from visage.report.load import Record, Run

NOT_EVALUATED = "not evaluated yet: run `dvc repro`"
NOT_TRAINED = "not trained yet: run `dvc repro`"
INDICATIVE = 1000
"""A figure of fewer images is an indication, no result."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A number about a run that is no figure of its evaluation. kind: counted, or measured by a clock or the like."""

    read: Callable[[Run], float | None]
    unit: str
    kind: str


def _shown(run: Run) -> float | None:
    images = run.training.get("images_shown")
    return None if images is None else images / 1000


FACTS = {
    "parameters": Fact(lambda run: run.training.get("parameters", {}).get("total"), "trainable numbers", "counted"),
    "kimg": Fact(_shown, "thousand images", "counted"),
    "train_pflop": Fact(lambda run: run.cost.get("train_pflop"), "10^15 floating-point operations", "counted"),
    "seconds": Fact(lambda run: run.cost.get("seconds"), "seconds", "measured"),
    "images_per_second": Fact(lambda run: run.cost.get("images_per_second"), "images per second", "measured"),
    "peak_memory_mb": Fact(lambda run: run.cost.get("peak_memory_mb"), "MB", "measured"),
    "sample_gflop": Fact(lambda run: run.sampling.get("sample_gflop"), "10^9 floating-point operations", "counted"),
    "sample_seconds_per_64": Fact(lambda run: run.sampling.get("sample_seconds_per_64"), "seconds", "measured"),
}


def record_of(run: Run, name: str) -> Record:
    """A figure or a fact of the run; an undefined one, with the reason, where nothing wrote it."""
    if name in FACTS:
        return _fact(run, name)
    reason = f"the evaluation wrote no {name}" if run.records else NOT_EVALUATED
    return run.records.get(name, Record(name, None, "", "undefined", 0, None, reason, "", ""))


def _fact(run: Run, name: str) -> Record:
    fact = FACTS[name]
    value = fact.read(run)
    if value is None:
        sampling = run.abilities.get("Samples") if name.startswith("sample_") else ""
        reason = sampling or ("not recorded" if run.training else NOT_TRAINED)
        return Record(name, None, fact.unit, "undefined", 0, None, reason, "", "")
    device = run.cost.get("device") if fact.kind == "measured" else None
    return Record(name, value, fact.unit, fact.kind, 0, None, f"on {device}" if device else "", "", "")


@dataclass(frozen=True, slots=True)
class Pooled:
    """One figure of all seeds, undefined ones included, in the order of the seeds."""

    records: Sequence[Record]

    @property
    def defined(self) -> list[Record]:
        """Those that have a value."""
        return [record for record in self.records if record.value is not None]

    @property
    def values(self) -> list[float]:
        """The values that there are."""
        return [record.value for record in self.records if record.value is not None]

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
        """Why there is no value."""
        return "" if self.defined else self.records[0].note

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest seed; of a single one, its 95 % interval, None where it has none."""
        if len(self.values) > 1:
            return min(self.values), max(self.values)
        return self.defined[0].ci95 if self.defined else None

    @property
    def indicative(self) -> bool:
        """Whether a value stands on fewer than 1000 images."""
        return any(0 < record.n < INDICATIVE for record in self.defined)

    @property
    def inverted(self) -> bool:
        """Whether every seed's whole interval lies below 1/2: an AUROC so low says the opposite."""
        intervals = [record.ci95 for record in self.defined]
        return bool(intervals) and all(interval is not None and interval[1] < 0.5 for interval in intervals)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of one size: a row of the table, a colour in the charts.

    runs: one per seed. The first one's pictures and curves are shown, however it turned out.
    """

    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """`<recipe>-<size>`."""
        return self.config.label

    @property
    def config(self) -> RunConfig:
        """That of the first run."""
        return self.first.config

    @property
    def first(self) -> Run:
        """The run whose pictures and curves are shown."""
        return self.runs[0]

    def pooled(self, name: str) -> Pooled:
        """A figure or a fact, seed by seed."""
        return Pooled([record_of(run, name) for run in self.runs])

    def names(self) -> list[str]:
        """All figures that some run has, in their order."""
        return list(dict.fromkeys(name for run in self.runs for name in run.records))


def entries(runs: Sequence[Run]) -> list[Entry]:
    """The runs by label, in the order in which a label comes first."""
    labels: dict[str, list[Run]] = {}
    for run in runs:
        labels.setdefault(run.config.label, []).append(run)
    return [Entry(tuple(seeds)) for seeds in labels.values()]
