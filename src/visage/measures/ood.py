"""Telling faces from other images: scores of the model, and trivial statistics that a good score must beat.

Every score is fixed before any other image is seen and points one way: higher means less like the training faces. A
score that then ranks the other images as more face-like than faces is shown as it is, below 1/2 (Nalisnick et al. 2019,
arXiv:1810.09136), never turned round.
"""

import io
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logsumexp
from torch import Tensor

from visage.inference.batches import batches, torch_generator
from visage.models.base import GenerativeModel, ScoresOod, can

Scores = dict[str, NDArray[np.float64]]
"""Name -> (n,) per-image scores; the first one is the default by which a model is judged."""

FIT_IMAGES = 2000
"""Training images that the statistics of pixels are fitted on."""
CHUNK = 250
"""Images worked on at a time: bounds the memory."""
COMPONENTS = 64
"""Principal components of pixels."""
MOST_FEATURES = 512
"""Features whose covariance is worth estimating; of more, as many principal components are taken."""
SPREAD = 1e-6
"""Standard deviation, relative to the largest value, below which float32 statistics differ by rounding alone."""
FLOOR = -1e300
"""Stands for the logarithm of a density that is 0 in double precision, so that sums of them stay finite."""


def own_scores(
    model: GenerativeModel, images: NDArray[np.uint8], *, seed: int, device: torch.device, batch_size: int
) -> Scores:
    """What the model itself says about (n, S, S, 3) uint8 images; empty where it has no scores of its own."""
    if not (isinstance(model, ScoresOod) and can(model, ScoresOod)):
        return {}
    generator = torch_generator(seed, "own scores")
    parts = [model.ood_scores(x, generator) for x in batches(images, batch_size, device)]
    return {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}


def complexity(nll: NDArray[np.float64], images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Bits per dimension that the model needs more than a general compressor, (n,), for (n, S, S, 3) uint8 images.

    S(x) = -log2 p(x) - L(x), here per dimension (Serra et al. 2020, arXiv:1909.11480). L is the length of the shorter
    of the optimised PNG file and the pixels' zlib stream at level 9, headers included.

    nll: bits per dimension, (n,).
    """
    bits = [8 * min(_png_bytes(image, optimize=True), len(zlib.compress(image.tobytes(), 9))) for image in images]
    score: NDArray[np.float64] = nll - np.array(bits, np.float64) / images[0].size
    return score


def gradient_norm(log_likelihood: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Euclidean norm of d log p(x) / d x of each image, (B,), from one pass back for the batch, even under `no_grad`.

    Faces lie near a mode, where it is small (Grathwohl et al. 2020, arXiv:1912.03263).

    log_likelihood: x (B, ...) -> (B,), in which an image's value does not depend on the others.

    NaN where the gradient is exactly 0: log_likelihood then ignores x or rounds it, and the norm would mean nothing.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        total = log_likelihood(x).sum() + 0 * x.sum()  # one that ignores x has a gradient too, 0
        (gradient,) = torch.autograd.grad(total, x)
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm.where(norm > 0, math.nan)


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

    centres: statistic -> (n,) values of validation faces.
    """

    centres: Mapping[str, NDArray[np.float64]]

    @classmethod
    def fit(cls, statistics: Mapping[str, NDArray[np.floating]]) -> Self:
        """Fit to statistics of validation faces, name -> (n,), any unit.

        One that is the same for all of them has no density and is left out.

        Raises:
            ValueError: a value is not finite.
        """
        for name, values in statistics.items():
            if not np.isfinite(values).all():
                raise ValueError(f"the statistic {name} of validation faces is not finite")
        doubles = {name: values.astype(np.float64) for name, values in statistics.items()}
        return cls({name: v for name, v in doubles.items() if v.std() > SPREAD * np.abs(v).max()})

    def score(self, statistics: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
        """(m,) scores in nats for the same statistics, (m,) each, of other images; finite, or NaN where a value is.

        A value far off, infinity included, scores high, not infinite: the tails are computed as logarithms.
        """
        total = np.zeros(len(next(iter(statistics.values()))))
        for name, centres in self.centres.items():
            total -= np.maximum(_log_density(statistics[name].astype(np.float64), centres), FLOOR)
        return total


def _log_density(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the kernel density estimate from (n,) centres at (m,) values."""
    n = len(centres)
    width = centres.std(ddof=1) * (3 * n / 4) ** -0.2
    parts = []
    with np.errstate(over="ignore"):
        for start in range(0, len(values), CHUNK):
            z = (values[start : start + CHUNK, None] - centres) / width
            parts.append(logsumexp(-(z**2) / 2, axis=1))
    logs: NDArray[np.float64] = np.concatenate(parts) - math.log(n * width * math.sqrt(2 * math.pi))
    return logs


@dataclass(frozen=True, slots=True)
class PixelGaussian:
    """One independent Gaussian for each pixel and channel of v + u, u ~ U[0, 1): mean and variance, (S, S, 3)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def fit(cls, images: NDArray[np.uint8]) -> Self:
        """Fit to at most `FIT_IMAGES` of (N, S, S, 3) uint8 images, evenly spread over them."""
        chosen = _spread(images)
        total, square = np.zeros(images.shape[1:]), np.zeros(images.shape[1:])
        for start in range(0, len(chosen), CHUNK):
            v = chosen[start : start + CHUNK].astype(np.float32)
            total += v.sum(0, dtype=np.float64)
            square += (v * v).sum(0, dtype=np.float64)
        mean = total / len(chosen)
        variance = square / len(chosen) - mean**2 + 1 / 12  # 1/12 is the variance of u
        return cls(mean + 0.5, variance)

    def nats_per_dim(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Negative log-density of v + 1/2, mean over dimensions, (n,), for (n, S, S, 3) uint8."""
        shift, scale = (self.mean - 0.5).astype(np.float32), (0.5 / self.variance).astype(np.float32)
        constant = float(np.log(2 * math.pi * self.variance).mean()) / 2
        quadratic = [
            ((images[start : start + CHUNK] - shift) ** 2 * scale).mean((1, 2, 3), dtype=np.float64)
            for start in range(0, len(images), CHUNK)
        ]
        return np.concatenate(quadratic) + constant


@dataclass(frozen=True, slots=True)
class PixelPCA:
    """The linear autoencoder: principal components of D = 3 S^2 pixel values in [0, 1].

    mean: (D,). components: (K, D), orthonormal rows.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def fit(cls, images: NDArray[np.uint8]) -> Self:
        """Fit `COMPONENTS` to at most `FIT_IMAGES` of (N, S, S, 3) uint8 images, fewer where N is less."""
        from sklearn.decomposition import PCA

        pixels = _pixels(_spread(images))
        pca = PCA(min(COMPONENTS, *pixels.shape), copy=False, svd_solver="randomized", random_state=0).fit(pixels)
        return cls(pca.mean_, pca.components_)

    def errors(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mean squared error of the projection of (n, S, S, 3) uint8 images, (n,), pixels in [0, 1]."""
        parts = []
        for start in range(0, len(images), CHUNK):
            centred = _pixels(images[start : start + CHUNK]) - self.mean
            parts.append(_means((centred - centred @ self.components.T @ self.components) ** 2))
        return np.concatenate(parts)


def baselines(images: NDArray[np.uint8], gaussian: PixelGaussian, pca: PixelPCA) -> Scores:
    """Statistics of (n, S, S, 3) uint8 images that need no model.

    grey: minus the mean of |R - G| + |G - B|. dark: minus the mean value. zeros: share of values that are exactly 0.
    png_large, png_small: plus and minus the bytes of the PNG file. pixel_gaussian: nats per dimension.
    pca_error: what the principal components leave of an image, squared error, pixels in [0, 1].
    """
    png = np.array([_png_bytes(image) for image in images], np.float64)
    return {
        "grey": -_means(np.abs(np.diff(images.astype(np.int16), axis=-1)).sum(-1)),
        "dark": -_means(images),
        "zeros": _means(images == 0),
        "png_large": png,
        "png_small": -png,
        "pixel_gaussian": gaussian.nats_per_dim(images),
        "pca_error": pca.errors(images),
    }


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


def _spread(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most `FIT_IMAGES` of the images, evenly spread over them."""
    return images[:: math.ceil(len(images) / FIT_IMAGES)]


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values in [0, 1], (n, D), a copy."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    return pixels


def _means(values: NDArray[np.generic]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values.reshape(len(values), -1).mean(1, dtype=np.float64)
    return result


def _png_bytes(image: NDArray[np.uint8], optimize: bool = False) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=optimize)
    return buffer.tell()
