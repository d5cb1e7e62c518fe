"""Percentile intervals from resampled images (Efron 1979); means and AUROCs of a run share the same resamples.

Pictures of one person are alike, so people are resampled, each with all pictures (Davison & Hinkley 1997, section 3.8):
intervals from resampled pictures would be too narrow. With fewer than about 50 people, or unrelated images, these are
a little too narrow as well.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.uint16]
"""(R, n): how often each of n images occurs in each of R resamples."""
Interval = tuple[float, float]
Float = TypeVar("Float", np.float32, np.float64)

ROWS = 200
"""Resamples worked on at a time: bounds the memory at 20,000 images."""
UNKNOWN = -1
"""The identity of a person who is not known, and who counts as someone else in every picture."""


def groups_of(identity: NDArray[np.integer]) -> NDArray[np.intp]:
    """Number the people of (n,) images from 0, so that equal numbers are the same person: (n,)."""
    apart = identity.astype(np.int64)
    unknown = identity == UNKNOWN
    apart[unknown] = -1 - np.arange(unknown.sum())
    return np.unique(apart, return_inverse=True)[1]


def resample(identity: NDArray[np.integer], resamples: int, generator: np.random.Generator) -> Counts:
    """Draw as many people as there are with replacement, `resamples` times, with all of their images.

    identity: (n,) who is on each image, `UNKNOWN` where that is not known. A resample has n images on average.
    """
    groups = groups_of(identity)
    people = int(groups.max()) + 1
    counts = np.empty((resamples, len(groups)), np.uint16)
    for row in counts:
        row[:] = np.bincount(generator.integers(people, size=people), minlength=people)[groups]
    return counts


def unrelated(n: int) -> NDArray[np.int64]:
    """The identities of n images that have nothing to do with each other."""
    return np.full(n, UNKNOWN)


def mean_interval(values: NDArray[np.float64], counts: Counts) -> Interval:
    """The 95 % interval of the mean of (n,) values."""
    return percentiles(resampled_means(values, counts))


def resampled_means(values: NDArray[np.float64], counts: Counts) -> NDArray[np.float64]:
    """The mean of (n,) values in each resample, (R,)."""
    with np.errstate(invalid="ignore"):  # a resample may hold none of these images
        return np.concatenate([block @ values / block.sum(1) for block in blocks(counts, np.float64)])


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
    """The bootstrap's 95 % interval of `auroc`, to first order: of the sum of two means of placements.

    A placement is the share of the other set's images that an image is on the right side of (DeLong et al. 1988,
    Biometrics 44(3)); Obuchowski (1997, Biometrics 53(2)) does the same with several images of a person. What is left
    out is of the order of 1 / n, and would favour pairs of an image with itself where both sets are of the same people.

    Counts that were drawn separately make it the stratified bootstrap; those of the same resamples keep images of both
    sets together.

    Raises:
        ValueError: a score is NaN.
    """
    below, upto = _ranks(test, ood)
    of_ood = (below + upto) / (2 * len(test))
    below, upto = _ranks(ood, test)
    of_test = 1 - (below + upto) / (2 * len(ood))
    area = float(of_ood.mean())
    if area in (0.0, 1.0):  # no resample differs; the rule of three for the smaller set (Hanley & Lippman-Hand 1983)
        reach = min(1.0, 3 / min(len(test), len(ood)))
        return (0.0, reach) if area == 0 else (1 - reach, 1.0)
    low, high = percentiles(resampled_means(of_test, test_counts) + resampled_means(of_ood, ood_counts) - area)
    return max(0.0, low), min(1.0, high)


def percentiles(values: NDArray[np.float64]) -> Interval:
    """The 95 % interval from a figure of each resample, (R,), NaN where a resample has none."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _ranks(test: NDArray[np.float64], ood: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each OOD score, how many test scores are lower, and how many are lower or equal."""
    if np.isnan(test).any() or np.isnan(ood).any():
        raise ValueError("a score is NaN")
    ordered = np.sort(test)
    return np.searchsorted(ordered, ood, side="left"), np.searchsorted(ordered, ood, side="right")


def blocks(counts: Counts, kind: type[Float]) -> Iterator[NDArray[Float]]:
    """Some of the resamples at a time, as numbers that products are quick for."""
    for start in range(0, len(counts), ROWS):
        yield counts[start : start + ROWS].astype(kind)
