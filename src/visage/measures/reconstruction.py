"""How far a reconstruction is from its image: squared error, PSNR and structural similarity, per image.

SSIM stands here because the packages that have it cost more than it: torchmetrics imports torchvision, scipy.stats and
matplotlib, and scikit-image would be one more dependency for these fifteen lines.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from visage.maths.pixels import levels

Measure = Callable[[Tensor, Tensor], Tensor]
"""(x, y) -> (B,), for images x and their reconstructions y, both (B, 3, S, S) in [-1, 1]."""

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
"""Constants of SSIM, as in its paper."""


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of pixel values in [0, 1]."""
    return ((x - y) / 2).square().flatten(1).mean(1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of the 8-bit images in dB, inf where they are equal."""
    return -10 * torch.log10(((levels(x) - levels(y)) / 255).square().flatten(1).mean(1))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, IEEE Trans. Image Processing 13(4), eq. 13), mean over channels.

    Gaussian window of 11 x 11 and sigma 1.5, data range 1, only where the whole window lies inside the image.

    Raises:
        ValueError: the images are smaller than the window.
    """
    blur = _blur(x.shape[-1], x)
    x, y = (x + 1) / 2, (y + 1) / 2
    c1, c2 = K1**2, K2**2
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.flatten(1).mean(1)


def _blur(size: int, like: Tensor) -> Callable[[Tensor], Tensor]:
    """The Gaussian window as two products with a banded matrix, several times faster on a CPU than a convolution."""
    if size < WINDOW:
        raise ValueError(f"SSIM has a window of {WINDOW} pixels, the images have {size}")
    offsets = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    taps = torch.exp(-offsets.square() / (2 * SIGMA**2))
    band = torch.zeros(size - WINDOW + 1, size, dtype=like.dtype, device=like.device)
    rows = torch.arange(len(band), device=like.device)
    for k, tap in enumerate(taps / taps.sum()):
        band[rows, rows + k] = tap
    return lambda image: band @ image.contiguous() @ band.T


PER_IMAGE: Mapping[str, Measure] = {"recon_mse": mse, "psnr": psnr, "ssim": ssim}
"""Every measure of a reconstruction; evaluation takes and records all of them."""
LEAST_SIZE: Mapping[str, int] = {"ssim": WINDOW}
"""Measures that need images of a side, in pixels, of at least so much."""


def undefined_at(size: int) -> dict[str, str]:
    """The measures that images of this side are too small for, and why."""
    return {
        name: f"it needs images of {least} x {least} pixels at least"
        for name, least in LEAST_SIZE.items()
        if size < least
    }
