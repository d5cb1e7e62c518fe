"""One Gaussian of all pixels together: what a few seconds of linear algebra know of faces.

A network that gives test faces no higher likelihood, or draws samples that lie no closer to faces, has not yet learned
more than means and covariances.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

CHUNK = 250
"""Images worked on at a time: bounds the memory."""
MOST_VALUES = 120_000_000
"""Pixel values that the Gaussian is fitted to, at most: 39,062 images of 32x32, 9,765 of 64x64, 2,441 of 128x128."""
HELD_OUT = 10
"""Every tenth image finds no directions, only the variances along them."""
MOST_DIMS = 2048
"""Coefficients of a block, those of the lowest frequencies, whose whole covariance is used."""
UNIFORM = 1 / 12
"""The variance of u ~ U[0, 1)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A Gaussian in F dimensions: K of them with their whole covariance, the others independent.

    mean: (F,). scale: (F,), standard deviations. low: (K,), which dimensions hang together; the others: (F - K,).
    directions: (K, K), orthonormal, of the low ones over their scales. variances: (K,) along these directions.
    covariance: (K, K), of the low ones.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    low: NDArray[np.intp]
    directions: NDArray[np.float32]
    variances: NDArray[np.float64]
    covariance: NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        values: NDArray[np.float32],
        held: NDArray[np.float32],
        mean: NDArray[np.float32],
        low: NDArray[np.intp],
    ) -> Self:
        """Take the directions from values (n, F) around their mean, and the variances along them from others, (m, F).

        Sample variances along one's own principal directions are too large for the first and too small for the last;
        those of other images are right on average (Lam 2016, Annals of Statistics 44(3)).
        """
        scale = np.sqrt(np.square(values - mean).mean(0) + np.float32(UNIFORM))
        scaled = (values[:, low] - mean[low]) / scale[low]
        directions = np.linalg.eigh(scaled.T @ scaled / np.float32(len(scaled)))[1].T
        others = (held[:, low] - mean[low]) / scale[low]
        variances = np.square(others @ directions.T).mean(0, dtype=np.float64)
        variances += np.square(directions, dtype=np.float64) @ (UNIFORM / np.square(scale[low], dtype=np.float64))
        roots = np.sqrt(variances).astype(np.float32)[:, None] * directions * scale[low]
        return cls(mean, scale, low, directions, variances, roots.T @ roots)

    def expected_nats(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """E_u of -log p(v + u), (n,), for v + 1/2 in `values`, (n, F): in closed form, as log p is quadratic."""
        scaled = (values - self.mean) / self.scale
        noise = UNIFORM / np.square(self.scale, dtype=np.float64)  # of u
        squared = np.square(scaled[:, self.low] @ self.directions.T, dtype=np.float64)
        along = np.square(self.directions, dtype=np.float64) @ noise[self.low]
        high = np.delete(np.arange(len(self.mean)), self.low)
        nats: NDArray[np.float64] = squared @ (1 / self.variances) + (along / self.variances).sum()
        nats += np.square(scaled[:, high]).sum(1, dtype=np.float64) + noise[high].sum()
        nats += np.log(self.variances).sum() + 2 * np.log(self.scale, dtype=np.float64).sum()
        return (nats + len(self.mean) * math.log(2 * math.pi)) / 2

    def denoise(self, noisy: NDArray[np.float32], variance: float) -> NDArray[np.float32]:
        """E[v | v + noise], (n, F), for white noise of a variance: y - variance (C + variance I)^-1 (y - mean)."""
        from scipy.linalg import solve

        centred = noisy - self.mean
        solved = centred / (self.scale**2 + np.float32(variance))
        covariance = self.covariance.copy()
        covariance.flat[:: len(covariance) + 1] += variance
        solved[:, self.low] = solve(covariance, centred[:, self.low].T, assume_a="pos", overwrite_a=True).T
        return (noisy - np.float32(variance) * solved).astype(np.float32, copy=False)

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.float32]:
        """Draw n vectors, (n, F)."""
        scaled = generator.standard_normal((n, len(self.mean)), np.float32)
        scaled[:, self.low] = (scaled[:, self.low] * np.sqrt(self.variances).astype(np.float32)) @ self.directions
        drawn: NDArray[np.float32] = self.mean + self.scale * scaled
        return drawn


@dataclass(frozen=True, slots=True)
class FullGaussian:
    """A Gaussian density of v + u, u ~ U[0, 1), for 8-bit images v.

    It is fitted to training images and their mirror images, in the coefficients of their cosine transform. Those whose
    horizontal frequency is even are the same in a mirror, the others change their sign: two independent Gaussians.
    Above 32 x 32 pixels the highest frequencies count as independent of all others.

    size: S of the images. blocks: of the even frequencies, and of the odd ones.
    """

    size: int
    blocks: tuple[Block, Block]

    @classmethod
    def fit(cls, images: NDArray[np.uint8]) -> Self:
        """Fit to at most `MOST_VALUES` values of (N, S, S, 3) uint8 images, N >= 2, evenly spread over them."""
        chosen = images[:: math.ceil(images.size / MOST_VALUES)]
        parts = [_transformed(_middles(chosen[start : start + CHUNK])) for start in range(0, len(chosen), CHUNK)]
        even, odd = (np.concatenate(part) for part in zip(*parts, strict=True))
        del parts
        size = images.shape[1]
        held = np.arange(len(even)) % HELD_OUT == min(HELD_OUT, len(even)) - 1
        return cls(
            size,
            (
                Block.fit(even[~held], even[held], even.mean(0), _lowest(size, 0)),
                Block.fit(odd[~held], odd[held], np.zeros_like(odd[0]), _lowest(size, 1)),
            ),
        )

    def bits_per_dim(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """-E_u log2 p(v + u) / D of (n, S, S, 3) uint8 images, (n,): exact up to uniform dequantisation."""
        nats = []
        for start in range(0, len(images), CHUNK):
            parts = _transformed(_middles(images[start : start + CHUNK]))
            even, odd = (block.expected_nats(part) for block, part in zip(self.blocks, parts, strict=True))
            nats.append(even + odd)
        bits: NDArray[np.float64] = np.concatenate(nats) / (images[0].size * math.log(2))
        return bits

    def denoise(self, noisy: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        """The Wiener filter: E[v + 1/2 | v + 1/2 + sigma eps] of (n, S, S, 3), eps ~ N(0, 1).

        Of all linear maps it leaves the least squared error, where mean and covariance are right.
        """
        parts = zip(self.blocks, _transformed(noisy), strict=True)
        return self._image(*(block.denoise(part, sigma**2) for block, part in parts))

    def sample(self, n: int, generator: np.random.Generator) -> NDArray[np.uint8]:
        """Draw n images, (n, S, S, 3) uint8."""
        images = np.empty((n, self.size, self.size, 3), np.uint8)
        for start in range(0, n, CHUNK):
            even, odd = (block.draw(min(CHUNK, n - start), generator) for block in self.blocks)
            values = self._image(even, odd)
            images[start : start + len(values)] = np.floor(values).clip(0, 255)
        return images

    def _image(self, even: NDArray[np.float32], odd: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `_transformed`, (n, S, S, 3)."""
        from scipy.fft import idctn

        coefficients = np.empty((len(even), self.size, self.size, 3), np.float32)
        coefficients[:, :, ::2] = even.reshape(len(even), self.size, -1, 3)
        coefficients[:, :, 1::2] = odd.reshape(len(odd), self.size, -1, 3)
        values: NDArray[np.float32] = idctn(coefficients, axes=(1, 2, 3), norm="ortho")
        return values


def _middles(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The middles of 8-bit values: v + 1/2."""
    return images.astype(np.float32) + np.float32(0.5)


def _transformed(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The cosine transform over rows, columns and colours, an orthonormal map: its even and odd parts.

    Each (n, F), of (n, S, S, 3).
    """
    from scipy.fft import dctn

    coefficients = dctn(values, axes=(1, 2, 3), norm="ortho")
    return coefficients[:, :, ::2].reshape(len(values), -1), coefficients[:, :, 1::2].reshape(len(values), -1)


def _lowest(size: int, first: int) -> NDArray[np.intp]:
    """Places, among the flattened coefficients of columns `first`, `first` + 2, ..., of the lowest frequencies.

    At most `MOST_DIMS`, with all three colours of a frequency.
    """
    rows, columns = np.mgrid[:size, first:size:2]
    frequency = np.repeat((rows**2 + columns**2).ravel(), 3)
    return np.sort(np.argsort(frequency, kind="stable")[:MOST_DIMS])
