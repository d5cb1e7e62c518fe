"""Turns per-image values into records; all intervals of one evaluation share their resamples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visage.maths.streams import numpy_generator
from visage.measures.intervals import Counts, Interval, auroc, auroc_interval, mean_interval, resample
from visage.measures.table import BY_KEY
from visage.results import Kind, Record

INVERTED = "inverted: other images count as more face-like than faces"
Stream = Literal["test", "ood", "suite"]
"""Whose resamples: held-out faces, external sets, or derived ones. Sets of one size share theirs."""


class Figure(NamedTuple):
    """What a measure found: a value from random draws or from sets of images, and what is needed to judge it."""

    value: float
    n: int
    ci95: Interval | None = None
    note: str = ""


@dataclass(slots=True)
class Recorder:
    """The records of one evaluation, in the order in which they are added.

    resamples: behind each interval.

    Raises:
        LookupError: (from every method) the metric has no row in `visage.measures.table`.
    """

    resamples: int
    seed: int
    records: list[Record] = field(default_factory=list)
    drawn: dict[tuple[str, int], Counts] = field(default_factory=dict)

    def counts(self, stream: Stream, n: int) -> Counts:
        """The resamples of n images."""
        if (stream, n) not in self.drawn:
            self.drawn[stream, n] = resample(n, self.resamples, numpy_generator(self.seed, f"{stream} resamples"))
        return self.drawn[stream, n]

    def mean(self, metric: str, kind: Kind, values: NDArray[np.float64], note: str = "") -> None:
        """Record the mean of a value per test image, (n,); undefined where a value is not finite."""
        bad = int((~np.isfinite(values)).sum())
        if bad:
            reason = f"not finite for {bad} of {len(values)} images"
            self.missing(metric, f"{reason}; {note}" if note else reason)
            return
        interval = mean_interval(values, self.counts("test", len(values)))
        self.figure(metric, kind, float(values.mean()), len(values), interval, note)

    def auroc(
        self,
        images: str,
        score: str,
        test: NDArray[np.float64],
        ood: NDArray[np.float64],
        note: str = "",
        stream: Stream | None = "ood",
    ) -> None:
        """Record how well a score tells (m,) images of a set from (n,) test faces; undefined where a score is NaN.

        stream: of the set's resamples; None leaves the interval out.
        """
        bad = int(np.isnan(test).sum() + np.isnan(ood).sum())
        n = len(test) + len(ood)
        if bad:
            self.missing("auroc", f"the score is NaN for {bad} of {n} images", images, score)
            return
        interval = None
        if stream is not None:
            interval = auroc_interval(test, ood, self.counts("test", len(test)), self.counts(stream, len(ood)))
        notes = [note] * bool(note) + [INVERTED] * (interval is not None and interval[1] < 0.5)
        self.figure("auroc", "exact", auroc(test, ood), n, interval, "; ".join(notes), images, score)

    def missing(self, metric: str, reason: str, images: str = "", score: str = "") -> None:
        """Record a figure that does not exist, and why."""
        self._add(Record(metric, "undefined", note=reason, images=images, score=score))

    def figure(
        self,
        metric: str,
        kind: Kind,
        value: float,
        n: int,
        ci95: Interval | None = None,
        note: str = "",
        images: str = "",
        score: str = "",
    ) -> None:
        """Record a figure that is not a mean over images; undefined where it is not finite."""
        if math.isfinite(value):
            self._add(Record(metric, kind, float(value), n, ci95, note, images, score))
        else:
            self.missing(metric, f"not finite; {note}" if note else "not finite", images, score)

    def estimates(self, figures: Mapping[str, Figure]) -> None:
        """Record what the measures of a family found."""
        for metric, found in figures.items():
            self.figure(metric, "estimate", *found)

    def _add(self, record: Record) -> None:
        if record.metric not in BY_KEY:
            raise LookupError(f"{record.metric} has no row in visage/measures/table.py")
        self.records.append(record)
