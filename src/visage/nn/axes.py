"""Axes of images: of any kind, or of images and their mirror images, as halves of images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visage.maths.principal import halves, whole


class Axes(nn.Module):
    """Orthonormal axes, the columns of a buffer.

    axes: (D, k), k = min(K, D). Columns that are not used are 0: before `set`, all of them.

    Args:
        channels: of the image.
        size: side of the image in pixels.
        count: K, the most axes to be set.
    """

    axes: Tensor

    def __init__(self, channels: int, size: int, count: int) -> None:
        super().__init__()
        dims = channels * size**2
        self.register_buffer("axes", torch.zeros(dims, min(count, dims)))

    @property
    def columns(self) -> int:
        """k, those that are used and those that are not."""
        return self.axes.shape[1]

    @torch.no_grad()
    def set(self, axes: Tensor) -> Tensor:
        """Take the columns of (D, k), each of length 1 or 0.

        Returns, for each column here, (k,), the place among those, or -1 if it is not used.
        """
        self.axes.copy_(axes)
        places = torch.arange(self.columns, device=axes.device)
        return torch.where(axes.square().sum(0) > 0.5, places, -1)

    def coefficients(self, x: Tensor) -> Tensor:
        """Products of x (B, D) with the axes, (B, k)."""
        return x @ self.axes

    def combine(self, coefficients: Tensor) -> Tensor:
        """Sums of the axes with coefficients (B, k), (B, D)."""
        return coefficients @ self.axes.T


class MirroredAxes(nn.Module):
    """Orthonormal axes, each its own mirror image (even) or minus that (odd), as buffers.

    Two pixels that mirror each other are (s + d) / sqrt 2 and (s - d) / sqrt 2. Even axes have no part in d and odd
    ones none in s. So products take the half images alone: for a whole basis in half the time and memory, for less than
    half of one in the same as with whole images.

    even, odd: (D / 2, k), k = min(K, D / 2). Columns that are not used are 0: before `set`, all of them.

    Args:
        channels: of the image.
        size: side of the image in pixels, even.
        count: K, the most axes to be set.
    """

    even: Tensor
    odd: Tensor

    def __init__(self, channels: int, size: int, count: int) -> None:
        super().__init__()
        self.shape = channels, size, size
        half = channels * size**2 // 2
        self.register_buffer("even", torch.zeros(half, min(count, half)))
        self.register_buffer("odd", torch.zeros(half, min(count, half)))

    @property
    def columns(self) -> int:
        """2 k, those of both kinds, used or not."""
        return 2 * self.even.shape[1]

    @torch.no_grad()
    def set(self, axes: Tensor) -> Tensor:
        """Take the columns of (D, K), each even, odd or 0.

        Returns, for each column here, (2 k,), the place among those K, or -1 if it is not used.
        """
        count = self.even.shape[1]
        axes = F.pad(axes, (0, max(0, count - axes.shape[1])))
        even, odd = halves(axes.T.reshape(-1, *self.shape))
        places = []
        for kept, half in ((self.even, even.flatten(1)), (self.odd, odd.flatten(1))):
            used = half.square().sum(1) > 0.5
            order = used.int().argsort(descending=True, stable=True)[:count]
            kept.copy_((half[order] * used[order, None]).T)
            places.append(torch.where(used[order], order, -1))
        return torch.cat(places)

    @torch.no_grad()
    def orthonormalise(self) -> None:
        """A step of Newton's method, for axes that are orthonormal to a few digits only."""
        for kept in (self.even, self.odd):
            kept.copy_(1.5 * kept - 0.5 * kept @ (kept.T @ kept))

    def coefficients(self, x: Tensor) -> Tensor:
        """Products of x (B, D) with the axes, (B, 2 k)."""
        even, odd = halves(x.reshape(-1, *self.shape))
        return torch.cat([even.flatten(1) @ self.even, odd.flatten(1) @ self.odd], dim=1)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Sums of the axes with coefficients (B, 2 k), (B, D)."""
        channels, height, width = self.shape
        even, odd = coefficients.chunk(2, dim=1)
        shape = -1, channels, height, width // 2
        return whole((even @ self.even.T).reshape(shape), (odd @ self.odd.T).reshape(shape)).flatten(1)
