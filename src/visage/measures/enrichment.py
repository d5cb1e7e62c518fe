"""Which attributes the worst images by a measure have more often than the others, and how sure that is.

Per attribute a 2x2 table: worst or not, with the attribute or not. Its odds ratio has 1/2 added to every count (Haldane
1956) and Woolf's interval (1955), and its p-value is Fisher's exact one. The worst are few, so an attribute that is
rare, or nearly universal, is not tested at all.

There are two checks: the odds ratio of a logistic regression that includes covariates (errors follow contrast and
texture, whoever wears a hat), and how often chance alone, in permutations of the images, gives an odds ratio as far
from 1 as the furthest one here.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from visage.results import Enrichment, Odds

SHARE = 0.05
"""The worst ones among all images."""
LEAST = 5.0
"""Images that must be expected among the worst with an attribute, and without it, for it to be tested."""
PERMUTATIONS = 1000
NORMAL_975 = 1.959964
"""The 97.5 % quantile of N(0, 1)."""


def enrichment(
    measure: str,
    values: NDArray[np.float64],
    attributes: NDArray[np.uint8],
    names: Sequence[str],
    covariates: NDArray[np.float64],
    generator: np.random.Generator,
    share: float = SHARE,
) -> Enrichment:
    """Compare the images with the highest values with all others.

    values: (N,), high is bad; images whose value is not finite are left out.
    attributes: (N, A) in {0, 1}; names: of the A attributes.
    covariates: (N, C), what else may lie behind the values, finite for every image that counts.
    generator: of the permutations.
    """
    finite = np.isfinite(values)
    values, attributes, covariates = values[finite], attributes[finite], covariates[finite]
    worst = np.zeros(len(values), bool)
    worst[np.argsort(-values, kind="stable")[: round(share * len(values))]] = True
    rows = associations(worst, attributes, names)
    return Enrichment(
        measure=measure,
        n=len(values),
        worst=int(worst.sum()),
        p_max=permutation_p(worst, attributes[:, [row.tested for row in rows]], generator),
        rows=[
            replace(row, adjusted_odds_ratio=adjusted_odds_ratio(worst, attribute, covariates)) if row.tested else row
            for row, attribute in zip(rows, attributes.T, strict=True)
        ],
    )


def associations(worst: NDArray[np.bool_], attributes: NDArray[np.uint8], names: Sequence[str]) -> list[Odds]:
    """The rows of all attributes, not adjusted: worst (N,), attributes (N, A) in {0, 1}, names (A,)."""
    from scipy.stats import fisher_exact

    n, k = len(worst), int(worst.sum())
    having, worst_with = attributes.sum(0, dtype=np.int64), attributes[worst].sum(0, dtype=np.int64)
    expected = k * having / max(1, n)
    log_ratio, error = log_odds_ratio(worst_with, k, having, n)
    tested = np.minimum(expected, k - expected) >= LEAST
    tables = np.array([[worst_with, k - worst_with], [having - worst_with, n - k - having + worst_with]])
    p = np.array([fisher_exact(table).pvalue for table in np.moveaxis(tables, 2, 0)])
    return [
        Odds(
            attribute=str(names[i]),
            worst_with=int(worst_with[i]),
            rest_with=int(having[i] - worst_with[i]),
            expected=float(expected[i]),
            odds_ratio=float(np.exp(log_ratio[i])),
            ci95=(
                float(np.exp(log_ratio[i] - NORMAL_975 * error[i])),
                float(np.exp(log_ratio[i] + NORMAL_975 * error[i])),
            ),
            tested=bool(tested[i]),
            reason="" if tested[i] else _untested(expected[i], k),
            p=float(p[i]) if tested[i] else None,
        )
        for i in range(len(names))
    ]


def log_odds_ratio(
    worst_with: NDArray[np.generic], worst: int, having: NDArray[np.int64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log odds ratios and their standard errors, of 2x2 tables with 1/2 added to each count; shaped like worst_with.

    worst_with: of the `worst` worst images those that have the attribute; having: of all n.
    """
    a = worst_with.astype(np.float64)
    cells = np.stack([a, worst - a, having - a, n - worst - having + a]) + 0.5
    return np.log(cells[0] * cells[3] / (cells[1] * cells[2])), np.sqrt((1 / cells).sum(0))


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


def permutation_p(
    worst: NDArray[np.bool_], attributes: NDArray[np.uint8], generator: np.random.Generator
) -> float | None:
    """How often the largest |log odds ratio| of attributes (N, A) is at least as large when chance says who is worst.

    An image keeps all its attributes, so that those which go together do so in the permutations as well (Westfall &
    Young 1993). The images as they are count as one of the permutations. None where there is no attribute.
    """
    if not attributes.shape[1]:
        return None
    permuted = generator.permuted(np.tile(worst, (PERMUTATIONS, 1)), axis=1)
    counts = np.vstack([worst, permuted]).astype(np.float32) @ attributes.astype(np.float32)  # exact below 2^24
    log_ratio, _ = log_odds_ratio(counts, int(worst.sum()), attributes.sum(0, dtype=np.int64), len(worst))
    largest = np.abs(log_ratio).max(1)
    return float((largest >= largest[0]).mean())


def _untested(expected: float, worst: int) -> str:
    which = "with it" if expected < worst - expected else "without it"
    return f"too few images: {min(expected, worst - expected):.1f} {which} expected among the {worst} worst"
