"""Statistics over several runs: the difference of two of them image by image, and the q values of many tests."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from visage.measures.intervals import mean_interval, resample

RESAMPLES = 2000
"""Resamples of the images behind an interval."""
Test = TypeVar("Test", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ImageValues:
    """A measure of n images.

    rows: (n,) their places in the split's arrays, no two alike. values: (n,).
    identity: (n,) who is on each image, -1 where that is not known.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    identity: NDArray[np.int64]


class Difference(NamedTuple):
    """A mean difference per image with its 95 % interval, and the number of images."""

    mean: float
    low: float
    high: float
    n: int


def mean_of_seeds(seeds: Sequence[ImageValues]) -> ImageValues | None:
    """The mean over seeds, image by image; None where they differ in their images or a value is not finite."""
    rows = seeds[0].rows
    if not all(np.array_equal(seed.rows, rows) for seed in seeds):
        return None
    mean: NDArray[np.float64] = np.mean([seed.values for seed in seeds], axis=0)
    return ImageValues(rows, mean, seeds[0].identity) if np.isfinite(mean).all() else None


def on_common_images(measured: Sequence[ImageValues]) -> list[ImageValues]:
    """Each measure on the images that all of them have, in one order; of no images where they have none in common."""
    common = reduce(np.intersect1d, (each.rows for each in measured))
    return [_at(each, common) for each in measured]


def _at(measured: ImageValues, rows: NDArray[np.int64]) -> ImageValues:
    """The images of these rows, all of which are among the measured ones."""
    order = np.argsort(measured.rows)
    places = order[np.searchsorted(measured.rows, rows, sorter=order)]
    return ImageValues(rows, measured.values[places], measured.identity[places])


def paired_difference(first: ImageValues, second: ImageValues) -> Difference:
    """The mean of first - second over the images that both have, with its percentile bootstrap interval.

    Pairs are resampled (Efron & Tibshirani 1993), so what makes an image hard for both cancels out; those of one person
    together, as in `visage.measures.intervals`.

    Raises:
        ValueError: they have fewer than two images in common.
    """
    one, other = on_common_images([first, second])
    difference = one.values - other.values
    if len(difference) < 2:
        raise ValueError(f"{len(difference)} images in common: at least two are needed")
    counts = resample(one.identity, RESAMPLES, np.random.default_rng(0))
    return Difference(float(difference.mean()), *mean_interval(difference, counts), len(difference))


def q_values(p: Mapping[Test, float]) -> dict[Test, float]:
    """The q value of every test among all of them (Benjamini & Hochberg 1995).

    Whoever looks at many tests finds much by chance: of all tests with q below a limit, at most that share is expected
    to be chance.

    p: test -> p value in [0, 1].
    """
    return dict(zip(p, false_discovery_control(list(p.values())).tolist(), strict=True)) if p else {}
