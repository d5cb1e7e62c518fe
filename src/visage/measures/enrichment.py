"""Which attributes the worst images by a measure have more often than the others, and how sure that is.

Per attribute a 2x2 table: worst or not, with the attribute or not. Its odds ratio has 1/2 added to every count (Haldane
1956) and Woolf's interval (1955), its p-value is Fisher's exact one, and q is that of Benjamini & Hochberg (1995) over
the attributes. The worst are few, so an attribute that is rare, or nearly everywhere, is not tested at all.

Two checks stand beside: the odds ratio of a logistic regression that knows of covariates as well (errors follow
contrast and texture, whoever wears a hat), and how often chance alone, in permutations of the images, gives an odds
ratio as far from 1 as the furthest one here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.files import write_json

SHARE = 0.05
"""The worst ones among all images."""
LEAST = 5.0
"""Images that must be expected among the worst with an attribute, and without it, for it to be tested."""
FALSE_DISCOVERY_RATE = 0.05
PERMUTATIONS = 1000
NORMAL_975 = 1.959964
"""The 97.5 % quantile of N(0, 1)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute.

    worst_with, rest_with: images that have it, among the worst and among the others.
    expected: of worst_with, where the attribute plays no part.
    odds_ratio, ci95: above 1 where the worst have it more often.
    adjusted_odds_ratio: at equal covariates; None where it is not estimated.
    tested: whether p, q exist; reason: why not, else empty.
    """

    attribute: str
    worst_with: int
    rest_with: int
    expected: float
    odds_ratio: float
    ci95: tuple[float, float]
    tested: bool
    reason: str
    p: float | None
    q: float | None
    adjusted_odds_ratio: float | None = None

    @property
    def named(self) -> bool:
        """Whether to speak of it: at most 5 % of all that are named are expected to be chance."""
        return self.q is not None and self.q < FALSE_DISCOVERY_RATE


@dataclass(frozen=True, slots=True)
class Enrichment:
    """What the worst images by one measure have in common.

    measure: its key, such as recon_mse; n: images behind it; worst: how many of them are the worst.
    p_max: how often the largest |log odds ratio| of the tested attributes would be as large by chance; None where no
        attribute is tested.
    rows: all attributes, in their order.
    """

    measure: str
    n: int
    worst: int
    p_max: float | None
    rows: list[Row]


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


def associations(worst: NDArray[np.bool_], attributes: NDArray[np.uint8], names: Sequence[str]) -> list[Row]:
    """The rows of all attributes, not adjusted: worst (N,), attributes (N, A) in {0, 1}, names (A,)."""
    from scipy.stats import false_discovery_control, fisher_exact

    n, k = len(worst), int(worst.sum())
    having, worst_with = attributes.sum(0, dtype=np.int64), attributes[worst].sum(0, dtype=np.int64)
    expected = k * having / max(1, n)
    log_ratio, error = log_odds_ratio(worst_with, k, having, n)
    tested = np.minimum(expected, k - expected) >= LEAST
    tables = np.array([[worst_with, k - worst_with], [having - worst_with, n - k - having + worst_with]])
    p = np.array([fisher_exact(table).pvalue for table in np.moveaxis(tables, 2, 0)])
    q = np.ones(len(p))
    q[tested] = false_discovery_control(p[tested])
    return [
        Row(
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
            q=float(q[i]) if tested[i] else None,
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


def save_enrichment(path: Path, found: Sequence[Enrichment]) -> None:
    """Write a JSON list, one entry for each measure."""
    write_json(path, [asdict(one) for one in found])


def _untested(expected: float, worst: int) -> str:
    which = "with it" if expected < worst - expected else "without it"
    return f"too few images: {min(expected, worst - expected):.1f} {which} expected among the {worst} worst"
