"""Telling faces from other images: scores of the model, and trivial statistics that a good score must beat.

Every score is fixed before any other image is seen and points one way: higher means less like the training faces. A
score that then ranks the other images as more face-like than faces is shown as it is, below 1/2 (Nalisnick et al. 2019,
arXiv:1810.09136), never turned round.
"""

import io
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visage.evaluation.batches import batches, torch_generator
from visage.models.base import GenerativeModel, ScoresOod, can

Scores = dict[str, NDArray[np.float64]]
"""Name -> (n,) per-image scores; the first one is the default by which a model is judged."""

FIT_IMAGES = 2000
"""Training images that the pixel Gaussian is fitted on."""
CHUNK = 250
"""Images turned to floats at a time."""


def own_scores(
    model: GenerativeModel, images: NDArray[np.uint8], *, seed: int, device: torch.device, batch_size: int
) -> Scores:
    """What the model itself says about (n, S, S, 3) uint8 images; empty where it has no scores of its own."""
    if not (isinstance(model, ScoresOod) and can(model, ScoresOod)):
        return {}
    generator = torch_generator(seed, "own scores")
    parts = [model.ood_scores(x, generator) for x in batches(images, batch_size, device)]
    return {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}


def score_table(
    nll: NDArray[np.float64] | None, valid_nll: float | None, recon: NDArray[np.float64] | None, own: Scores
) -> Scores:
    """All scores of a model: nll, recon, typicality, then its own.

    nll: bits per dimension. recon: squared error of pixel values in [0, 1].
    valid_nll: mean nll of validation faces; typicality is the distance from it
        (Nalisnick et al. 2019, arXiv:1906.02994).
    """
    scores: Scores = {}
    if nll is not None:
        scores["nll"] = nll
    if recon is not None:
        scores["recon"] = recon
    if nll is not None and valid_nll is not None:
        scores["typicality"] = np.abs(nll - valid_nll)
    return scores | {name: values for name, values in own.items() if name not in scores}


@dataclass(frozen=True, slots=True)
class PixelGaussian:
    """One independent Gaussian for each pixel and channel of v + u, u ~ U[0, 1): mean and variance, (S, S, 3)."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def fit(cls, images: NDArray[np.uint8]) -> Self:
        """Fit to at most `FIT_IMAGES` of (N, S, S, 3) uint8 images, evenly spread over them."""
        chosen = images[:: math.ceil(len(images) / FIT_IMAGES)]
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


def baselines(images: NDArray[np.uint8], gaussian: PixelGaussian) -> Scores:
    """Statistics of (n, S, S, 3) uint8 images that need no model.

    grey: minus the mean of |R - G| + |G - B|. dark: minus the mean value. zeros: share of values that are exactly 0.
    png_large, png_small: plus and minus the bytes of the PNG file. pixel_gaussian: nats per dimension.
    """
    png = np.array([_png_bytes(image) for image in images], np.float64)
    return {
        "grey": -_means(np.abs(np.diff(images.astype(np.int16), axis=-1)).sum(-1)),
        "dark": -_means(images),
        "zeros": _means(images == 0),
        "png_large": png,
        "png_small": -png,
        "pixel_gaussian": gaussian.nats_per_dim(images),
    }


def _means(values: NDArray[np.generic]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = values.reshape(len(values), -1).mean(1, dtype=np.float64)
    return result


def _png_bytes(image: NDArray[np.uint8]) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.tell()
