"""Score-based generation by stochastic differential equations (Song et al. 2021, arXiv:2011.13456).

An SDE turns images into noise as t goes from 0 to 1; a network learns the score of every p_t, which turns it back:

    dx = f(x, t) dt + g(t) dw                                 forward (eq. 5); x_t | x_0 ~ N(a(t) x_0, sigma(t)^2 I)
    dx = [f(x, t) - g(t)^2 score(x, t)] dt + g(t) dw          backward (eq. 6)
    dx = [f(x, t) - g(t)^2 score(x, t) / 2] dt                the ODE with the same p_t (eq. 13), a flow

    minimise  E_t lambda(t) E |s(x_t, t) - grad log p(x_t | x_0)|^2,  t ~ U(T_MIN, 1)          (eq. 7)

    x_0  dequantised image y11, 2 (v + u) / 256 - 1    `y`        s, score  the network's        `score`
    f, g  drift and diffusion     `VP.f` (factor on x), `VP.g2`   a, sigma  marginals            `a`, `sigma`
    p_1  = N(0, prior_std^2 I)    `prior_std`                     lam = log(sigma / a), minus half of the log-SNR

lambda = sigma^2, so that the loss is the squared error of the noise in x_t. VP is the SDE behind DDPM (eq. 11), VE the
one behind denoising score matching at many scales (eq. 9). The loss weighted by g^2 (arXiv:2101.09258) is left out.

Where we deviate:

* x_0 is dequantised in training too, whereas the authors do so only for likelihoods; VE works in the same [-1, 1], so
  its sigmas are twice theirs. As theirs does, the likelihood refers to p_t at t = T_MIN.
* VE's network sees x_t / sqrt(1 + sigma^2) and predicts the noise, not noise / sigma. Both SDEs embed 999 t, which for
  VE is log sigma, stretched to the range that the embedding was made for.
* `parametrization: v` lets the network predict the v of Salimans & Ho (2022, arXiv:2202.00512, section 4), from which
  the score follows exactly. t is then drawn at even angles atan(sigma / a), the cosine schedule's, and the squared
  error of v has the same weight at all of them: a different lambda, which spends less of a short training on nearly
  pure noise.
* `parametrization: residual` lets it learn what a linear filter leaves of the image (`visage.nn.wiener`), at the same
  times; the score is that of its guess m + s F at x_0, (a (m + s F) - x) / sigma^2. With F = 0 this is the exact score
  of a Gaussian with the images' mean and covariance. The logged `error_over_filter` says how much the network adds.
* The ODE is solved by Runge & Kutta's fourth-order method in equal steps of lam instead of adaptively in t: every image
  gets the same steps in any batch. The mean error for N(0, s^2 I) at 25 steps of VP is 1e-5 bits per dimension
  at s = .5, 3e-4 at .1, 9e-4 at .02; VE needs twice the steps.
* The corrector's step comes from each image's own norms, not from their mean over the batch, and is no longer than it
  would be at scores of N(0, (a^2 + sigma^2) I), which images are not wider than: a fresh network's score may be 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor, nn

from visage.maths import noise, pixels
from visage.maths.diffusion import Prediction, per_image
from visage.models.base import LINEAR_IMAGES, Batch, GenerativeModel, HasBound, HasLogProb, Phase, Reconstructs, Step
from visage.nn.unet import UNet
from visage.nn.wiener import LinearGuess, WienerFilter, check_axes


@dataclass(frozen=True, slots=True)
class ScoreSDEConfig:
    """The score SDE's settings."""

    sde: Literal["vp", "ve"]  # variance preserving or exploding
    sigma_max: Annotated[float, Ge(1)]  # VE's last sigma, about the largest distance of two images; paper: 2 * 90 at 64
    parametrization: Prediction  # what the network predicts; the paper: the noise epsilon
    filter_axes: Annotated[int, Ge(0)]  # K of the filter whose residual is predicted; 0 for other parametrizations
    width: Annotated[int, Ge(4)]  # channels of the U-Net at the highest resolution; the paper: 128
    multipliers: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]  # of width, at each halving; paper: 1, 2, 2, 2
    blocks: Annotated[int, Ge(1)]  # residual blocks at each resolution
    attention: tuple[int, ...]  # sides, in pixels, of the resolutions with attention; paper: 16
    dropout: Annotated[float, Ge(0), Lt(1)]  # in the residual blocks
    patch: Annotated[int, Ge(1)]  # pixels of a patch x patch square become channels first; the paper: 1
    sampler: Literal["pc", "ode"]  # how `sample` draws: by predictor and corrector, if there is one, or by the ODE
    pc_steps: Annotated[int, Ge(1)]  # of the predictor, one or two network calls each; the paper: 1000
    snr: Annotated[float, Ge(0), Le(1)]  # r of the Langevin corrector, 0 for none; the authors: VP 0, VE on CelebA 0.17
    ode_steps: Annotated[int, Ge(1)]  # of the ODE from noise to image or back, four network calls each
    likelihood_steps: Annotated[int, Ge(1)]  # of the ODE when its density is computed

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        check_axes(self.parametrization, self.filter_axes)


T_MIN = 1e-5
"""The smallest time of training and likelihood: at t = 0 the score of VP is infinite."""
EMBEDDED = 999.0
"""The input of the time embedding at t = 1."""
OOD_NOISE = (0.2, 0.5, 1.0, 2.0, 5.0)
"""The noise levels sigma / a of `ood_scores`, which probe fine texture to coarse outline."""
FEATURE_NOISE = 0.3
"""The sigma / a at which the network's features are taken; VP: t = 0.09."""

Score = Callable[[Tensor, Tensor], Tensor]
"""(x (B, 3, S, S), t (B,)) -> (B, 3, S, S): grad log p_t(x)."""


# --- The two SDEs: functions of t, tensors of any shape


class VP:
    """dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with beta(t) = BETA_0 + (BETA_1 - BETA_0) t (eq. 11, appendix C)."""

    BETA_0, BETA_1 = 0.1, 20.0
    prior_std = 1.0
    sampling_end = 1e-3  # appendix C

    def log_a(self, t: Tensor) -> Tensor:
        """Minus half of the integral of beta."""
        return -0.25 * (self.BETA_1 - self.BETA_0) * t**2 - 0.5 * self.BETA_0 * t

    def a(self, t: Tensor) -> Tensor:
        """The factor on x_0."""
        return self.log_a(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """The noise: sqrt(1 - a^2), with all of its digits near t = 0."""
        return (-torch.expm1(2 * self.log_a(t))).sqrt()

    def f(self, t: Tensor) -> Tensor:
        """The drift's factor on x."""
        return -0.5 * (self.BETA_0 + (self.BETA_1 - self.BETA_0) * t)

    def g2(self, t: Tensor) -> Tensor:
        """The squared diffusion, beta(t)."""
        return self.BETA_0 + (self.BETA_1 - self.BETA_0) * t

    def time(self, lam: Tensor) -> Tensor:
        """The t at which log(sigma / a) is lam: log a = -log(1 + exp(2 lam)) / 2, solved for t."""
        integral = nn.functional.softplus(2 * lam)  # of beta, up to t
        return 2 * integral / (self.BETA_0 + (self.BETA_0**2 + 2 * (self.BETA_1 - self.BETA_0) * integral).sqrt())


class VE:
    """dx = sqrt(d sigma^2 / dt) dw with sigma(t) = SIGMA_MIN (sigma_max / SIGMA_MIN)^t (eq. 9, appendix C)."""

    SIGMA_MIN = 0.02
    sampling_end = T_MIN

    def __init__(self, sigma_max: float) -> None:
        self.prior_std = sigma_max
        self.rate = math.log(sigma_max / self.SIGMA_MIN)

    def a(self, t: Tensor) -> Tensor:
        """The factor on x_0: one."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """The noise, a geometric progression."""
        return self.SIGMA_MIN * torch.exp(self.rate * t)

    def f(self, t: Tensor) -> Tensor:
        """The drift's factor on x: zero."""
        return torch.zeros_like(t)

    def g2(self, t: Tensor) -> Tensor:
        """The squared diffusion, d sigma^2 / dt."""
        return 2 * self.rate * self.sigma(t) ** 2

    def time(self, lam: Tensor) -> Tensor:
        """The t at which log(sigma / a) is lam."""
        return (lam - math.log(self.SIGMA_MIN)) / self.rate


# --- From noise to images, given any score; t is the same time for all images, a float64 scalar on the CPU


def predictor_corrector(
    sde: VP | VE, score: Score, x: Tensor, generators: Sequence[torch.Generator], steps: int, snr: float
) -> Tensor:
    """Solve the backward SDE from x at t = 1 (appendix G, algorithms 2 to 5), in equal steps of t, then denoise.

    Each step reverses one of the forward SDE, x <- keep x + sqrt(g2) z, discretised so that the marginals are exact;
    then Langevin dynamics at the new t correct the marginal, unless snr is 0.
    """
    for t, after in pairwise(torch.linspace(1, sde.sampling_end, steps + 1, dtype=torch.float64)):
        keep = sde.a(t) / sde.a(after)
        g2 = sde.sigma(t) ** 2 - (keep * sde.sigma(after)) ** 2
        z = noise.randn_each(generators, x.shape[1:], x.device)
        x = (2 - keep) * x + g2 * score(x, _each(t, x)) + g2.sqrt() * z
        if snr:
            z = noise.randn_each(generators, x.shape[1:], x.device)
            s = score(x, _each(after, x))
            widest = (sde.a(after) ** 2 + sde.sigma(after) ** 2).sqrt().item()
            step = 2 * keep**2 * (snr * (_norm(z) / _norm(s)).clamp(max=widest)) ** 2
            x = x + step * s + (2 * step).sqrt() * z
    return denoise(sde, score, x, after)


def denoise(sde: VP | VE, score: Score, x: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x_t] = (x + sigma^2 score) / a, which removes the remaining noise (appendix C)."""
    return (x + sde.sigma(t) ** 2 * score(x, _each(t, x))) / sde.a(t)


def probability_flow(
    sde: VP | VE, score: Score, x: Tensor, times: tuple[float, float], steps: int, probe: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Solve the ODE from the first of two times to the second; return x there and the integral of its divergence, (B,).

    The divergence is that of Skilling and Hutchinson, probe' J probe for a probe (B, 3, S, S) of mean 0 and covariance
    I, the same throughout (appendix D.2), and 0 without a probe. Works under `torch.no_grad`.
    """

    def velocity(x: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """The slope dx / dlam and its divergence; dlam / dt = g^2 / (2 sigma^2) for every such SDE."""
        t = sde.time(lam)
        with torch.set_grad_enabled(probe is not None):
            x = x.detach().requires_grad_(probe is not None)
            drift = sde.f(t) * x - 0.5 * sde.g2(t) * score(x, _each(t, x))
            dx = drift * (2 * sde.sigma(t) ** 2 / sde.g2(t))
            if probe is None:
                return dx, x.new_zeros(len(x))
            (vjp,) = torch.autograd.grad(dx, x, probe)
        return dx.detach(), (vjp * probe).flatten(1).sum(1)

    start, end = ((sde.sigma(t) / sde.a(t)).log() for t in torch.tensor(times, dtype=torch.float64))
    h = (end - start) / steps
    gained = x.new_zeros(len(x))
    for i in range(steps):
        lam = start + i * h
        k1, d1 = velocity(x, lam)
        k2, d2 = velocity(x + h / 2 * k1, lam + h / 2)
        k3, d3 = velocity(x + h / 2 * k2, lam + h / 2)
        k4, d4 = velocity(x + h * k3, lam + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        gained = gained + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, gained


def _each(t: Tensor, x: Tensor) -> Tensor:
    """The scalar t repeated for every image, (B,)."""
    return t.to(x).expand(len(x))


def _norm(x: Tensor) -> Tensor:
    """The norm of each image, (B, 1, 1, 1)."""
    return per_image(torch.linalg.vector_norm(x.flatten(1), dim=1), x)


# --- The model


class ScoreSDE(GenerativeModel):
    """A score network and the SDE whose marginals it knows.

    Raises:
        ValueError: the image cannot be halved as often as there are multipliers.
    """

    paper = "Song et al. 2021, arXiv:2011.13456"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"
    initial_images = LINEAR_IMAGES

    def __init__(self, config: ScoreSDEConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.shape = (3, size, size)
        self.sde = VP() if config.sde == "vp" else VE(config.sigma_max)
        self.filter = WienerFilter(3, size, config.filter_axes) if config.parametrization == "residual" else None
        self.net = UNet(
            3,
            size,
            width=config.width,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention=config.attention,
            dropout=config.dropout,
            patch=config.patch,
            beside=3 if self.filter else 0,
        )
        self.likelihood_calls = 4 * config.likelihood_steps
        pc = config.pc_steps * (2 if config.snr else 1)
        self.score_calls = len(OOD_NOISE)
        self.sample_calls = (pc if config.sampler == "pc" else 4 * config.ode_steps) + 1  # the last one denoises

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """The network alone."""
        return {"score": [self.net]}

    def phases(self) -> Sequence[Phase]:
        """One step of denoising score matching."""
        return [Phase("score", self.loss)]

    def initialize(self, batch: Batch) -> None:
        """Take the filter, if there is one, from the training images, dequantised as in training."""
        if self.filter:
            u = noise.rand(len(batch.x), self.shape, torch.Generator().manual_seed(0), batch.x.device)
            self.filter.fit(dequantized(batch.x, u))

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t) = -epsilon / sigma = (a x_0 - x) / sigma^2 for x (B, 3, S, S) and t (B,)."""
        a, sigma = per_image(self.sde.a(t), x), per_image(self.sde.sigma(t), x)
        if self.filter:
            guess: LinearGuess = self.filter(x, a, sigma)
            return (a * guess.image(self.net(guess.inputs, EMBEDDED * t)) - x) / sigma**2
        scale = (a**2 + sigma**2).sqrt()
        x = x / scale
        predicted: Tensor = self.net(x, EMBEDDED * t)
        # x = cos x_0 + sin epsilon and v = cos epsilon - sin x_0, where cos = a / scale and sin = sigma / scale
        epsilon = predicted if self.config.parametrization == "epsilon" else (sigma * x + a * predicted) / scale
        return -epsilon / sigma

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 7, mean over dimensions; lambda is sigma^2, or what makes this the squared error of what is predicted."""
        g, device = step.generator, batch.x.device
        y = dequantized(batch.x, noise.uniform(batch.x.shape, g, device))
        t = self.times(noise.uniform((len(y),), g, device))
        epsilon = noise.normal(y.shape, g, device)
        a, sigma = per_image(self.sde.a(t), y), per_image(self.sde.sigma(t), y)
        if self.filter:
            guess: LinearGuess = self.filter(a * y + sigma * epsilon, a, sigma)
            return guess.loss(self.net(guess.inputs, EMBEDDED * t), y)
        target = -epsilon / sigma  # grad log p(x_t | x_0)
        errors = (sigma**2 * (self.score(a * y + sigma * epsilon, t) - target).square()).flatten(1).mean(1)
        weighted = errors if self.config.parametrization == "epsilon" else errors * (1 + (sigma / a).flatten() ** 2)
        return weighted.mean(), {"epsilon_mse": errors.detach().mean()}

    def times(self, u: Tensor) -> Tensor:
        """Map u (B,) in [0, 1) to the times at which to train."""
        if self.config.parametrization == "epsilon":
            return T_MIN + (1 - T_MIN) * u
        ends = torch.tensor([T_MIN, 1.0], dtype=torch.float64)
        first, last = torch.atan(self.sde.sigma(ends) / self.sde.a(ends))
        return self.sde.time(torch.tan(first + (last - first) * u).log()).to(u)

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """The ODE is a flow, and its density can only be estimated."""
        return {
            Reconstructs: "its ODE is invertible: a round trip measures the solver, not the model",
            HasLogProb: "a solver and random probes stand behind its log p(x): an estimate",
            HasBound: "estimates log p(x) of its ODE; the known bound is of its SDE's distribution",
        }

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z ~ N(0, I), (n, 3 S^2); x at t = 1 is prior_std z."""
        return noise.randn(n, self.shape, generator, next(self.parameters()).device).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """Follow the ODE from noise to `sampling_end`, and remove what noise remains there."""
        x, end = self.sde.prior_std * z.reshape(-1, *self.shape), self.sde.sampling_end
        y, _ = probability_flow(self.sde, self.score, x, (1.0, end), self.config.ode_steps)
        return images(denoise(self.sde, self.score, y, torch.tensor(end, dtype=torch.float64)))

    def encode(self, x: Tensor) -> Tensor:
        """Follow the ODE from the middle of the image's bins, u = 1/2, taken for x at `sampling_end`, to the noise."""
        y = dequantized(x, torch.full_like(x, 0.5))
        x1, _ = probability_flow(self.sde, self.score, y, (self.sde.sampling_end, 1.0), self.config.ode_steps)
        return (x1 / self.sde.prior_std).flatten(1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw by the sampler that is configured."""
        return (self.sample_pc if self.config.sampler == "pc" else self.sample_ode)(n, generator)

    def variants(self) -> Mapping[str, Callable[[int, torch.Generator], Tensor]]:
        """Both samplers, from the same noise at t = 1: the SDE's, with a corrector (PC) or without, and the ODE's."""
        return {"PC" if self.config.snr else "SDE": self.sample_pc, "ODE": self.sample_ode}

    def sample_pc(self, n: int, generator: torch.Generator) -> Tensor:
        """The predictor, with the corrector if there is one, backward from noise."""
        generators, z = self.start(n, generator)
        x = self.sde.prior_std * z
        y = predictor_corrector(self.sde, self.score, x, generators, self.config.pc_steps, self.config.snr)
        return images(y)

    def sample_ode(self, n: int, generator: torch.Generator) -> Tensor:
        """The ODE, backward from noise."""
        return self.decode(self.start(n, generator)[1])

    def start(self, n: int, generator: torch.Generator) -> tuple[Sequence[torch.Generator], Tensor]:
        """A generator for each image, and its first draw, z (n, 3, S, S)."""
        generators = noise.each(n, generator)
        return generators, noise.randn_each(generators, self.shape, next(self.parameters()).device)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """E[x_0 | x_t] at the t where sigma(t) / a(t) is that of the noise, or at the last t where it is larger."""
        sigma *= 255 / 256  # the unit of y11 is that much larger
        t = self.sde.time(torch.tensor(sigma, dtype=torch.float64).log()).clamp(T_MIN, 1.0)
        y = 2 * pixels.to_middle(x) - 1
        return images(denoise(self.sde, self.score, self.sde.a(t) * y, t))

    def estimate_log_prob(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The prior's log-density plus the integral (appendix D.2), minus D log 128 to convert y11 to 8-bit values."""
        draws = [(torch.rand(self.shape, generator=generator), self.signs(generator)) for _ in x]  # image by image
        u, probe = (torch.stack(part).to(x.device) for part in zip(*draws, strict=True))
        dims = x[0].numel()
        with torch.autocast(x.device.type, enabled=False):
            steps = self.config.likelihood_steps
            x1, gained = probability_flow(self.sde, self.score, dequantized(x, u), (T_MIN, 1.0), steps, probe)
        z = x1 / self.sde.prior_std
        log_prior = -0.5 * z.square().flatten(1).sum(1) - dims * math.log(self.sde.prior_std * math.sqrt(2 * math.pi))
        return log_prior + gained - dims * math.log(pixels.LEVELS / 2)

    def signs(self, generator: torch.Generator) -> Tensor:
        """One image of -1 and 1 (Rademacher): the probe with the least variance."""
        return 2.0 * torch.randint(2, self.shape, generator=generator) - 1

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Log squared error of the predicted noise, averaged over `OOD_NOISE`; logs keep one level from dominating."""
        y = dequantized(x, torch.full_like(x, 0.5))
        epsilon = noise.randn(len(x), self.shape, generator, x.device)
        logs = []
        for t in self.sde.time(torch.tensor(OOD_NOISE, dtype=torch.float64).log()):
            a, sigma = self.sde.a(t), self.sde.sigma(t)
            wrong = sigma * self.score(a * y + sigma * epsilon, _each(t, x)) + epsilon
            logs.append(wrong.square().flatten(1).mean(1).log())
        return {"denoising": torch.stack(logs).mean(0)}

    def features(self, x: Tensor) -> Tensor:
        """The U-Net's middle activations for x with noise of level `FEATURE_NOISE`, the same for every image."""
        y = dequantized(x, torch.full_like(x, 0.5))
        epsilon = torch.randn(self.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
        t = self.sde.time(torch.tensor(FEATURE_NOISE, dtype=torch.float64).log())
        a, sigma = self.sde.a(t), self.sde.sigma(t)
        x_t = a * y + sigma * epsilon
        if self.filter:
            seen = self.filter(x_t, per_image(_each(a, x), x), per_image(_each(sigma, x), x)).inputs
        else:
            seen = x_t / (a**2 + sigma**2).sqrt()
        return self.net.features(seen, EMBEDDED * _each(t, x))


def dequantized(x: Tensor, u: Tensor) -> Tensor:
    """y11 = 2 (v + u) / 256 - 1."""
    return 2 * pixels.dequantize(x, u) - 1


def images(y: Tensor) -> Tensor:
    """x11 of the value v whose dequantised values have the mean y, clamped to [-1, 1]."""
    return pixels.from_middle((y + 1) / 2).clamp(-1, 1)
