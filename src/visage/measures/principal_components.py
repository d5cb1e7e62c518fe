"""The linear autoencoder: images in their first principal components, which a few seconds of linear algebra find.

Of all linear maps to K numbers and back, the first K axes leave the least squared error. A network whose code has as
many numbers, and that comes no closer to test faces, has not yet learned what no line can follow.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.maths.pixels import to_float, to_uint8
from visage.maths.principal import principal_axes
from visage.measures.reconstruction import Measure

CODES = (16, 32, 64, 128, 256)
"""Numbers of a code. A model is compared with the largest one that has no more numbers than its own."""
MOST_IMAGES = 8192
"""Images that the axes are found from, at most: they would hardly turn with more."""
MOST_VALUES = 100_700_000
"""Pixel values of these images, at most: 8,192 images of 64x64, 2,048 of 128x128. They bound the memory."""
CHUNK = 250
"""Images worked on at a time: bounds the memory."""


@dataclass(frozen=True, slots=True)
class LinearAutoencoder:
    """Principal components of training images and of their mirror images, as x11.

    mean: (D,). axes: (D, K), orthonormal columns, those of the largest variances first.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def fit(cls, images: NDArray[np.uint8]) -> Self:
        """Fit `max(CODES)` axes to some of (N, S, S, 3) uint8 images, evenly spread over them; S is even.

        Where the images span fewer dimensions, the last axes are 0.
        """
        most = max(1, min(MOST_IMAGES, MOST_VALUES // images[0].size))
        found = principal_axes(_x11(images[:: math.ceil(len(images) / most)]), max(CODES))
        return cls(found.mean, found.axes)

    def reconstruct(self, x: Tensor, numbers: int) -> Tensor:
        """The images (B, 3, S, S) in [-1, 1] that are closest to x among those of the first axes."""
        axes = self.axes[:, :numbers]
        y = self.mean + (x.flatten(1) - self.mean) @ axes @ axes.T
        return y.clamp(-1, 1).reshape(x.shape)

    def reconstructions(self, images: NDArray[np.uint8], numbers: int) -> NDArray[np.uint8]:
        """The same for (n, S, S, 3) uint8 images, rounded."""
        return to_uint8(self.reconstruct(_x11(images), numbers)).numpy()

    def errors(
        self, images: NDArray[np.uint8], numbers: int, measures: Mapping[str, Measure]
    ) -> dict[str, NDArray[np.float64]]:
        """Measure the reconstruction of each of (n, S, S, 3) uint8 images: name -> (n,)."""
        parts = []
        for start in range(0, len(images), CHUNK):
            x = _x11(images[start : start + CHUNK])
            y = self.reconstruct(x, numbers)
            parts.append(torch.stack([measure(x, y).double() for measure in measures.values()]))
        return dict(zip(measures, torch.cat(parts, dim=1).numpy(), strict=True))


def _x11(images: NDArray[np.uint8]) -> Tensor:
    """(n, S, S, 3) uint8 images, which may lie in a file, as (n, 3, S, S) in [-1, 1]."""
    return to_float(torch.from_numpy(np.array(images)))
