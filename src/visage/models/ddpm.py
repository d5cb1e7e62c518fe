"""Denoising diffusion (Ho et al. 2020, arXiv:2006.11239) with DDIM sampling (Song et al. 2021, arXiv:2010.02502).

    q(x_t | x_0)      = N(sqrt(abar_t) x_0, (1 - abar_t) I)                                             eq. 4
    p(x_{t-1} | x_t)  = N(mu(x_t, x_0^), sigma_t^2 I), mu that of q(x_{t-1} | x_t, x_0 = x_0^)         eqs. 1 and 7
    minimise          L_simple = E |eps - eps^(x_t, t)|^2,  x_t ~ q(x_t | x_0),  t ~ U{1, ..., T}      eq. 14
    bound             -log P(x_0) <= L_T + sum of L_{t-1} over t = 2..T + L_0                          eq. 5

    x_0  image           `batch.x`, `x`    eps^  the network, a U-Net  `denoiser`      sigma_t^2    `variances[t]`
    x_t  noisy image     `x_t`             x_0^  guess at the image    `x0`            T            `timesteps`
    eps  noise, N(0, I)  `eps`             abar  product of 1 - beta   `alpha_bars`    eta (DDIM)   `eta`

L_0 is the distortion, -log P(8-bit image | x_1); L_T and the KL divergences L_{t-1} are the rate. `bound` takes L_T and
L_0 in full and estimates the sum from a few random times, one in each stratum, without bias.

Where we deviate:

* `prediction: v` lets the network predict v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 with the loss |v - v^|^2
  (Salimans & Ho 2022, arXiv:2202.00512), and `schedule: cosine` is Nichol & Dhariwal 2021 (arXiv:2102.09672): small
  networks show faces after far fewer steps. The paper predicts eps under betas that rise linearly.
* `prediction: residual` lets the network learn what a linear filter leaves of the image, m + s F being the guess at x_0
  (`visage.nn.wiener`). Before its first step the model is then a Gaussian of the images' mean and covariance, and
  everything that the network learns is added to that. It sees the filter's guess at the noise beside that at the image,
  not x_t itself, in which little noise is hard to see. The logged `error_over_filter` says how much it has added.
* `variance: optimal` takes from that filter how wrong a guess at x_0 is in which direction, and with it the covariance
  of p(x_{t-1} | x_t) that has the tightest bound for Gaussian images, instead of sigma_t^2 I (`FilteredStep`).
* `sampler: dpm_solver` is DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095): the same ODE as DDIM's with eta = 0, solved
  to second order at times that are even in log(a / sigma). Codes are still encoded and decoded by DDIM, whose steps can
  be reversed.
* Times are 1..T, as printed; the network receives 1000 t / T (the authors' code: t - 1).
* sigma_1^2 is that of t = 2, as in the authors' code: the posterior variance at t = 1 is 0, and L_0 would be infinite.
  L_0 takes the exact error function instead of their approximation by a tanh.
* DDIM visits evenly spaced times that end at T, where x_T is pure noise; its authors end a step before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Lt, MinLen, MultipleOf
from torch import Tensor

from visage.maths import diffusion, noise, samplers
from visage.models.base import (
    LINEAR_IMAGES,
    Batch,
    Bound,
    GenerativeModel,
    HasLogProb,
    Phase,
    Reconstructs,
    Sampler,
    Step,
)
from visage.nn.unet import UNet
from visage.nn.wiener import FilteredStep, LinearGuess, WienerFilter, check_axes


@dataclass(frozen=True, slots=True)
class DDPMConfig:
    """The settings of DDPM and of its U-Net."""

    timesteps: Annotated[int, Ge(2)]  # T; the paper: 1000
    schedule: Literal["linear", "cosine"]  # of beta_t; the paper: linear
    prediction: diffusion.Prediction  # what the network predicts; the paper: epsilon
    filter_axes: Annotated[int, Ge(0)]  # K of the filter whose residual is predicted; 0 for other predictions
    # sigma_t^2: that of the posterior or beta_t, both the paper's, or with a filter what makes the bound tightest
    variance: Literal["small", "large", "optimal"]
    sampler: Literal["ancestral", "ddim", "dpm_solver"]  # ancestral is the paper's, T network calls
    sampling_steps: Annotated[int, Ge(1)]  # network calls of DDIM, which also encodes and decodes images, or DPM-Solver
    bound_terms: Annotated[int, Ge(2)]  # network calls for the bound of an image; T of them compute every term
    width: Annotated[int, Ge(4), MultipleOf(4)]  # channels of the U-Net at the highest resolution; the paper: 128
    multipliers: Annotated[
        tuple[Annotated[int, Ge(1)], ...], MinLen(1)
    ]  # of width, at each resolution; paper: 1, 2, 2, 2
    blocks: Annotated[int, Ge(1)]  # residual blocks at each resolution; the paper: 2
    attention: tuple[int, ...]  # sides of the resolutions that have attention; the paper: 16
    dropout: Annotated[float, Ge(0), Lt(1)]  # in the residual blocks; the paper: 0.1 at 32 pixels, else 0
    patch: Annotated[int, Ge(1)]  # pixels of a patch x patch square that form one position; the paper: 1

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        check_axes(self.prediction, self.filter_axes)
        if self.variance == "optimal" and not self.filter_axes:
            raise ValueError("variance=optimal, but without a filter its value is not known: set it to small or large")
        for key, calls in (("sampling_steps", self.sampling_steps), ("bound_terms", self.bound_terms)):
            if calls > self.timesteps:
                raise ValueError(f"{key}={calls}, but there are {self.timesteps} timesteps: set it to that or less")


OOD_TIMES = (0.05, 0.1, 0.2, 0.4, 0.6)
"""The shares of T at which noise is added to an image to measure how well the network predicts it."""
FEATURE_TIME = 1
"""Index into `OOD_TIMES` of the time at which the network's features are taken, 0.1 T."""


class DDPM(GenerativeModel):
    """A U-Net that predicts the noise in a noisy image, and the samplers that use it.

    Raises:
        ValueError: the U-Net cannot halve images of this size.
    """

    paper = "Ho et al. 2020, arXiv:2006.11239; DDIM: Song et al. 2021, arXiv:2010.02502"
    score_calls = len(OOD_TIMES)
    slow_ood_calls = samplers.REDRAWING_CALLS
    initial_images = LINEAR_IMAGES
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"
    tables: Tensor
    probes: Tensor

    def __init__(self, config: DDPMConfig, size: int) -> None:
        super().__init__()
        self.config, self.shape = config, (3, size, size)
        self.likelihood_calls = config.bound_terms
        self.sample_calls = config.timesteps if config.sampler == "ancestral" else config.sampling_steps
        self.filter = WienerFilter(3, size, config.filter_axes) if config.prediction == "residual" else None
        self.denoiser = UNet(
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
        betas = diffusion.linear_betas if config.schedule == "linear" else diffusion.cosine_betas
        # this is not a buffer, so that it stays float64 and on the CPU, where samplers count t
        self.alpha_bars = diffusion.alpha_bars(betas(config.timesteps))
        self.register_buffer("tables", diffusion.tables(self.alpha_bars), persistent=False)
        self.register_buffer("probes", torch.randn(len(OOD_TIMES), *self.shape))

    def players(self) -> Mapping[str, Sequence[UNet]]:
        """One network."""
        return {"denoiser": [self.denoiser]}

    def phases(self) -> Sequence[Phase]:
        """One step on L_simple."""
        return [Phase("denoiser", self.loss)]

    def initialize(self, batch: Batch) -> None:
        """Take the filter, if there is one, from the training images."""
        if self.filter:
            self.filter.fit(batch.x)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """L_simple (eq. 14), or its counterpart; mean over dimensions and images, each at a random time."""
        x0 = batch.x
        t = noise.integers(1, self.config.timesteps + 1, len(x0), step.generator, x0.device)
        eps = noise.normal(x0.shape, step.generator, x0.device)
        a, sigma = diffusion.from_tables(self.tables, t, x0)
        x_t = diffusion.diffuse(x0, eps, a, sigma)
        if self.filter:
            guess: LinearGuess = self.filter(x_t, a, sigma)
            return guess.loss(self.denoiser(guess.inputs, self.time(t, x_t)), x0)
        target = eps if self.config.prediction == "epsilon" else diffusion.velocity(x0, eps, a, sigma)
        return (self.output(x_t, t) - target).square().mean(), {}

    def output(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's prediction for x_t (B, 3, S, S), of a residual the image with it; t is (B,), integers."""
        if self.filter:
            guess: LinearGuess = self.filter(x_t, *diffusion.scales(self.alpha_bars[t], x_t))
            return guess.image(self.denoiser(guess.inputs, self.time(t, x_t)))
        prediction: Tensor = self.denoiser(x_t, self.time(t, x_t))
        return prediction

    def time(self, t: Tensor, x_t: Tensor) -> Tensor:
        """The time that the network receives for t (B,): 1000 t / T, on the device of x_t."""
        return (1000 / self.config.timesteps * t).to(x_t.device)

    def predict(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The guess x_0^, clipped to [-1, 1], and the noise eps^ that goes with it; t is (B,), integers on the CPU."""
        return diffusion.split(x_t, self.output(x_t, t), self.alpha_bars[t], self.config.prediction, clip=True)

    def step_back(self) -> diffusion.ReverseStep:
        """The covariance of p(x_{t-1} | x_t)."""
        if self.filter and self.config.variance == "optimal":
            return FilteredStep(self.filter, self.alpha_bars)
        kind: Literal["small", "large"] = "small" if self.config.variance == "small" else "large"
        return diffusion.IsotropicStep(self.alpha_bars, diffusion.variances(self.alpha_bars, kind))

    # Samplers

    def noise(self, rows: Sequence[torch.Generator]) -> Tensor:
        """Noise (n, 3, S, S), image i from its own generator."""
        return noise.randn_each(rows, self.shape, self.probes.device)

    def ancestral(self, rows: Sequence[torch.Generator]) -> Tensor:
        """Algorithm 2: x_T ~ N(0, I), then x_{t-1} ~ p(x_{t-1} | x_t) for t = T..1, without noise at the last step."""
        x, step = self.noise(rows), self.step_back()
        for t in range(self.config.timesteps, 0, -1):
            x0, _ = self.predict(x, torch.full((len(x),), t))
            a, b, _ = diffusion.posterior(self.alpha_bars[t - 1], self.alpha_bars[t])
            x = float(a) * x0 + float(b) * x
            if t > 1:
                x = x + step.noise(self.noise(rows), t)
        return x

    def ddim(self, x: Tensor, steps: int, eta: float = 0.0, rows: Sequence[torch.Generator] = ()) -> Tensor:
        """From x_T (n, 3, S, S) to x_0 in `steps` network calls (DDIM eq. 12); eta > 0 draws noise from `rows`."""
        times = diffusion.spaced_times(self.config.timesteps, steps)
        return samplers.ddim(x, times[::-1], self.predict, self.alpha_bars, eta, rows)

    def dpm_solver(self, x: Tensor, steps: int) -> Tensor:
        """From x_T (n, 3, S, S) to x_0 in `steps` network calls of DPM-Solver++."""
        times = diffusion.log_snr_times(self.alpha_bars, steps)
        return samplers.dpm_solver(x, times[::-1], self.predict, self.alpha_bars)

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has a bound only, and reconstruction would measure the sampler."""
        return {
            Reconstructs: "its code is as large as the image: a round trip measures DDIM's steps, not the model",
            HasLogProb: "bounds log p(x), does not compute it",
        }

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw by the sampler that is configured."""
        rows = noise.each(n, generator)
        if self.config.sampler == "ancestral":
            return self.ancestral(rows)
        solver = self.dpm_solver if self.config.sampler == "dpm_solver" else self.ddim
        return solver(self.noise(rows), self.config.sampling_steps)

    def variants(self) -> Mapping[str, Sampler]:
        """DDIM with half and twice the steps, and with as much noise as DDPM; DPM-Solver++."""

        def draw(n: int, generator: torch.Generator, steps: int, eta: float) -> Tensor:
            rows = noise.each(n, generator)
            return self.ddim(self.noise(rows), steps, eta, rows)

        def solve(n: int, generator: torch.Generator) -> Tensor:
            return self.dpm_solver(self.noise(noise.each(n, generator)), steps)

        steps = self.config.sampling_steps
        calls = (max(1, steps // 2), steps, min(2 * steps, self.config.timesteps))
        shown: dict[str, Sampler] = {f"DDIM, {n} steps": partial(draw, steps=n, eta=0.0) for n in calls}
        shown[f"eta = 1, {steps} steps"] = partial(draw, steps=steps, eta=1.0)
        return shown | {f"DPM-Solver++, {steps} steps": solve}

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """x_T ~ N(0, I), (n, 3 S S)."""
        return noise.randn(n, self.shape, generator, self.probes.device).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """DDIM with eta = 0, a deterministic function of x_T."""
        return self.ddim(z.reshape(-1, *self.shape), self.config.sampling_steps)

    def encode(self, x: Tensor) -> Tensor:
        """x_T, flattened: DDIM with eta = 0, run in reverse (DDIM section 4.3)."""
        times = diffusion.spaced_times(self.config.timesteps, self.config.sampling_steps)
        return samplers.ddim_inverse(x, times, self.predict, self.alpha_bars).flatten(1)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """One network call."""
        return samplers.denoised(x, sigma, self.predict, self.alpha_bars)

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """Eq. 5 from `bound_terms` network calls: L_0, and one L_{t-1} to represent each stratum of t = 2..T."""
        rows, terms = noise.each(len(x), generator), self.config.bound_terms
        return Bound(*diffusion.variational_bound(x, self.predict, self.alpha_bars, self.step_back(), rows, terms))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of eps^ over `OOD_TIMES`; all images share noise that is drawn once for the model."""
        return {"denoising": samplers.denoising_error(x, OOD_TIMES, self.probes, self.predict, self.alpha_bars)}

    def slow_ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """How far from x DDIM ends when it starts from x with noise added; all images share the noise."""
        return {"redrawing": samplers.redrawing_error(x, self.probes, self.predict, self.alpha_bars)}

    def features(self, x: Tensor) -> Tensor:
        """The U-Net's middle activations for x with noise added up to 0.1 T, the same noise for every image."""
        x_t, t = samplers.noised(x, self.probes[FEATURE_TIME], OOD_TIMES[FEATURE_TIME], self.alpha_bars)
        seen = self.filter(x_t, *diffusion.scales(self.alpha_bars[t], x_t)).inputs if self.filter else x_t
        return self.denoiser.features(seen, self.time(t, x_t))
