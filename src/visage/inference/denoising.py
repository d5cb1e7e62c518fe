"""How well noise is removed from images: what diffusion models are trained for, and a linear filter does, too."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.inference.batches import per_image
from visage.inference.chunks import Draws
from visage.maths import noise

Denoise = Callable[[Tensor, float], Tensor]
"""As `visage.models.base.Denoises.denoise`."""


def denoising_errors(
    denoise: Denoise,
    images: NDArray[np.uint8],
    levels: Sequence[float],
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
) -> NDArray[np.float64]:
    """Mean squared error of what is made of (n, S, S, 3) uint8 images with noise, pixels in [0, 1]: (levels, n).

    Image i has the same noise whoever removes it, times each of the levels, for pixels in [-1, 1].
    """

    def errors(x: Tensor, generator: torch.Generator) -> Tensor:
        eps = noise.randn(len(x), x.shape[1:], generator, x.device)
        guesses = [denoise(x + sigma * eps, sigma).clamp(-1, 1) for sigma in levels]
        return torch.stack([((guess - x) / 2).square().flatten(1).mean(1) for guess in guesses])

    return per_image(errors, images, batch_size, device, Draws(seed, ["noise to remove"]))
