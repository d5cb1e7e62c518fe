"""What latent codes and features tell of attributes and factors; how far images have the attributes that were wanted.

Every score here is computed from plain arrays, learns on training faces and is taken on test faces. The factors of
disentanglement are those of drawn faces, independent of each other by construction (`visage.data.face_factors`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from visage.data.face_factors import DISTRIBUTIONS, Choice
from visage.measures.intervals import auroc

Floats = NDArray[np.float32] | NDArray[np.float64]

LEAST = 5
"""Faces of either class without which an attribute, or of every class without which a factor, is left out."""
STRENGTHS = (0.01, 0.1, 1.0)
"""Values of the probe's C, the inverse of the weight of its L2 penalty, strongest penalty first."""
FOLD = 5
"""One of so many training faces is held out for the choice of C."""
MOST_DIMS = 256
"""Dimensions of codes that a probe sees; of longer ones, so many principal components."""
FLOOR = 1e-6
"""Principal components are scaled to variance 1, those with a smaller share of the first one's variance to less."""
STEPS = 500
"""Iterations of the probe's solver, at most; it needs some 20."""
THUMBNAIL = 16
"""Side of the pixel control's images."""
MOST_LATENTS = 64
"""Latent dimensions up to which disentanglement is computed."""
BINS = 20
"""Of the histograms behind mutual information (Locatello et al. 2019, arXiv:1811.12359)."""
TREES, DEPTH = 10, 8
"""Of each random forest."""
CHOSEN = (
    "male",
    "skin",
    "hair_dark",
    "hair_length",
    "bangs",
    "face_width",
    "beard",
    "glasses",
    "hat",
    "yaw",
    "nod",
    "tilt",
    "light",
    "warmth",
    "background_bright",
)
"""Factors that are seen at 32x32: a linear regression on 1000 faces' pixels explains half of each one's variance."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a linear probe finds in codes.

    auroc: attribute -> area under the ROC curve on test faces; without the attributes that are too rare to tell.
    c: the inverse strength of the penalty that was chosen.
    """

    auroc: Mapping[str, float]
    c: float

    @property
    def macro(self) -> float:
        """The mean over attributes, NaN where there are none."""
        return _mean(list(self.auroc.values()))


def probe(
    train_codes: Floats,
    train_labels: NDArray[np.uint8],
    test_codes: Floats,
    test_labels: NDArray[np.uint8],
    names: Sequence[str],
) -> Probe:
    """Learn one L2-regularised logistic regression per attribute on training codes, and judge it on test codes.

    Codes are standardised by their training mean and deviation; of more than `MOST_DIMS` dimensions, so many principal
    components of the training codes remain, each scaled to variance 1. All attributes share one C: that with the best
    mean AUROC on every `FOLD`th training face, after learning from the others. Attributes that fewer than `LEAST` faces
    have, or lack, in training or test, are left out.

    train_codes (n, L), test_codes (m, L): rows in random order.
    train_labels (n, A), test_labels (m, A): in {0, 1}; names: of the A attributes.

    Raises:
        ValueError: a code is not finite.
    """
    told = [i for i in range(len(names)) if min(_rarest(train_labels[:, i]), _rarest(test_labels[:, i])) >= LEAST]
    train, test = _standardised(train_codes, test_codes)
    held = np.arange(len(train)) % FOLD == FOLD - 1

    def judged(c: float) -> float:
        """The sum over those attributes that both parts of the training faces have and lack."""
        sure = [i for i in told if min(_rarest(train_labels[held, i]), _rarest(train_labels[~held, i])) > 0]
        return sum(_judge(train[~held], train_labels[~held, i], train[held], train_labels[held, i], c) for i in sure)

    c = max(STRENGTHS, key=judged)
    found = {names[i]: _judge(train, train_labels[:, i], test, test_labels[:, i], c) for i in told}
    return Probe(found, c)


def _rarest(labels: NDArray[np.uint8]) -> int:
    """How many of (n,) labels in {0, 1} are of the rarer class."""
    return int(np.bincount(labels, minlength=2).min())


def _standardised(train: Floats, test: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train.astype(np.float64))
    x, y = scaler.transform(train.astype(np.float64)), scaler.transform(test.astype(np.float64))
    if x.shape[1] > MOST_DIMS:
        pca = PCA(min(MOST_DIMS, len(x)), random_state=0).fit(x)
        # directions in which training codes hardly vary must not be blown up, test codes may vary there
        scale = np.sqrt(np.maximum(pca.explained_variance_, FLOOR * pca.explained_variance_[0]))
        x, y = pca.transform(x) / scale, pca.transform(y) / scale
    return x, y


def _judge(
    train: NDArray[np.float64],
    train_labels: NDArray[np.uint8],
    test: NDArray[np.float64],
    test_labels: NDArray[np.uint8],
    c: float,
) -> float:
    """The AUROC on (m, L) test codes of a logistic regression on (n, L) training codes."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=STEPS).fit(train, train_labels)
    return _auroc(model.decision_function(test), test_labels)


def _auroc(scores: NDArray[np.float64], labels: NDArray[np.uint8]) -> float:
    return auroc(scores[labels == 0], scores[labels == 1])


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of drawn faces; categorical: a number without order or scale, else continuous."""

    name: str
    categorical: bool


def chosen_factors(names: Sequence[str]) -> list[Factor]:
    """Those of the named factors that disentanglement is measured by, in the order of `CHOSEN`; none of real faces."""
    return [Factor(name, isinstance(DISTRIBUTIONS[name], Choice)) for name in CHOSEN if name in names]


def disentanglement(
    train_codes: Floats,
    train_factors: Floats,
    test_codes: Floats,
    test_factors: Floats,
    categorical: Sequence[bool],
) -> dict[str, float] | None:
    """All scores of how far each latent dimension stands for one factor, and each factor for one latent dimension.

    Factors that do not vary among training or test faces, and categorical ones of which a class has fewer than `LEAST`
    faces in either, are left out. None where codes have more than `MOST_LATENTS` dimensions, or no factor is left.

    train_codes (n, L), test_codes (m, L); train_factors (n, K), test_factors (m, K): column k is categorical[k].
    Returns mig, sap, dci_disentanglement, dci_completeness and dci_informativeness, each in [0, 1], higher is better.

    Raises:
        ValueError: a code or a factor is not finite.
    """
    kept = [k for k, kind in enumerate(categorical) if _varies(train_factors[:, k], test_factors[:, k], kind)]
    if train_codes.shape[1] > MOST_LATENTS or not kept:
        return None
    parts = train_codes, train_factors[:, kept], test_codes, test_factors[:, kept], [categorical[k] for k in kept]
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
    return len(classes) > 1 and rarest >= LEAST


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
    from sklearn.metrics import mutual_info_score

    latents = _binned(np.concatenate([train_codes, test_codes])).T
    factors = np.concatenate([train_factors, test_factors])
    values = [x if kind else _binned(x[:, None])[:, 0] for x, kind in zip(factors.T, categorical, strict=True)]
    entropies = [mutual_info_score(v, v) for v in values]
    shares = [[mutual_info_score(v, z) / h for v, h in zip(values, entropies, strict=True)] for z in latents]
    return _gap(np.array(shares))


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
        informativeness=_mean(skills),
    )


def _concentration(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus the entropy, base m, of each row of (r, m) weights over its sum: (r,), 1 = all in one place, 0 = none."""
    total = weights.sum(1)
    shares = weights / np.where(total > 0, total, 1.0)[:, None]
    return np.where(total > 0, 1 - entr(shares).sum(1) / math.log(max(weights.shape[1], 2)), 0.0)


def smoothness(features: Floats) -> NDArray[np.float64]:
    """How much rougher each of P paths is in features (P, T, F) than an even walk straight to its end.

    The mean squared step of the features per squared step of the path, T >= 2 points at equal distances from 0 to 1,
    over the squared distance of the features at its ends:

        (T - 1) * sum_t |f[t + 1] - f[t]|^2 / |f[T - 1] - f[0]|^2

    By Cauchy-Schwarz at least 1, and 1 exactly where the features move on a straight line in equal steps; one jump
    among points that stand still gives T - 1. This is the perceptual path length of Karras et al. 2019
    (arXiv:1812.04948, section 4.1) with steps of finite length, and over the ends' distance, so that it has no unit and
    does not favour paths whose ends look alike.

    Returns (P,), lower is smoother; inf where the features come back to where they began, NaN where they never move.
    """
    f = features.astype(np.float64)
    steps = (np.diff(f, axis=1) ** 2).sum((1, 2))
    straight = ((f[:, -1] - f[:, 0]) ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = (f.shape[1] - 1) * steps / straight
    return ratio


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """How far images have the attributes that were wanted.

    auroc: (A,), NaN for attributes that were wanted of all images or of none.
    """

    auroc: NDArray[np.float64]

    @property
    def macro(self) -> float:
        """The mean over the attributes that are not NaN; NaN where there are none."""
        return _mean(self.auroc[~np.isnan(self.auroc)])


def faithfulness(wanted: NDArray[np.uint8], logits: Floats) -> Faithfulness:
    """How well an attribute network tells images that were to have an attribute from those that were not to.

    wanted: (n, A) in {0, 1}; logits: (n, A), of the network for the images that were made.

    Raises:
        ValueError: a logit is NaN.
    """
    scores = logits.astype(np.float64)
    each = [_auroc(s, w) if _rarest(w) else math.nan for s, w in zip(scores.T, wanted.T, strict=True)]
    return Faithfulness(np.array(each, np.float64))
