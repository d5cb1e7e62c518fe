"""Statistics of single images that need no model: what a general compressor makes of them, and trivial scores.

A score of a model that does not beat the trivial ones shows nothing: Fashion-MNIST is grey, so colour alone tells it
from faces.
"""

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visage.measures.gaussian import FullGaussian
from visage.measures.principal_components import LinearAutoencoder
from visage.measures.reconstruction import mse

FIT_IMAGES = 2000
"""Training images that the statistics of pixels are fitted on."""
CHUNK = 250
"""Images worked on at a time: bounds the memory."""
COMPONENTS = 64
"""Principal components that `pca_error` has."""


def code_lengths(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Bits per dimension that a general compressor needs for (n, S, S, 3) uint8 images, (n,).

    The shorter of the optimised PNG file and the pixels' zlib stream at level 9, headers included.
    """
    bits = [8 * min(_png_bytes(image, optimize=True), len(zlib.compress(image.tobytes(), 9))) for image in images]
    lengths: NDArray[np.float64] = np.array(bits, np.float64) / images[0].size
    return lengths


def log_variances(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logarithm of 1 + the variance of the values 0 to 255 of each of (n, S, S, 3) uint8 images, (n,)."""
    flat = images.reshape(len(images), -1)
    variances = [flat[start : start + CHUNK].var(1) for start in range(0, len(flat), CHUNK)]
    logs: NDArray[np.float64] = np.log(np.concatenate(variances) + 1)
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


def baselines(
    images: NDArray[np.uint8], pixels: PixelGaussian, pca: LinearAutoencoder, gaussian: FullGaussian
) -> dict[str, NDArray[np.float64]]:
    """Scores of (n, S, S, 3) uint8 images that need no network, (n,) each; higher means less like faces.

    grey: minus the mean of |R - G| + |G - B|. dark: minus the mean value. zeros: share of values that are exactly 0.
    png_large, png_small: plus and minus the bytes of the PNG file. pixel_gaussian: nats per dimension.
    pca_error: what the principal components leave of an image, squared error, pixels in [0, 1].
    gaussian: bits per dimension.
    """
    png = np.array([_png_bytes(image) for image in images], np.float64)
    return {
        "grey": _chunked(images, lambda some: -_means(np.abs(np.diff(some.astype(np.int16), axis=-1)).sum(-1))),
        "dark": -_means(images),
        "zeros": _chunked(images, lambda some: _means(some == 0)),
        "png_large": png,
        "png_small": -png,
        "pixel_gaussian": pixels.nats_per_dim(images),
        "pca_error": pca.errors(images, COMPONENTS, {"mse": mse})["mse"],
        "gaussian": gaussian.bits_per_dim(images),
    }


def _chunked(
    images: NDArray[np.uint8], score: Callable[[NDArray[np.uint8]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    return np.concatenate([score(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)])


def _spread(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most `FIT_IMAGES` of the images, evenly spread over them."""
    return images[:: math.ceil(len(images) / FIT_IMAGES)]


def _means(values: NDArray[np.generic]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values.reshape(len(values), -1).mean(1, dtype=np.float64)
    return result


def _png_bytes(image: NDArray[np.uint8], optimize: bool = False) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=optimize)
    return buffer.tell()
