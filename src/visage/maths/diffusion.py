"""Gaussian diffusion in discrete time: the formulas that DDPM, DDIM and their successors print.

    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I),    abar_t = product of 1 - beta_s over s = 1..t,    abar_0 = 1

Ho et al. 2020 (arXiv:2006.11239), Song et al. 2021 (arXiv:2010.02502), Nichol & Dhariwal 2021 (arXiv:2102.09672),
Salimans & Ho 2022 (arXiv:2202.00512), Bao et al. 2022 (arXiv:2201.06503). Time is t = 1..T as in the
papers: `alpha_bars` has T + 1 values, so that it is indexed by t. Coefficients are float64, since 1 - abar_1 is
about 1e-4 and float32 would keep only three digits of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from visage.maths import noise
from visage.maths.likelihoods import HALF_BIN, standard_normal_kl

Prediction = Literal["epsilon", "v", "residual"]
"""What a network predicts: the noise (Ho et al. 2020), the velocity (Salimans & Ho 2022), or what is left of the image
once a Wiener filter has guessed at it (`visage.nn.wiener`)."""
Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A network's guesses at x_0 and eps, each (B, C, s, s), from x_t (B, C, s, s) and t (B,) integers on the CPU."""

LEAST_LAMBDA = -5.0
"""The log(a / sigma) where `log_snr_times` begin after T: noise of 150 times the image, which hides all of it."""

# --- Schedules


def linear_betas(steps: int) -> Tensor:
    """beta_1..beta_T, (T,) float64: from 1e-4 to 0.02 for T = 1000 (Ho et al. 2020, section 4).

    For other T both ends are multiplied by 1000 / T, which adds the same noise in total; no beta exceeds 0.999.
    """
    return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64).clamp(max=0.999)


def cosine_betas(steps: int) -> Tensor:
    """The betas, (T,) float64, of abar_t ~ cos^2((t / T + 0.008) / 1.008 * pi / 2) (Nichol & Dhariwal 2021, eq. 17).

    No beta exceeds 0.999, which keeps abar_T above 0.
    """
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    curve = torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)


def alpha_bars(betas: Tensor) -> Tensor:
    """abar_0..abar_T, (T + 1,), for betas (T,); abar_0 = 1."""
    return torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])


# --- Forward. a = sqrt(abar_t) and sigma = sqrt(1 - abar_t) are (B, 1, 1, 1), from `scales` or `from_tables`


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """Reshape (B,) coefficients to multiply x (B, C, s, s), with its device and dtype."""
    return values.to(x.device, x.dtype).reshape(-1, 1, 1, 1)


def scales(abar: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scales a and sigma of image and noise for abar (B,), float64, to multiply x (B, C, s, s)."""
    return per_image(abar.sqrt(), x), per_image((1 - abar).sqrt(), x)


def tables(alpha_bars: Tensor) -> Tensor:
    """The scales at every t, (2, T + 1) float32, to be a buffer: training looks them up without leaving its device.

    Both are rounded from float64, so that sigma keeps its digits near t = 0; not every device has float64.
    """
    return torch.stack([alpha_bars.sqrt(), (1 - alpha_bars).sqrt()]).float()


def from_tables(tables: Tensor, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scales a and sigma at times t (B,), integers on the device of the tables, to multiply x (B, C, s, s)."""
    a, sigma = tables[:, t]
    return per_image(a, x), per_image(sigma, x)


def diffuse(x0: Tensor, eps: Tensor, a: Tensor, sigma: Tensor) -> Tensor:
    """x_t = a x_0 + sigma eps (Ho et al. 2020, eq. 4)."""
    return a * x0 + sigma * eps


def velocity(x0: Tensor, eps: Tensor, a: Tensor, sigma: Tensor) -> Tensor:
    """Velocity v = a eps - sigma x_0 (Salimans & Ho 2022, section 4)."""
    return a * eps - sigma * x0


def x0_of_velocity(x_t: Tensor, v: Tensor, a: Tensor, sigma: Tensor) -> Tensor:
    """Image x_0 = a x_t - sigma v."""
    return a * x_t - sigma * v


def x0_of_epsilon(x_t: Tensor, eps: Tensor, a: Tensor, sigma: Tensor) -> Tensor:
    """Image x_0 = (x_t - sigma eps) / a."""
    return (x_t - sigma * eps) / a


def epsilon_of_x0(x_t: Tensor, x0: Tensor, a: Tensor, sigma: Tensor) -> Tensor:
    """Noise eps = (x_t - a x_0) / sigma, for sigma above 0."""
    return (x_t - a * x0) / sigma


def split(x_t: Tensor, output: Tensor, abar: Tensor, prediction: Prediction, *, clip: bool) -> tuple[Tensor, Tensor]:
    """The image x_0 and the noise eps that a network's output stands for. abar: (B,), float64, less than 1.

    output: with a residual, that of filter and network together, the image itself.
    clip: restrict x_0 to [-1, 1], the range of pixels; eps is then the noise that goes with the clipped image.
    """
    a, sigma = scales(abar, x_t)
    if prediction == "residual":
        x0 = output
    else:
        x0 = (x0_of_epsilon if prediction == "epsilon" else x0_of_velocity)(x_t, output, a, sigma)
    if clip:
        x0 = x0.clamp(-1, 1)
    elif prediction == "epsilon":
        return x0, output
    return x0, epsilon_of_x0(x_t, x0, a, sigma)


# --- Backward, from t to an earlier s


def posterior(abar_s: Tensor, abar_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, variance of q(x_s | x_t, x_0) = N(a x_0 + b x_t, variance I) (Ho et al. 2020, eqs. 6 and 7 at s = t - 1).

    abar_s and abar_t have the same shape, and abar_s > abar_t. At s = 0 the result is exactly 1, 0, 0.
    """
    alpha = abar_t / abar_s
    remaining = (1 - abar_s) / (1 - abar_t)
    return abar_s.sqrt() * (1 - alpha) / (1 - abar_t), alpha.sqrt() * remaining, (1 - alpha) * remaining


def ddim_coefficients(abar_s: Tensor, abar_t: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """a, b, c of x_s = a x_0 + b eps + c n, n ~ N(0, I) (Song et al. 2021, eqs. 12 and 16).

    eta: 0 is deterministic, 1 has the variance of `posterior`. With eta = 0, s may also be later than t.
    """
    variance = eta**2 * (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)
    return abar_s.sqrt(), (1 - abar_s - variance).sqrt(), variance.sqrt()


def spaced_times(steps: int, calls: int) -> list[int]:
    """0 = t_0 < t_1 < ... < t_calls = T, evenly spaced: the times that a sampler visits, backwards, in `calls` calls.

    The last one is T, where x_T is N(0, I), and not up to T / calls before it (Lin et al. 2024, arXiv:2305.08891).
    """
    return [round(steps * i / calls) for i in range(calls + 1)]


def log_snr_times(alpha_bars: Tensor, calls: int) -> list[int]:
    """0 = t_0 < t_1 < ... < t_calls = T, where t_1 to t_{calls - 1} are about even in lambda = log(a / sigma).

    The spacing of Lu et al. 2022 (arXiv:2211.01095), from lambda of t = 1 on down to `LEAST_LAMBDA`, or to that of T if
    this is higher. Times that are even in t take one or two of 25 steps while the coarse outlines are decided, which
    stay too faint: pixels of samples have .37 of the range as standard deviation where those of 200 steps have .41.
    """
    last = len(alpha_bars) - 1
    lambdas = 0.5 * torch.log(alpha_bars[1:] / (1 - alpha_bars[1:]))
    ends = float(lambdas[0]), max(LEAST_LAMBDA, float(lambdas[-1]))
    wanted = torch.linspace(*ends, calls, dtype=torch.float64)[:-1]
    nearest = (lambdas[:, None] - wanted).abs().argmin(0) + 1
    times = [0]
    for i, t in enumerate(nearest.tolist(), 1):  # no time twice, and room for all that come after it
        times.append(min(max(t, times[-1] + 1), last - (calls - i)))
    return [*times, last]


# --- The variational bound (Ho et al. 2020, eq. 5)


def posterior_kl(x0: Tensor, guess: Tensor, a: Tensor, variance: Tensor, model_variance: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), elementwise, in nats.

    The mean of p is that of `posterior` with a guess in place of x_0, so that the two means differ by a (x_0 - guess).

    a, variance: those of `posterior`, with variance > 0. model_variance: that of p. All broadcast against x0.
    """
    ratio = variance / model_variance
    return 0.5 * (ratio - 1 - ratio.log() + (a * (x0 - guess)).square() / model_variance)


def discretized_gaussian_log_prob(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log-probability of 8-bit values under a Gaussian whose tails belong to the end values, elementwise (eq. 13).

    x: x11, one of the 256 values v / 127.5 - 1. mean, log_sigma: in x11. The 256 probabilities sum to 1.
    """
    lower = torch.where(x < HALF_BIN - 1, -torch.inf, (x - HALF_BIN - mean) * torch.exp(-log_sigma))
    upper = torch.where(x > 1 - HALF_BIN, torch.inf, (x + HALF_BIN - mean) * torch.exp(-log_sigma))
    # right of the mean, use the mass between the mirror images of the two points, where no digits cancel
    mirror = lower + upper > 0
    lower, upper = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    log_upper: Tensor = torch.special.log_ndtr(upper)
    return log_upper + torch.log(-torch.expm1(torch.special.log_ndtr(lower) - log_upper))


def strata(steps: int, count: int) -> list[tuple[int, int]]:
    """Split the times 2..T into `count` parts [first, end), each longer than the one before by about the same factor.

    The sum over all times is estimated without bias by one random time from each part, weighted by the part's length.
    The terms of the bound fall about as 1 / t, so with parts of equal length the noise of the first would dominate.
    """
    ends = [1 + max(i + 1, round(steps ** (i / count))) for i in range(count + 1)]
    return list(pairwise(ends))


def variances(alpha_bars: Tensor, kind: Literal["small", "large"]) -> Tensor:
    """sigma_t^2 of p(x_{t-1} | x_t) at index t = 1..T, (T + 1,), for abar_0..abar_T; index 0 is not used.

    "small" are the variances of `posterior`, "large" are beta_t (Ho et al. 2020, section 3.2). As in the authors' code,
    t = 1 has the small variance of t = 2, since the posterior's is 0 at t = 1 and L_0 would be infinite.
    """
    before, after = alpha_bars[:-1], alpha_bars[1:]
    small = posterior(before, after)[2]
    chosen = small if kind == "small" else 1 - after / before
    return torch.cat([small[:1], small[1:2], chosen[1:]])


class ReverseStep(Protocol):
    """The covariance of p(x_{t-1} | x_t), whose mean is that of `posterior` with a guess in place of x_0."""

    @property
    def first_variance(self) -> Tensor:
        """sigma_1^2 of p(x_0 | x_1) in every dimension, a scalar."""

    def divergence(self, x0: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """L_{t-1} of eq. 5, (B,), in nats per image: x0 and guess (B, C, s, s), t (B,) from 2 on, on the CPU."""

    def noise(self, eps: Tensor, t: int) -> Tensor:
        """What a step back from t > 1 adds to the mean, for eps (B, C, s, s) ~ N(0, I)."""


@dataclass(frozen=True, slots=True)
class IsotropicStep:
    """The same variance in every dimension: `variances` at index t."""

    alpha_bars: Tensor
    variances: Tensor

    @property
    def first_variance(self) -> Tensor:
        """That of t = 1."""
        return self.variances[1]

    def divergence(self, x0: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """A sum over dimensions."""
        a, _, variance = posterior(self.alpha_bars[t - 1], self.alpha_bars[t])
        a, variance, sigma2 = (per_image(part, x0) for part in (a, variance, self.variances[t]))
        return posterior_kl(x0, guess, a, variance, sigma2).sum((1, 2, 3))

    def noise(self, eps: Tensor, t: int) -> Tensor:
        """A multiple of eps."""
        return self.variances[t].sqrt().to(eps) * eps


def variational_bound(
    x: Tensor,
    predict: Predict,
    alpha_bars: Tensor,
    step: ReverseStep,
    rows: Sequence[torch.Generator],
    terms: int,
) -> tuple[Tensor, Tensor]:
    """Distortion L_0 and rate, L_T and the sum of L_{t-1} over t = 2..T: (B,) each, in nats per 8-bit image (eq. 5).

    L_T and L_0 are computed in full. Each stratum of the other times is estimated without bias from one L_{t-1}, at a
    random time that is drawn for each image.

    x: (B, C, s, s) in x11. predict: only its guess at x_0 is used.
    rows: a generator for each image. terms: network calls, at most T.
    """

    def noisy(t: Tensor) -> Tensor:
        return diffuse(x, noise.randn_each(rows, x.shape[1:], x.device), *scales(alpha_bars[t], x))

    last = alpha_bars[-1]
    rate = standard_normal_kl(float(last.sqrt()) * x, (1 - last).log().to(x)).sum((1, 2, 3))  # L_T
    for first, end in strata(len(alpha_bars) - 1, terms - 1):
        t = torch.cat([torch.randint(first, end, (1,), generator=row) for row in rows])
        x0, _ = predict(noisy(t), t)
        rate = rate + (end - first) * step.divergence(x, x0, t)
    t = torch.ones(len(x), dtype=torch.long)
    mean, _ = predict(noisy(t), t)  # of p(x_0 | x_1): at t = 1 the posterior's mean is its x_0
    log_p = discretized_gaussian_log_prob(x, mean, (0.5 * step.first_variance.log()).to(x))
    return -log_p.sum((1, 2, 3)), rate
