"""Turns per-image values into records; all intervals of one evaluation share their resamples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from visage.maths.streams import numpy_generator
from visage.measures.intervals import (
    Counts,
    Interval,
    auroc,
    auroc_interval,
    mean_interval,
    percentiles,
    resample,
    resampled_means,
    unrelated,
)
from visage.measures.table import BY_KEY
from visage.results import Kind, Record

INVERTED = "inverted: other images count as more face-like than faces"


class Figure(NamedTuple):
    """What a measure found: a value from random draws or from sets of images, and what is needed to judge it."""

    value: float
    n: int
    ci95: Interval | None = None
    note: str = ""


@dataclass(slots=True)
class Recorder:
    """The records of one evaluation, in the order in which they are added.

    resamples: behind each interval. identity: (N,) who is on each of the measured faces, -1 where that is not known.

    Raises:
        LookupError: (from every method) the metric has no row in `visage.measures.table`.
    """

    resamples: int
    seed: int
    identity: NDArray[np.integer]
    records: list[Record] = field(default_factory=list)
    drawn: dict[tuple[str, int], Counts] = field(default_factory=dict)

    def faces(self, n: int) -> Counts:
        """The resamples of the people on the first n of the measured faces."""
        return self._counts("test", self.identity)[:, :n]

    def others(self, n: int) -> Counts:
        """The resamples of n images of an external set; sets of one size share theirs."""
        return self._counts("ood", unrelated(n))

    def _counts(self, stream: str, identity: NDArray[np.integer]) -> Counts:
        key = stream, len(identity)
        if key not in self.drawn:
            self.drawn[key] = resample(identity, self.resamples, numpy_generator(self.seed, f"{stream} resamples"))
        return self.drawn[key]

    def mean(
        self,
        metric: str,
        kind: Kind,
        values: NDArray[np.float64],
        note: str = "",
        rows: NDArray[np.integer] | None = None,
    ) -> None:
        """Record the mean of a value per face, (n,); undefined where a value is not finite.

        rows: (n,) places of these faces among the measured ones; None: they are the first n.
        """
        bad = int((~np.isfinite(values)).sum())
        if bad:
            reason = f"not finite for {bad} of {len(values)} images"
            self.missing(metric, f"{reason}; {note}" if note else reason)
            return
        counts = self.faces(len(values)) if rows is None else self.faces(len(self.identity))[:, rows]
        self.figure(metric, kind, float(values.mean()), len(values), mean_interval(values, counts), note)

    def less(
        self, metric: str, kind: Kind, values: NDArray[np.float64], gain: NDArray[np.float64], note: str = ""
    ) -> None:
        """Record the mean of values of the first n faces, less the mean of what the first m of these gain, m <= n.

        So it can be set beside the mean of the values, although m is small: other faces make no difference.
        """
        if not (np.isfinite(values).all() and np.isfinite(gain).all()):
            self.missing(metric, f"a value is not finite; {note}")
            return
        plain = resampled_means(values, self.faces(len(values)))
        interval = percentiles(plain - resampled_means(gain, self.faces(len(gain))))
        self.figure(metric, kind, float(values.mean() - gain.mean()), len(gain), interval, note)

    def auroc(
        self,
        images: str,
        score: str,
        test: NDArray[np.float64],
        ood: NDArray[np.float64],
        counts: tuple[Counts, Counts] | None,
        kind: Kind = "exact",
        note: str = "",
    ) -> None:
        """Record how well a score tells (m,) images of a set from (n,) test faces; undefined where a score is NaN.

        counts: the resamples of both, (R, n) and (R, m); None leaves the interval out.
        kind: "estimate" for a score that random draws are part of.
        """
        bad = int(np.isnan(test).sum() + np.isnan(ood).sum())
        n = len(test) + len(ood)
        if bad:
            self.missing("auroc", f"the score is NaN for {bad} of {n} images", images, score)
            return
        interval = auroc_interval(test, ood, *counts) if counts else None
        notes = [note] * bool(note) + [INVERTED] * (interval is not None and interval[1] < 0.5)
        self.figure("auroc", kind, auroc(test, ood), n, interval, "; ".join(notes), images, score)

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

    def estimates(self, figures: Mapping[str, Figure | str]) -> None:
        """Record what the measures of a family found, or why they found nothing."""
        for metric, found in figures.items():
            if isinstance(found, str):
                self.missing(metric, found)
            else:
                self.figure(metric, "estimate", *found)

    def _add(self, record: Record) -> None:
        if record.metric not in BY_KEY:
            raise LookupError(f"{record.metric} has no row in visage/measures/table.py")
        self.records.append(record)
