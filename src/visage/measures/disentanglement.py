"""How far each dimension of a code stands for one factor of the images, and each factor for one dimension.

Factors are independent of each other, as those of drawn faces are. What is learned is learned on training faces and
scored on test faces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

Floats = NDArray[np.float32] | NDArray[np.float64]

LEAST_FACES = 5
"""Faces of every class without which a categorical factor is left out."""
MOST_LATENTS = 64
"""Latent dimensions up to which disentanglement is computed."""
BINS = 20
"""Of the histograms behind mutual information (Locatello et al. 2019, arXiv:1811.12359)."""
TREES, DEPTH = 10, 8
"""Of each random forest."""


def disentanglement(
    train_codes: Floats,
    train_factors: Floats,
    test_codes: Floats,
    test_factors: Floats,
    categorical: Sequence[bool],
) -> dict[str, float] | None:
    """All scores of how far each latent dimension stands for one factor, and each factor for one latent dimension.

    Factors that do not vary among training or test faces, and categorical ones of which a class has fewer than
    `LEAST_FACES` faces in either, are left out. None where codes have more than `MOST_LATENTS` dimensions, or no factor
    is left.

    train_codes (n, L), test_codes (m, L); train_factors (n, K), test_factors (m, K): column k is categorical[k].
    Returns mig, sap, dci_disentanglement, dci_completeness and dci_informativeness, each in [0, 1], higher is better.

    Raises:
        ValueError: a code or a factor is not finite.
    """
    from sklearn import config_context

    if not all(np.isfinite(array).all() for array in (train_codes, train_factors, test_codes, test_factors)):
        raise ValueError("a code or a factor is not finite")
    kept = [k for k, kind in enumerate(categorical) if _varies(train_factors[:, k], test_factors[:, k], kind)]
    if train_codes.shape[1] > MOST_LATENTS or not kept:
        return None
    parts = train_codes, train_factors[:, kept], test_codes, test_factors[:, kept], [categorical[k] for k in kept]
    with config_context(assume_finite=True, skip_parameter_validation=True):  # hundreds of small fits
        trees = dci(*parts)
        return {
            "mig": mig(*parts),
            "sap": sap(*parts),
            "dci_disentanglement": trees.disentanglement,
            "dci_completeness": trees.completeness,
            "dci_informativeness": trees.informativeness,
        }


def _varies(train: Floats, test: Floats, categorical: bool) -> bool:
    if not categorical:
        return min(len(np.unique(train)), len(np.unique(test))) > 1
    classes = np.union1d(train, test)
    rarest = min(int((part == value).sum()) for part in (train, test) for value in classes)
    return len(classes) > 1 and rarest >= LEAST_FACES


def mig(
    train_codes: Floats,
    train_factors: Floats,
    test_codes: Floats,
    test_factors: Floats,
    categorical: Sequence[bool],
) -> float:
    """The mutual information gap (Chen et al. 2018, arXiv:1802.04942).

    For each factor, the mutual information with the latent dimension that has most of it, minus that with the second,
    over the factor's entropy; mean over factors. Latent dimensions and continuous factors are cut into `BINS` bins of
    equal width. Nothing is learned, so the faces of both parts count alike. With n faces of noise every information is
    too high by about (BINS - 1)^2 / 2n nats, which the difference mostly cancels.

    Arguments as in `disentanglement`; every factor varies. Returns a value in [0, 1].
    """
    latents = _binned(np.concatenate([train_codes, test_codes])).T
    factors = np.concatenate([train_factors, test_factors])
    values = [
        np.unique(x, return_inverse=True)[1] if kind else _binned(x[:, None])[:, 0]
        for x, kind in zip(factors.T, categorical, strict=True)
    ]
    entropies = [_information(v, v) for v in values]
    shares = [[_information(v, z) / h for v, h in zip(values, entropies, strict=True)] for z in latents]
    return _gap(np.array(shares))


def _information(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """Mutual information in nats of two labellings from 0, (n,) each."""
    from sklearn.metrics import mutual_info_score

    width = int(b.max()) + 1
    table = np.bincount(a * width + b, minlength=(int(a.max()) + 1) * width).reshape(-1, width)
    return float(mutual_info_score(None, None, contingency=table))


def _binned(columns: Floats) -> NDArray[np.int64]:
    """The bin of each value between its column's extremes, (n, m) from 0; a constant column has one bin."""
    x = columns.astype(np.float64)
    low, span = x.min(0), np.ptp(x, axis=0)
    bins: NDArray[np.int64] = ((x - low) / np.where(span > 0, span, 1.0) * BINS).astype(np.int64)
    return np.minimum(bins, BINS - 1)


def _gap(scores: NDArray[np.float64]) -> float:
    """The mean over factors of the highest minus the second highest of scores (L, K) >= 0; a lone one gaps to 0."""
    ordered = np.sort(np.vstack([np.zeros(scores.shape[1]), scores]), axis=0)
    return float((ordered[-1] - ordered[-2]).mean())


def sap(
    train_codes: Floats,
    train_factors: Floats,
    test_codes: Floats,
    test_factors: Floats,
    categorical: Sequence[bool],
) -> float:
    """The separated attribute predictability (Kumar et al. 2018, arXiv:1711.00848, section 3).

    For each factor, how well one latent dimension alone predicts it, best minus second best; mean over factors.
    Continuous factors: the squared correlation, over the faces of both parts since nothing is learned. Categorical
    ones: the balanced accuracy, on test faces, of thresholds that are put on the dimension by training faces, one fewer
    than there are classes; other than in the paper it is scaled to 0 at chance, as a squared correlation is, and 1 at
    best, so that both kinds of factor can be averaged.

    Arguments as in `disentanglement`; every factor varies. Returns a value in [0, 1].
    """
    from sklearn.tree import DecisionTreeClassifier

    codes, factors = np.concatenate([train_codes, test_codes]), np.concatenate([train_factors, test_factors])
    scores = np.empty((codes.shape[1], factors.shape[1]))
    for k, kind in enumerate(categorical):
        if not kind:
            scores[:, k] = _squared_correlations(codes, factors[:, k])
            continue
        y = train_factors[:, k]
        thresholds = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(y)), class_weight="balanced", random_state=0)
        for i in range(codes.shape[1]):
            guess = thresholds.fit(train_codes[:, [i]], y).predict(test_codes[:, [i]])
            scores[i, k] = _skill(test_factors[:, k], guess, categorical=True)
    return _gap(scores)


def _squared_correlations(codes: Floats, factor: Floats) -> NDArray[np.float64]:
    """Of each column of codes (n, L) with a factor (n,): (L,), 0 for constant columns."""
    x, y = codes.astype(np.float64), factor.astype(np.float64)
    constant = np.ptp(x, axis=0) == 0
    x, y = x - x.mean(0), y - y.mean()
    squared: NDArray[np.float64] = (y @ x) ** 2 / (np.where(constant, 1.0, (x**2).sum(0)) * (y @ y))
    return np.where(constant, 0.0, squared)


def _skill(truth: Floats, guess: Floats, *, categorical: bool) -> float:
    """Balanced accuracy scaled to 0 at chance, or R^2; 1 at best, 0 where it is lower."""
    from sklearn.metrics import balanced_accuracy_score, r2_score

    score = balanced_accuracy_score(truth, guess, adjusted=True) if categorical else r2_score(truth, guess)
    return max(0.0, float(score))


@dataclass(frozen=True, slots=True)
class DCI:
    """How far each latent dimension is important for one factor only, each factor hangs on one dimension, and is known.

    Each in [0, 1], higher is better.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(
    train_codes: Floats,
    train_factors: Floats,
    test_codes: Floats,
    test_factors: Floats,
    categorical: Sequence[bool],
) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018, openreview.net/forum?id=By-7dz-AZ, 2).

    A random forest learns each factor from all latent dimensions of the training faces: R[i, k] is the share of
    dimension i in its decrease of impurity. Disentanglement is 1 minus the entropy, base K, of each row of R over its
    sum, weighted by these sums; completeness is 1 minus the entropy, base L, of each column, mean over factors.
    Informativeness is the mean over factors of R^2 (continuous) or of balanced accuracy scaled to 0 at chance
    (categorical) on test faces, 0 where that is negative: higher is better, other than the paper's prediction error.

    Arguments as in `disentanglement`; every factor varies.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    importance = np.zeros((train_codes.shape[1], len(categorical)))
    skills = []
    for k, kind in enumerate(categorical):
        forest = (
            RandomForestClassifier(TREES, max_depth=DEPTH, class_weight="balanced", random_state=0, max_features=None)
            if kind
            else RandomForestRegressor(TREES, max_depth=DEPTH, random_state=0)
        )
        forest.fit(train_codes, train_factors[:, k])
        importance[:, k] = forest.feature_importances_
        skills.append(_skill(test_factors[:, k], forest.predict(test_codes), categorical=kind))
    weights = importance.sum(1)  # each forest's importances sum to 1, or are 0 where codes are constant
    return DCI(
        disentanglement=float(_concentration(importance) @ weights / max(weights.sum(), 1.0)),
        completeness=float(_concentration(importance.T).mean()),
        informativeness=float(np.mean(skills)),
    )


def _concentration(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus the entropy, base m, of each row of (r, m) weights over its sum: (r,), 1 = all in one place, 0 = none."""
    total = weights.sum(1)
    shares = weights / np.where(total > 0, total, 1.0)[:, None]
    return np.where(total > 0, 1 - entr(shares).sum(1) / math.log(max(weights.shape[1], 2)), 0.0)
