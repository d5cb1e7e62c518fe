"""How well linear probes read attributes from codes or features; how well images have the attributes that were wanted.

Every score is computed from plain arrays. Probes learn on training faces and are scored on test faces.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from visage.measures.intervals import auroc

Floats = NDArray[np.float32] | NDArray[np.float64]

LEAST_FACES = 5
"""Faces of either class without which an attribute is left out."""
STRENGTHS = (0.01, 0.1, 1.0)
"""Values of the probe's C, the inverse of the weight of its L2 penalty, strongest penalty first."""
FOLD = 5
"""Every fifth training face is held out for the choice of C."""
MOST_DIMS = 256
"""Dimensions of codes that a probe sees; longer ones are replaced by as many principal components."""
LEAST_VARIANCE = 1e-6
"""Principal components are scaled to variance 1, those with a smaller share of the first one's variance to less."""
STEPS = 500
"""Iterations of the probe's solver, at most; it needs some 20."""


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

    def note(self, faces: int) -> str:
        """How the mean came about, for a record; faces: training faces behind the probe."""
        best = sorted(self.auroc, key=self.auroc.__getitem__)[-3:]
        return (
            f"logistic regression on {faces} training faces, mean over {len(self.auroc)} attributes; "
            f"best: {', '.join(f'{name} {self.auroc[name]:.2f}' for name in best)}"
        )


@dataclass(frozen=True, slots=True)
class Standardised:
    """The map that gives codes mean 0 and deviation 1 over training faces, and at most `MOST_DIMS` dimensions.

    Of more dimensions, as many principal components of the training codes remain, each scaled to variance 1.

    mean, scale: (L,). components: (K, L), None where all dimensions remain; component_mean: (L,). spread: (K,).
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    components: NDArray[np.float64] | None
    component_mean: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def fit(cls, train: Floats) -> Self:
        """Fit to the codes (n, L) of training faces."""
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        codes = train.astype(np.float64)
        scaler = StandardScaler().fit(codes)
        if codes.shape[1] <= MOST_DIMS:
            return cls(scaler.mean_, scaler.scale_, None, np.zeros(0), np.ones(codes.shape[1]))
        pca = PCA(min(MOST_DIMS, len(codes)), random_state=0).fit(scaler.transform(codes))
        # directions in which training codes hardly vary must not be blown up, test codes may vary there
        spread = np.sqrt(np.maximum(pca.explained_variance_, LEAST_VARIANCE * pca.explained_variance_[0]))
        spread[spread == 0] = 1  # all codes are the same
        return cls(scaler.mean_, scaler.scale_, pca.components_, pca.mean_, spread)

    def __call__(self, codes: Floats) -> NDArray[np.float64]:
        """The codes (m, L) as a probe wants them, (m, K)."""
        scaled: NDArray[np.float64] = (codes - self.mean) / self.scale
        if self.components is not None:
            scaled = (scaled - self.component_mean) @ self.components.T / self.spread
        return scaled


def probe(
    train: Floats,
    train_labels: NDArray[np.uint8],
    test: Floats,
    test_labels: NDArray[np.uint8],
    names: Sequence[str],
) -> Probe:
    """Learn one L2-regularised logistic regression per attribute on training codes, and judge it on test codes.

    All attributes share one C: that with the best mean AUROC on every `FOLD`th training face, after learning from the
    others. Attributes that fewer than `LEAST_FACES` faces have, or lack, in training or test, are left out.

    train (n, K), test (m, K): `Standardised` codes, rows in random order.
    train_labels (n, A), test_labels (m, A): in {0, 1}; names: of the A attributes.

    Raises:
        ValueError: a code is not finite.
    """
    from sklearn import config_context

    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise ValueError("a code is not finite")
    told = [i for i in range(len(names)) if min(_rarest(train_labels[:, i]), _rarest(test_labels[:, i])) >= LEAST_FACES]
    held = np.arange(len(train)) % FOLD == FOLD - 1

    def held_out(c: float) -> float:
        """The sum over those attributes that both parts of the training faces have and lack."""
        sure = [i for i in told if min(_rarest(train_labels[held, i]), _rarest(train_labels[~held, i])) > 0]
        return sum(_score(train[~held], train_labels[~held, i], train[held], train_labels[held, i], c) for i in sure)

    with config_context(assume_finite=True, skip_parameter_validation=True):  # hundreds of small fits
        c = max(STRENGTHS, key=held_out)
        found = {names[i]: _score(train, train_labels[:, i], test, test_labels[:, i], c) for i in told}
    return Probe(found, c)


def _rarest(labels: NDArray[np.uint8]) -> int:
    """How many of (n,) labels in {0, 1} are of the rarer class."""
    return int(np.bincount(labels, minlength=2).min())


def _score(
    train: Floats,
    train_labels: NDArray[np.uint8],
    test: Floats,
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
