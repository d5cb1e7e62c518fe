"""Conditional diffusion with classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

    minimise  E |eps - eps^(x_t, t, c)|^2,  c = y, or the null token with probability p_uncond        algorithm 1
    sample    with eps~ = (1 + w) eps^(x_t, t, y) - w eps^(x_t, t, null)                              eq. 6

    x_t   noisy image, z_lambda in the paper    `x_t`           eps^  the network, a U-Net      `Denoiser`
    y     attributes, c in the paper            `batch.y`       null  token that replaces y     `Denoiser.null`
    eps   noise, N(0, I)                        `eps`           w     strength of the guidance  `guidance`, `w`

w = 0 is the conditional model and w = -1 the unconditional one; other papers write s = 1 + w. The noise and the bound
on log p are those of Ho et al. 2020 (arXiv:2006.11239). Everything that is measured on an image (its bound, its code,
how well it is denoised) uses the null token, that is p(x), because its labels would give the answer away.

Where we deviate:

* y is A attributes at once instead of one of C classes: a vector of -1 and 1, embedded by two layers, one of them the
  U-Net's. The null token is a learned embedding, which no y can be mistaken for; y is dropped as a whole.
* Time is discrete, t = 1..T, under the cosine schedule (the paper: continuous log-SNR, also cosine), and the sampler is
  DDIM (Song et al. 2021, arXiv:2010.02502), so that images from the same noise at different w differ by the guidance
  alone; `sampler: dpm_solver` solves DDIM's ODE to second order (Lu et al. 2022, arXiv:2211.01095). sigma_t^2 appears
  in the bound only: it is beta_t, and at t = 1 the posterior variance at t = 2; with a filter, as DDPM's `optimal`.
* `prediction: v` lets the network predict v (Salimans & Ho 2022, arXiv:2202.00512), which shows faces sooner. Given
  x_t it is linear in eps, so that guiding v is guiding eps. The guided guess at the image is clipped to [-1, 1].
* `prediction: residual` lets it learn what a linear filter leaves of the image, which is quicker still: see
  `visage.nn.wiener`. For a given y, the filter's mean is the mean face of y as far as it is linear in y, the
  least-squares regression of training images and their mirror images on their attributes; its covariance is that of
  all images. The logged `error_over_filter` says how much the network adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MinLen, MultipleOf
from torch import Tensor, nn

from visage.maths import diffusion, noise, samplers
from visage.maths.regression import regression
from visage.models.base import (
    INITIAL_IMAGES,
    LINEAR_IMAGES,
    Batch,
    Bound,
    GenerativeModel,
    HasLogProb,
    Phase,
    Reconstructs,
    Step,
)
from visage.nn.affine import Affine
from visage.nn.unet import UNet
from visage.nn.wiener import FilteredStep, LinearGuess, WienerFilter, check_axes


@dataclass(frozen=True, slots=True)
class ConditionalDiffusionConfig:
    """The settings of the conditional diffusion and of its U-Net."""

    attributes: Annotated[tuple[str, ...], MinLen(1)]  # the attributes in y, by their CelebA names
    p_uncond: Annotated[float, Gt(0), Lt(1)]  # share of the images whose y is dropped; the paper: 0.1 or 0.2
    guidance: Annotated[float, Ge(0)]  # w of `sample` and `sample_given`; the paper's best FID: 0.1 to 0.3
    timesteps: Annotated[int, Ge(2)]  # T
    prediction: diffusion.Prediction  # what the network predicts; the paper: epsilon
    filter_axes: Annotated[int, Ge(0)]  # K of the filter whose residual is predicted; 0 for other predictions
    sampler: Literal["ddim", "dpm_solver"]  # DDIM also encodes and decodes images
    sampling_steps: Annotated[int, Ge(1)]  # network calls of the sampler; a guided one shows the network two images
    bound_terms: Annotated[int, Ge(2)]  # network calls for the bound of an image; T of them compute every term
    width: Annotated[int, Ge(4), MultipleOf(4)]  # channels of the U-Net at the highest resolution
    multipliers: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]  # of width, at each resolution
    blocks: Annotated[int, Ge(1)]  # residual blocks at each resolution
    attention: tuple[int, ...]  # sides of the resolutions that have attention
    dropout: Annotated[float, Ge(0), Lt(1)]  # in the residual blocks
    patch: Annotated[int, Ge(1)]  # pixels of a patch x patch square that form one position

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        check_axes(self.prediction, self.filter_axes)
        twice = [name for name in self.attributes if self.attributes.count(name) > 1]
        if twice:
            raise ValueError(f"attributes: {twice[0]} is listed {len(twice)} times: list each once")
        for key, calls in (("sampling_steps", self.sampling_steps), ("bound_terms", self.bound_terms)):
            if calls > self.timesteps:
                raise ValueError(f"{key}={calls}, but there are {self.timesteps} timesteps: set it to that or less")


GUIDANCE_SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Strengths w at which guidance is shown."""
OOD_TIMES = (0.05, 0.1, 0.2, 0.4, 0.6)
"""The shares of T at which noise is added to an image to measure how well the network predicts it."""
FEATURE_TIME = 1
"""Index into `OOD_TIMES` of the time at which the network's features are taken, 0.1 T."""


class Denoiser(nn.Module):
    """A U-Net conditioned on the time and on y or the null token."""

    def __init__(self, config: ConditionalDiffusionConfig, size: int) -> None:
        super().__init__()
        hidden = 4 * config.width
        self.embed = nn.Linear(len(config.attributes), hidden)
        self.null = nn.Parameter(torch.randn(hidden))
        self.unet = UNet(
            3,
            size,
            width=config.width,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention=config.attention,
            dropout=config.dropout,
            patch=config.patch,
            condition=hidden,
            beside=3 if config.prediction == "residual" else 0,
        )

    def condition(self, y: Tensor, known: Tensor) -> Tensor:
        """(B, hidden) for y (B, A) in {0, 1}; the null token where known (B,) is False."""
        return torch.where(known[:, None], F.silu(self.embed(2 * y - 1)), self.null)

    def forward(self, x_t: Tensor, time: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """x_t (B, 3, S, S), or what is seen of it (B, 6, S, S), at time (B,) up to 1000 to (B, 3, S, S)."""
        prediction: Tensor = self.unet(x_t, time, self.condition(y, known))
        return prediction


class ConditionalDiffusion(GenerativeModel):
    """One network for p(x | y) and p(x), and a sampler that is guided towards the first and away from the second.

    Raises:
        ValueError: the U-Net cannot halve images of this size.
    """

    paper = "Ho & Salimans 2022, arXiv:2207.12598"
    score_calls = len(OOD_TIMES)
    slow_ood_calls = samplers.REDRAWING_CALLS
    initial_images = LINEAR_IMAGES
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"
    tables: Tensor
    rows: Tensor
    probes: Tensor

    def __init__(self, config: ConditionalDiffusionConfig, size: int) -> None:
        super().__init__()
        self.config, self.shape = config, (3, size, size)
        self.likelihood_calls = config.bound_terms
        self.sample_calls = config.sampling_steps * (2 if config.guidance else 1)
        self.filter = WienerFilter(3, size, config.filter_axes) if config.prediction == "residual" else None
        self.shift = Affine(len(config.attributes), 3 * size * size) if self.filter else None
        self.denoiser = Denoiser(config, size)
        # this is not a buffer, so that it stays float64 and on the CPU, where samplers count t
        self.alpha_bars = diffusion.alpha_bars(diffusion.cosine_betas(config.timesteps))
        self.register_buffer("tables", diffusion.tables(self.alpha_bars), persistent=False)
        self.register_buffer("rows", torch.zeros(INITIAL_IMAGES, len(config.attributes)))
        self.register_buffer("probes", torch.randn(len(OOD_TIMES), *self.shape))

    @property
    def attributes(self) -> Sequence[str]:
        """The attributes of the config."""
        return self.config.attributes

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """One network."""
        return {"denoiser": [self.denoiser]}

    def phases(self) -> Sequence[Phase]:
        """One step on the denoising loss."""
        return [Phase("denoiser", self.loss)]

    def initialize(self, batch: Batch) -> None:
        """Keep rows of training attributes as q(y) for `sample`; where there are too few, they are repeated.

        The filter, if there is one, is taken from all images, and its shift for y from a regression on attributes.
        """
        self.rows.copy_(batch.y[torch.arange(len(self.rows), device=batch.y.device) % len(batch.y)])
        if self.filter and self.shift:
            self.filter.fit(batch.x)
            M, m = regression(2 * batch.y - 1, ((batch.x + batch.x.flip(3)) / 2).flatten(1))
            self.shift.set(M, m - self.filter.mean)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Algorithm 1: each image has its own random time, and an independent draw decides if it loses its y."""
        x0, n = batch.x, len(batch.x)
        t = noise.integers(1, self.config.timesteps + 1, n, step.generator, x0.device)
        eps = noise.normal(x0.shape, step.generator, x0.device)
        known = noise.uniform((n,), step.generator, x0.device) >= self.config.p_uncond
        a, sigma = diffusion.from_tables(self.tables, t, x0)
        x_t = diffusion.diffuse(x0, eps, a, sigma)
        if self.filter:
            guess = self.guess(x_t, a, sigma, batch.y, known)
            return guess.loss(self.denoiser(guess.inputs, self.time(t, x_t), batch.y, known), x0)
        target = eps if self.config.prediction == "epsilon" else diffusion.velocity(x0, eps, a, sigma)
        output = self.output(x_t, t, batch.y, known)
        return (output - target).square().mean(), {}

    def output(self, x_t: Tensor, t: Tensor, y: Tensor, known: Tensor) -> Tensor:
        """The network's prediction for x_t (B, 3, S, S), t (B,), integers, and y (B, A) where known (B,) is True.

        Of a residual, the image with it, which is linear in the residual: guiding the one is guiding the other.
        """
        if self.filter:
            guess = self.guess(x_t, *diffusion.scales(self.alpha_bars[t], x_t), y, known)
            return guess.image(self.denoiser(guess.inputs, self.time(t, x_t), y, known))
        prediction: Tensor = self.denoiser(x_t, self.time(t, x_t), y, known)
        return prediction

    def guess(self, x_t: Tensor, a: Tensor, sigma: Tensor, y: Tensor, known: Tensor) -> LinearGuess:
        """What the filter says of x_t, of images around the mean face of y (B, A) where known (B,) is True."""
        assert self.filter
        assert self.shift
        shift = torch.where(known[:, None], self.shift(2 * y - 1), 0.0).view_as(x_t)
        guess: LinearGuess = self.filter(x_t - a * shift, a, sigma)
        return replace(guess, m=guess.m + shift)

    def time(self, t: Tensor, x_t: Tensor) -> Tensor:
        """The time that the network receives for t (B,): 1000 t / T, on the device of x_t."""
        return (1000 / self.config.timesteps * t).to(x_t.device)

    def unconditional(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's prediction for the null token."""
        known = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)
        return self.output(x_t, t, self.rows[:1].expand(len(x_t), -1), known)

    def guided(self, x_t: Tensor, t: Tensor, y: Tensor, w: float) -> Tensor:
        """Eq. 6: (1 + w) times the prediction for y minus w times that for the null token, both from one call."""
        known = torch.ones(len(x_t), dtype=torch.bool, device=x_t.device)
        if w == 0:
            return self.output(x_t, t, y, known)
        x_t, t, y, known = (torch.cat(pair) for pair in ((x_t, x_t), (t, t), (y, y), (known, ~known)))
        given, null = self.output(x_t, t, y, known).chunk(2)
        return (1 + w) * given - w * null

    def predict(self, x_t: Tensor, t: Tensor, y: Tensor | None = None, w: float = 0.0) -> tuple[Tensor, Tensor]:
        """The guess at x_0, clipped to [-1, 1], and its noise: guided to y (B, A) by w, else for the null token."""
        output = self.unconditional(x_t, t) if y is None else self.guided(x_t, t, y, w)
        return diffusion.split(x_t, output, self.alpha_bars[t], self.config.prediction, clip=True)

    # Sampler

    def noise(self, rows: Sequence[torch.Generator]) -> Tensor:
        """Noise (n, 3, S, S), image i from its own generator."""
        return noise.randn_each(rows, self.shape, self.probes.device)

    def ddim(self, x: Tensor, predict: diffusion.Predict) -> Tensor:
        """From x_T (n, 3, S, S) to x_0, deterministic."""
        return samplers.ddim(x, self.times()[::-1], predict, self.alpha_bars)

    def solve(self, x: Tensor, predict: diffusion.Predict) -> Tensor:
        """The same by the sampler that is configured."""
        if self.config.sampler == "ddim":
            return self.ddim(x, predict)
        times = diffusion.log_snr_times(self.alpha_bars, self.config.sampling_steps)
        return samplers.dpm_solver(x, times[::-1], predict, self.alpha_bars)

    def times(self) -> list[int]:
        """The times that DDIM visits, from 0 to T."""
        return diffusion.spaced_times(self.config.timesteps, self.config.sampling_steps)

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has a bound only, and reconstruction would measure the sampler."""
        return {
            Reconstructs: "its code is as large as the image: a round trip measures DDIM's steps, not the model",
            HasLogProb: "bounds log p(x), does not compute it",
        }

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Images for the attributes of random training images, each taken as a whole row."""
        rows = noise.each(n, generator)
        y = self.rows[[int(torch.randint(len(self.rows), (), generator=row)) for row in rows]]
        return self.solve(self.noise(rows), partial(self.predict, y=y, w=self.config.guidance))

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Images for y at the configured strength."""
        return self.sample_guided(y, generator, self.config.guidance)

    @property
    def guidance_scales(self) -> Sequence[float]:
        """From no guidance to more than images can bear."""
        return GUIDANCE_SCALES

    def sample_guided(self, y: Tensor, generator: torch.Generator, w: float) -> Tensor:
        """Images for y at strength w."""
        x = self.noise(noise.each(len(y), generator))
        return self.solve(x, partial(self.predict, y=y.to(self.probes.device), w=w))

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """x_T ~ N(0, I), (n, 3 S S)."""
        return noise.randn(n, self.shape, generator, self.probes.device).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """DDIM of the unconditional model, a function of x_T."""
        return self.ddim(z.reshape(-1, *self.shape), self.predict)

    def encode(self, x: Tensor) -> Tensor:
        """x_T of the unconditional model, flattened: `decode` run in reverse."""
        return samplers.ddim_inverse(x, self.times(), self.predict, self.alpha_bars).flatten(1)

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """One call of the unconditional network."""
        return samplers.denoised(x, sigma, self.predict, self.alpha_bars)

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """Bound log p(x) with the null token (Ho et al. 2020, eq. 5): L_0 is the distortion, the rest is the rate."""
        rows, terms = noise.each(len(x), generator), self.config.bound_terms
        step: diffusion.ReverseStep
        if self.filter:
            step = FilteredStep(self.filter, self.alpha_bars)
        else:
            step = diffusion.IsotropicStep(self.alpha_bars, diffusion.variances(self.alpha_bars, "large"))
        return Bound(*diffusion.variational_bound(x, self.predict, self.alpha_bars, step, rows, terms))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of eps^ over `OOD_TIMES` with the null token; all images share the noise."""
        return {"denoising": samplers.denoising_error(x, OOD_TIMES, self.probes, self.predict, self.alpha_bars)}

    def slow_ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """How far from x DDIM with the null token ends when it starts from x with noise added; all images share it."""
        return {"redrawing": samplers.redrawing_error(x, self.probes, self.predict, self.alpha_bars)}

    def features(self, x: Tensor) -> Tensor:
        """The U-Net's middle activations with the null token, for x with the same noise up to 0.1 T in every image."""
        x_t, t = samplers.noised(x, self.probes[FEATURE_TIME], OOD_TIMES[FEATURE_TIME], self.alpha_bars)
        null = self.denoiser.null.expand(len(x), -1)
        seen = self.filter(x_t, *diffusion.scales(self.alpha_bars[t], x_t)).inputs if self.filter else x_t
        return self.denoiser.unet.features(seen, self.time(t, x_t), null)
