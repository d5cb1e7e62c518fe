"""Telling faces from other images: scores that follow from a model's answers, and summaries of how well a score does.

Every score is fixed before any other image is seen and points one way: higher means less like the training faces. A
score that then ranks the other images as more face-like than faces is shown as it is, below 1/2 (Nalisnick et al. 2019,
arXiv:1810.09136), never with its sign changed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.stats import gaussian_kde

CHUNK = 250
"""Images worked on at a time: bounds the memory."""
MOST_FEATURES = 512
"""Features whose covariance is worth estimating; of more, as many principal components are taken."""
LEAST_SPREAD = 1e-6
"""Standard deviation, relative to the largest value, below which float32 statistics differ by rounding alone."""
LEAST_LOG_DENSITY = -1e300
"""Stands for the logarithm of a density that is 0 in double precision, so that sums of logarithms stay finite."""


def complexity(nll: NDArray[np.float64], code_lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits per dimension that the model needs more than a general compressor, (n,).

    S(x) = -log2 p(x) - L(x), here per dimension (Serra et al. 2020, arXiv:1909.11480).

    nll, code_lengths: bits per dimension, (n,); the latter from `visage.measures.image_statistics.code_lengths`.
    """
    return nll - code_lengths


@dataclass(frozen=True, slots=True)
class Mahalanobis:
    """Distance from the training faces in the units of their spread (Mahalanobis 1936).

    Lee et al. 2018 (arXiv:1807.03888) take it from the features of a classifier, with a mean for each class; here is
    one class, faces.

    mean: (F,). directions: (F, K) orthonormal, in which it is measured. precision: (K, K) inverse covariance there.
    """

    mean: NDArray[np.floating]
    directions: NDArray[np.floating]
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.floating], shrinkage: float = 0.1) -> Self:
        """Fit to features (n, F) of n training faces.

        The covariance is (1 - shrinkage) cov + shrinkage (trace cov / K) I (Ledoit & Wolf 2004, with a fixed share),
        cov with 1/n: invertible however few faces there are. Of F > `MOST_FEATURES` features, that many principal
        components are taken first, or n if n is less: what lies across them is not seen.

        Raises:
            ValueError: a feature is not finite.
        """
        from sklearn.covariance import ShrunkCovariance
        from sklearn.decomposition import PCA

        width, kind = features.shape[1], features.dtype
        mean, directions = features.mean(0, dtype=np.float64).astype(kind), np.eye(width, dtype=kind)
        if width > MOST_FEATURES:
            directions = PCA(min(MOST_FEATURES, len(features)), svd_solver="full").fit(features).components_.T
        along = ((features - mean) @ directions).astype(np.float64)
        estimate = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True).fit(along)
        return cls(mean, directions, estimate.precision_)

    def distance(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """((f - mean)^T precision (f - mean))^(1/2) for each row f of (m, F): (m,), NaN if f is not finite."""
        squares = []
        for start in range(0, len(features), CHUNK):
            along = (features[start : start + CHUNK] - self.mean) @ self.directions
            squares.append(((along @ self.precision) * along).sum(1))
        distance: NDArray[np.float64] = np.sqrt(np.maximum(np.concatenate(squares), 0))
        return distance


@dataclass(frozen=True, slots=True)
class DoSE:
    """How unusual an image's statistics are among those of faces: the density of states (Morningstar et al. 2021).

    arXiv:2006.09273: minus the sum over statistics of the logarithm of a kernel density estimate of each. Kernels are
    Gaussian, of width sigma (3 n / 4)^(-1/5) (Silverman 1986), sigma^2 with 1 / (n - 1).

    densities: statistic -> its density among validation faces.
    """

    densities: "Mapping[str, gaussian_kde]"

    @classmethod
    def fit(cls, statistics: Mapping[str, NDArray[np.floating]]) -> Self:
        """Fit to statistics of validation faces, name -> (n,), any unit.

        One that is the same for all of them has no density and is left out.

        Raises:
            ValueError: a value is not finite.
        """
        from scipy.stats import gaussian_kde

        for name, values in statistics.items():
            if not np.isfinite(values).all():
                raise ValueError(f"the statistic {name} of validation faces is not finite")
        doubles = {name: values.astype(np.float64) for name, values in statistics.items()}
        varying = {name: v for name, v in doubles.items() if v.std() > LEAST_SPREAD * np.abs(v).max()}
        return cls({name: gaussian_kde(values, "silverman") for name, values in varying.items()})

    def score(self, statistics: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
        """(m,) scores in nats for the same statistics, (m,) each, of other images; finite, or NaN where a value is.

        A value far off, infinity included, scores high, not infinite: the tails are computed as logarithms.
        """
        total = np.zeros(len(next(iter(statistics.values()))))
        for name, density in self.densities.items():
            values = statistics[name].astype(np.float64)
            logs = np.where(np.isnan(values), math.nan, LEAST_LOG_DENSITY)
            finite = np.isfinite(values)
            with np.errstate(over="ignore", invalid="ignore"):
                found = density.logpdf(values[finite])
            logs[finite] = np.where(found > LEAST_LOG_DENSITY, found, LEAST_LOG_DENSITY)  # NaN where every kernel is 0
            total -= logs
        return total


def average_precision(test: NDArray[np.float64], ood: NDArray[np.float64]) -> float:
    """Mean precision over recall, OOD images being what is looked for: sum_k (R_k - R_{k-1}) P_k over thresholds.

    Not interpolated (Davis & Goadrich 2006). A score that knows nothing has the share of OOD images, not 1/2.

    Raises:
        ValueError: a score is NaN.
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_ranked(test, ood)))


def fpr_at_95_tpr(test: NDArray[np.float64], ood: NDArray[np.float64]) -> float:
    """Share of test faces that are taken for OOD at the highest threshold that finds 95 % of the OOD images.

    OOD images count as positive, as in `auroc` and in Hendrycks et al. 2019 (arXiv:1812.04606).

    Raises:
        ValueError: a score is NaN.
    """
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(*_ranked(test, ood), drop_intermediate=False)
    return float(false[np.searchsorted(true, 0.95)])


def _ranked(test: NDArray[np.float64], ood: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which images are OOD, and the ranks of all scores: scikit-learn takes no infinity, and ranks change no curve."""
    scores = np.concatenate([test, ood])
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    return np.arange(len(scores)) >= len(test), np.unique(scores, return_inverse=True)[1]
