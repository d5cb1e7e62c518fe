"""DDIM and the measurements made with it, for any network that guesses the image and the noise in x_t.

Song et al. 2021 (arXiv:2010.02502); the score of redrawn images is Graham et al. 2023 (arXiv:2211.07740). Throughout,
`alpha_bars` is abar_0..abar_T, (T + 1,) float64 on the CPU, and `probes` is (K, C, s, s), noise that all images share.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from visage.maths import noise
from visage.maths.diffusion import Predict, ddim_coefficients, diffuse, scales, spaced_times
from visage.maths.likelihoods import HALF_BIN

REDRAWN = (0.1, 0.25, 0.5)
"""The shares of T up to which `redrawing_error` adds noise to an image."""
REDRAW_STEPS = 5
"""The number of DDIM steps that remove the noise of each share again."""
REDRAWING_CALLS = len(REDRAWN) * REDRAW_STEPS
"""Network calls per image of `redrawing_error`."""


def ddim(
    x: Tensor,
    times: Sequence[int],
    predict: Predict,
    alpha_bars: Tensor,
    eta: float = 0.0,
    rows: Sequence[torch.Generator] = (),
) -> Tensor:
    """Carry x (B, C, s, s) from the first of the times to the last one by DDIM's update (eq. 12), one call per step.

    Args:
        x: x_t at the first of the times.
        times: falling to draw images, rising to encode them (with eta = 0); only the last one may be 0.
        predict: the network's guesses at x_0 and eps.
        alpha_bars: abar_0..abar_T.
        eta: 0 is deterministic; 1 adds as much noise as DDPM's ancestral sampler.
        rows: one generator per image, the source of that noise; not used when eta = 0.
    """
    for t, s in pairwise(times):
        x0, eps = predict(x, torch.full((len(x),), t))
        a, b, c = ddim_coefficients(alpha_bars[s], alpha_bars[t], eta)
        x = float(a) * x0 + float(b) * eps
        if c > 0:
            x = x + float(c) * noise.randn_each(rows, x.shape[1:], x.device)
    return x


def ddim_inverse(x: Tensor, times: Sequence[int], predict: Predict, alpha_bars: Tensor) -> Tensor:
    """Carry images x back to the noise from which `ddim` draws them at eta = 0 (DDIM section 4.3).

    times: rising from 0, as `spaced_times` returns them. The image counts as x_1, because no network has seen t = 0.
    """
    return ddim(x, [1, *(t for t in times if t > 1)], predict, alpha_bars)


def noised(x: Tensor, probe: Tensor, share: float, alpha_bars: Tensor) -> tuple[Tensor, Tensor]:
    """Return x_t at t = share * T (rounded, at least 1), all images with the noise `probe` (C, s, s), and t, (B,)."""
    t = torch.full((len(x),), max(1, round(share * (len(alpha_bars) - 1))))
    return diffuse(x, probe.expand_as(x), *scales(alpha_bars[t], x)), t


def denoising_error(x: Tensor, shares: Sequence[float], probes: Tensor, predict: Predict, alpha_bars: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, averaged over times at these shares of T: (B,), an OOD score.

    probes: one for each share.
    """
    errors = []
    for share, probe in zip(shares, probes, strict=True):
        _, eps = predict(*noised(x, probe, share, alpha_bars))
        errors.append((eps - probe).square().mean((1, 2, 3)))
    return torch.stack(errors).mean(0)


def redrawing_error(x: Tensor, probes: Tensor, predict: Predict, alpha_bars: Tensor) -> Tensor:
    """How far from x DDIM ends when it starts from x with noise added: (B,), an OOD score (Graham et al. 2023).

    The log of the mean squared error, averaged over `REDRAWN`; logs keep one time from outweighing the others. Errors
    below half an 8-bit level count as half a level, since a uniform image may come back exactly.

    probes: at least one for each share in `REDRAWN`; the first ones are used.
    """
    logs = []
    for share, probe in zip(REDRAWN, probes, strict=False):
        x_t, t = noised(x, probe, share, alpha_bars)
        start = int(t[0])
        times = spaced_times(start, min(REDRAW_STEPS, start))
        back = ddim(x_t, times[::-1], predict, alpha_bars)
        logs.append((back - x).square().mean((1, 2, 3)).clamp(min=HALF_BIN**2).log())
    return torch.stack(logs).mean(0)
