"""Percentile intervals from resampled images (Efron 1979); all measures of a run share the same resamples."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint16]
"""(R, n): how often each of n images occurs in each of R resamples of size n."""
Interval = tuple[float, float]

ROWS = 200
"""Resamples worked on at a time: bounds the memory at 20,000 images."""


def resample(n: int, resamples: int, generator: np.random.Generator) -> Counts:
    """Draw n of n images with replacement, `resamples` times."""
    rows = [np.bincount(generator.integers(n, size=n), minlength=n) for _ in range(resamples)]
    return np.array(rows, np.uint16)


def mean_interval(values: NDArray[np.float64], counts: Counts) -> Interval:
    """The 95 % interval of the mean of (n,) values."""
    return _percentiles([(block @ values) / len(values) for (block,) in _blocks(counts)])


def auroc(test: NDArray[np.float64], ood: NDArray[np.float64]) -> float:
    """P(score of an OOD image > score of a test image) + P(equal) / 2: the area under the ROC curve.

    +inf is the most OOD there is; no sign is ever flipped.

    Raises:
        ValueError: a score is NaN.
    """
    below, upto = _ranks(test, ood)
    return float((below + upto).sum() / (2 * len(test) * len(ood)))


def auroc_interval(
    test: NDArray[np.float64], ood: NDArray[np.float64], test_counts: Counts, ood_counts: Counts
) -> Interval:
    """The stratified bootstrap's 95 % interval of `auroc`: test and OOD images are resampled separately.

    Raises:
        ValueError: a score is NaN.
    """
    below, upto = _ranks(test, ood)
    order = np.argsort(test, kind="stable")
    values = []
    for test_block, ood_block in _blocks(test_counts, ood_counts):
        # weights of the test images among the k lowest, for every k
        lowest = np.zeros((len(test_block), len(test) + 1), np.int64)
        np.cumsum(test_block[:, order], axis=1, out=lowest[:, 1:])
        wins = lowest[:, below] + lowest[:, upto]
        values.append((wins * ood_block).sum(axis=1) / (2 * len(test) * len(ood)))
    return _percentiles(values)


def _ranks(test: NDArray[np.float64], ood: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each OOD score, how many test scores are lower, and how many are lower or equal."""
    if np.isnan(test).any() or np.isnan(ood).any():
        raise ValueError("a score is NaN")
    ordered = np.sort(test)
    return np.searchsorted(ordered, ood, side="left"), np.searchsorted(ordered, ood, side="right")


def _blocks(*counts: Counts) -> Iterator[tuple[NDArray[np.int64], ...]]:
    for start in range(0, len(counts[0]), ROWS):
        yield tuple(part[start : start + ROWS].astype(np.int64) for part in counts)


def _percentiles(values: list[NDArray[np.float64]]) -> Interval:
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)
