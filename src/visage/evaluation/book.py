"""Turns per-image values into records, all with the same resamples behind their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from visage.inference.batches import numpy_generator
from visage.measures.intervals import Counts, auroc, auroc_interval, mean_interval, resample
from visage.evaluation.records import Kind, Record, undefined

INVERTED = "inverted: other images count as more face-like than faces"
DIGITS = 6
"""Significant digits of `metrics`: what survives another order of summation."""


@dataclass(slots=True)
class Book:
    """The records of one evaluation, in the order in which they are entered.

    resamples: behind each interval; figures of equally many images share theirs.
    """

    data_hash: str
    model_hash: str
    resamples: int
    seed: int
    records: list[Record] = field(default_factory=list)
    drawn: dict[tuple[str, int], Counts] = field(default_factory=dict)

    def counts(self, images: Literal["test", "ood", "suite"], n: int) -> Counts:
        """The resamples of n images."""
        if (images, n) not in self.drawn:
            generator = numpy_generator(self.seed, f"{images} resamples")
            self.drawn[images, n] = resample(n, self.resamples, generator)
        return self.drawn[images, n]

    def mean(self, name: str, unit: str, kind: Kind, values: NDArray[np.float64], note: str = "") -> None:
        """Enter the mean of a value per test image, (n,); undefined where a value is not finite."""
        bad = int((~np.isfinite(values)).sum())
        if bad:
            reason = f"not finite for {bad} of {len(values)} images"
            self.missing(name, unit, f"{reason}; {note}" if note else reason)
            return
        interval = mean_interval(values, self.counts("test", len(values)))
        self.figure(name, float(values.mean()), unit, kind, len(values), interval, note)

    def auroc(
        self,
        name: str,
        test: NDArray[np.float64],
        ood: NDArray[np.float64],
        note: str = "",
        others: Literal["ood", "suite"] = "ood",
    ) -> None:
        """Enter how well a score tells (m,) other images from (n,) test images; undefined where a score is NaN."""
        bad = int(np.isnan(test).sum() + np.isnan(ood).sum())
        n = len(test) + len(ood)
        if bad:
            self.missing(name, "AUROC", f"the score is NaN for {bad} of {n} images")
            return
        interval = auroc_interval(test, ood, self.counts("test", len(test)), self.counts(others, len(ood)))
        notes = [note] * bool(note) + [INVERTED] * (interval[1] < 0.5)
        self.figure(name, auroc(test, ood), "AUROC", "exact", n, interval, "; ".join(notes))

    def missing(self, name: str, unit: str, reason: str) -> None:
        """Enter a figure that does not exist, and why."""
        self.records.append(undefined(name, unit, reason, data_hash=self.data_hash, model_hash=self.model_hash))

    def figure(
        self,
        name: str,
        value: float,
        unit: str,
        kind: Kind,
        n: int,
        interval: tuple[float, float] | None = None,
        note: str = "",
    ) -> None:
        """Enter a figure that is not a mean over images; undefined where it is not finite."""
        if not math.isfinite(value):
            self.missing(name, unit, f"not finite; {note}" if note else "not finite")
            return
        self.records.append(
            Record(name, value, unit, kind, n, interval, note, data_hash=self.data_hash, model_hash=self.model_hash)
        )


def metrics(records: Sequence[Record]) -> dict[str, Any]:
    """The defined figures by name, for `dvc metrics`; a name "group/figure" becomes a figure of a nested group."""
    result: dict[str, Any] = {}
    for record in records:
        if record.value is not None:
            group, _, figure = record.name.rpartition("/")
            place = result.setdefault(group, {}) if group else result
            place[figure] = float(f"{record.value:.{DIGITS}g}")
    return result
