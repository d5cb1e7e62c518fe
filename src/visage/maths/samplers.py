"""DDIM, DPM-Solver++ and measurements made with DDIM, for any network that guesses the image and the noise in x_t.

Song et al. 2021 (arXiv:2010.02502), Lu et al. 2022 (arXiv:2211.01095); the score of redrawn images is Graham et
al. 2023 (arXiv:2211.07740). Throughout, `alpha_bars` is abar_0..abar_T, (T + 1,) float64 on the CPU, and `probes` is
(K, C, s, s), noise that all images share.
"""

import math
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


def dpm_solver(x: Tensor, times: Sequence[int], predict: Predict, alpha_bars: Tensor) -> Tensor:
    """Carry x (B, C, s, s) from the first of the times to 0 by DPM-Solver++(2M), one call per step.

    The update of DDIM without noise, with a guess at x_0 that is extrapolated from the last two calls to the middle of
    the step in lambda = log(a / sigma) (Lu et al. 2022, algorithm 2). The first step has no call before it, and the
    last, at whose end lambda is infinite, keeps its own guess.

    times: falling, the last one 0. predict: only its guess at x_0 is used.
    """
    before: tuple[float, Tensor] | None = None
    for t, s in pairwise(times):
        x0, _ = predict(x, torch.full((len(x),), t))
        if s == 0:
            return x0
        lam, end = (float((abar / (1 - abar)).log() / 2) for abar in (alpha_bars[t], alpha_bars[s]))
        guess = x0
        if before is not None:
            last_lam, last_x0 = before
            guess = x0 + 0.5 * (end - lam) / (lam - last_lam) * (x0 - last_x0)
        keep = float(((1 - alpha_bars[s]) / (1 - alpha_bars[t])).sqrt())
        x = keep * x - float(alpha_bars[s].sqrt()) * math.expm1(lam - end) * guess
        before = lam, x0
    return x


def denoised(x: Tensor, sigma: float, predict: Predict, alpha_bars: Tensor) -> Tensor:
    """The guess at x_0 in x = x_0 + sigma eps (B, C, s, s), for which one call is made at the time t that suits it.

    x_t / sqrt(abar_t) has noise of standard deviation sqrt(1 / abar_t - 1); t is that of the nearest one, on a
    logarithmic scale.
    """
    levels = (1 / alpha_bars[1:] - 1).log() / 2
    t = 1 + int((levels - math.log(sigma)).abs().argmin())
    x0, _ = predict(float(alpha_bars[t].sqrt()) * x, torch.full((len(x),), t))
    return x0


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
