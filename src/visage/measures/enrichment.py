"""Which attributes the worst images by a measure have more often than the others, and how sure that is.

Per attribute a 2x2 table: worst or not, with the attribute or not. Its odds ratio has 1/2 added to every count (Haldane
1956). Its interval is the percentiles of resampled people, and its p-value is that of permutations which keep the
images of a person together: an error and an attribute are both much the same in all pictures of a person, so that
tests of single pictures, such as Fisher's, find chance significant. The worst are few, so an attribute that is rare,
or nearly universal, is not tested at all.

There are two checks: the odds ratio of a logistic regression that includes covariates (errors follow contrast and
texture, whoever wears a hat), and how often the permutations give a count as surprising as the most surprising here.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from visage.measures.intervals import ROWS, Counts, blocks, groups_of, percentiles
from visage.results import Enrichment, Odds

SHARE = 0.05
"""The worst ones among all images."""
LEAST = 5.0
"""Images that must be expected among the worst with an attribute, and without it, for it to be tested."""
Number = TypeVar("Number", np.int64, np.float32, np.float64)
PERMUTATIONS = 20_000
"""The smallest p is 1 over this number + 1: small enough to remain significant among a thousand tests."""


def enrichment(
    measure: str,
    values: NDArray[np.float64],
    attributes: NDArray[np.uint8],
    names: Sequence[str],
    covariates: NDArray[np.float64],
    identity: NDArray[np.integer],
    counts: Counts,
    generator: np.random.Generator,
    share: float = SHARE,
) -> Enrichment:
    """Compare the images with the highest values with all others.

    values: (N,), high is bad; images whose value is not finite are left out.
    attributes: (N, A) in {0, 1}; names: of the A attributes.
    covariates: (N, C), what else may lie behind the values, finite for every image that counts.
    identity: (N,) who is on each image. counts: (R, N) of the resamples behind the intervals.
    generator: of the permutations.
    """
    finite = np.isfinite(values)
    values, attributes, covariates = values[finite], attributes[finite], covariates[finite]
    worst = np.zeros(len(values), bool)
    worst[np.argsort(-values, kind="stable")[: round(share * len(values))]] = True
    n, k = len(worst), int(worst.sum())
    having, worst_with = attributes.sum(0, dtype=np.int64), attributes[worst].sum(0, dtype=np.int64)
    expected = k * having / max(1, n)
    tested = np.minimum(expected, k - expected) >= LEAST
    ratios = np.exp(log_odds_ratio(worst_with, k, having, n))
    intervals = odds_ratio_intervals(worst, attributes, counts[:, finite])
    p, p_max = permutation_tests(worst, attributes[:, tested], identity[finite], generator)
    found = iter(p)
    return Enrichment(
        measure=measure,
        n=n,
        worst=k,
        p_max=p_max,
        rows=[
            Odds(
                attribute=str(names[i]),
                worst_with=int(worst_with[i]),
                rest_with=int(having[i] - worst_with[i]),
                expected=float(expected[i]),
                odds_ratio=float(ratios[i]),
                ci95=intervals[i],
                tested=bool(tested[i]),
                reason="" if tested[i] else _untested(expected[i], k),
                p=float(next(found)) if tested[i] else None,
                adjusted_odds_ratio=adjusted_odds_ratio(worst, attributes[:, i], covariates) if tested[i] else None,
            )
            for i in range(len(names))
        ],
    )


def log_odds_ratio(
    worst_with: NDArray[Number],
    worst: NDArray[np.float64] | int,
    having: NDArray[np.float64] | NDArray[np.int64],
    n: NDArray[np.float64] | int,
) -> NDArray[np.float64]:
    """Log odds ratios of 2x2 tables with 1/2 added to each count, shaped like worst_with.

    worst_with: of the `worst` worst images those that have the attribute; having: of all n.
    """
    a = worst_with.astype(np.float64) + 0.5
    ratio: NDArray[np.float64] = a * (a - having - worst + n) / ((worst + 1 - a) * (having + 1 - a))
    return np.log(ratio)


def odds_ratio_intervals(
    worst: NDArray[np.bool_], attributes: NDArray[np.uint8], counts: Counts
) -> list[tuple[float, float]]:
    """The 95 % interval of each attribute's odds ratio over resamples in which the same images are the worst.

    worst: (n,); attributes: (n, A) in {0, 1}; counts: (R, n).
    """
    # as float32, in which sums are exact below 2^24
    columns = np.column_stack([np.ones_like(worst), worst, attributes, attributes * worst[:, None]]).astype(np.float32)
    sums = np.concatenate([block @ columns for block in blocks(counts, np.float32)]).astype(np.float64)
    n, k, having, worst_with = np.split(sums, [1, 2, 2 + attributes.shape[1]], axis=1)
    return [percentiles(column) for column in np.exp(log_odds_ratio(worst_with, k, having, n)).T]


def adjusted_odds_ratio(
    worst: NDArray[np.bool_], attribute: NDArray[np.uint8], covariates: NDArray[np.float64]
) -> float | None:
    """The odds ratio of worst (N,) with and without the attribute (N,) at equal covariates (N, C).

    By maximum likelihood of logistic regression. None where that has no maximum (Albert & Anderson 1984): a count of
    the 2x2 table is 0, or the worst can be told from the others without a mistake.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(2 * attribute + worst)) < 4:
        return None
    spread = covariates.std(0)
    standardised = (covariates - covariates.mean(0)) / np.where(spread > 0, spread, 1)
    x = np.column_stack([attribute, standardised])
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x, worst)
    return None if (model.predict(x) == worst).all() else float(np.exp(model.coef_[0, 0]))


def permutation_tests(
    worst: NDArray[np.bool_],
    attributes: NDArray[np.uint8],
    identity: NDArray[np.integer],
    generator: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> tuple[NDArray[np.float64], float | None]:
    """How often as many worst images have an attribute, or as few, when chance says whose images are the worst.

    People with equally many images exchange which of these are worst, each of them whole (Winkler et al. 2014,
    NeuroImage 92): what is alike in all images of a person then remains so. An image keeps all its attributes, so that
    those which go together do so in the permutations as well (Westfall & Young 1993). The images as they are count as
    one of the permutations.

    worst: (n,); attributes: (n, A) in {0, 1}; identity: (n,).
    Returns the p-values (A,), two-sided, and how often the count that is furthest from what is expected, in standard
    deviations, is at least as far; None where A is 0.
    """
    if not attributes.shape[1]:
        return np.zeros(0), None
    attribute, share = attributes.astype(np.float32), attributes.mean(0, dtype=np.float64)
    alike = _alike(groups_of(identity))
    expected = sum((worst[images].mean(0) @ attribute[images].sum(0) for images in alike), np.zeros(len(share)))
    deviation = np.sqrt(share * (1 - share)) + np.finfo(float).tiny
    observed = np.abs(attributes[worst].sum(0, dtype=np.int64) - expected) / deviation - 1e-6
    beyond, furthest = np.ones(attributes.shape[1], np.int64), 1
    for block in _permuted(worst, alike, generator, permutations):
        distance = np.abs(block @ attribute - expected) / deviation  # counts are exact below 2^24
        beyond += (distance >= observed).sum(0)
        furthest += int((distance.max(1) >= observed.max()).sum())
    return beyond / (permutations + 1), furthest / (permutations + 1)


def _alike(groups: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The people by their number of images s: each (people, s), their images."""
    order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
    ends = np.cumsum(sizes)
    return [np.stack([order[end - size : end] for end in ends[sizes == size]]) for size in np.unique(sizes)]


def _permuted(
    worst: NDArray[np.bool_], alike: list[NDArray[np.intp]], generator: np.random.Generator, permutations: int
) -> Iterator[NDArray[np.float32]]:
    """Blocks of (B, n) in {0, 1}: which images are the worst after people of equally many have exchanged them."""
    for start in range(0, permutations, ROWS):
        block = np.empty((min(ROWS, permutations - start), len(worst)), np.float32)
        for images in alike:
            people = generator.permuted(np.tile(np.arange(len(images)), (len(block), 1)), axis=1)
            block[:, images.ravel()] = worst[images][people].reshape(len(block), -1)
        yield block


def _untested(expected: float, worst: int) -> str:
    which = "with it" if expected < worst - expected else "without it"
    return f"too few images: {min(expected, worst - expected):.1f} {which} expected among the {worst} worst"
