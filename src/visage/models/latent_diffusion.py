"""Latent diffusion (Rombach et al. 2022, arXiv:2112.10752): a diffusion model of an autoencoder's latents.

    z = scale E(x),   z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps,   eps ~ N(0, I),   t ~ U{1..T}

    minimise  E |eps - eps_theta(z_t, t)|^2,    mean over latents and batch                       (eq. 2)

    E, D  encoder and decoder of the first stage, frozen    `first.compress`, `first.decompress`
    z     latents (C, s, s), scaled to unit variance        `latents`       scale  one over their std      `scale`
    abar  product of 1 - beta up to t (Ho et al. 2020)      `abar`          T      steps of the noising    `timesteps`

sqrt(beta_t) is linear in t, from sqrt(0.0015) to sqrt(0.0195). Samples are drawn by DDIM without noise (Song et al.
2021, arXiv:2010.02502, eq. 12), or DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), which solves the same ODE to second
order, and decoded: x = D(z / scale). Latents are not bounded, so nothing is clipped.

Where we deviate:

* `prediction: v` lets the network predict the velocity sqrt(abar) eps - sqrt(1 - abar) z (Salimans & Ho 2022,
  arXiv:2202.00512), whose error weights early times less and which small networks learn sooner.
* `prediction: residual` lets it learn what a linear filter leaves of the latents, as in `visage.models.ddpm`: before
  its first step the model is a Gaussian of their mean and covariance (`visage.nn.wiener`). A mirror image's latents are
  not the mirror image of latents, so that both kinds are taken as they come.
* The standard deviation of the latents is taken over many training images and their mirror images, not over the first
  batch (section G of the paper), and over all channels together, as there.
* Images are encoded at every step by a draw of q(z|x), so that flips and the encoder's noise are part of the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt, MinLen, MultipleOf
from torch import Tensor, nn

from visage.maths import diffusion, noise, samplers
from visage.models.base import (
    LINEAR_IMAGES,
    Batch,
    Compresses,
    Denoises,
    Encodes,
    GenerativeModel,
    HasBound,
    HasLogProb,
    Phase,
    Reconstructs,
    Step,
)
from visage.nn.unet import UNet
from visage.nn.wiener import LinearGuess, WienerFilter, check_axes


@dataclass(frozen=True, slots=True)
class LatentDiffusionConfig:
    """The settings of the diffusion; those of the first stage belong to the run that trained it."""

    timesteps: Annotated[int, Ge(2)]  # T; the paper: 1000
    prediction: diffusion.Prediction  # what the network predicts; the paper: epsilon
    filter_axes: Annotated[int, Ge(0)]  # K of the filter whose residual is predicted; 0 for other predictions
    sampler: Literal["ddim", "dpm_solver"]  # the paper: ddim, which also encodes and decodes images
    sampling_steps: Annotated[int, Ge(1)]  # network calls of one sample; the paper: 200 or 500 for faces
    width: Annotated[int, Ge(4), MultipleOf(4)]  # channels of the U-Net at the resolution of the latents
    multipliers: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]  # channels at each resolution, in `width`s
    blocks: Annotated[int, Ge(1)]  # residual blocks at each resolution
    attention: tuple[Annotated[int, Ge(1)], ...]  # sides, in latents, of the resolutions with attention
    dropout: Annotated[float, Ge(0), Lt(1)]  # in the residual blocks

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        check_axes(self.prediction, self.filter_axes)
        if self.sampling_steps > self.timesteps:
            raise ValueError(
                f"sampling_steps={self.sampling_steps} > timesteps={self.timesteps}: set it to that at most"
            )


OOD_TIMES = (0.05, 0.1, 0.25, 0.5)
"""The shares of T at which noise is added to an image's latents to score it."""
FEATURE_TIME = 0.1
"""The share of T at which the network's features are taken."""


def betas(timesteps: int) -> Tensor:
    """beta_1..beta_T, (T,) float64, whose roots are evenly spaced (the authors' code calls it linear).

    The paper's values are those for T = 1000; for other T a factor of 1000 / T adds as much noise in all.
    """
    roots = torch.linspace(0.0015**0.5, 0.0195**0.5, timesteps, dtype=torch.float64)
    return (roots.square() * 1000 / timesteps).clamp(max=0.999)


@runtime_checkable
class FirstStage(Compresses, Encodes, Protocol):
    """What an autoencoder must provide to be one; `encode` returns the flattened means of what `compress` draws."""


class LatentDiffusion(GenerativeModel):
    """A U-Net that denoises the latents of a trained autoencoder.

    first: the autoencoder; it is saved with this model's weights and never changes.

    Raises:
        ValueError: the latents cannot be halved as often as there are multipliers.
    """

    paper = "Rombach et al. 2022, arXiv:2112.10752"
    first_stage = "autoencoder"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"
    first: FirstStage
    tables: Tensor
    scale: Tensor

    def __init__(self, config: LatentDiffusionConfig, size: int, first: GenerativeModel) -> None:
        super().__init__()
        if not isinstance(first, FirstStage):
            raise TypeError(f"{type(first).__name__} does not compress images: it cannot be a first stage")
        self.config, self.shape = config, first.latent_shape
        self.sample_calls = config.sampling_steps + 1  # the last one decodes
        self.abar = diffusion.alpha_bars(betas(config.timesteps))
        self.first = first.eval().requires_grad_(False)
        self.register_buffer("tables", diffusion.tables(self.abar), persistent=False)
        self.register_buffer("scale", torch.ones(()))
        self.filter = None
        if config.prediction == "residual":
            self.initial_images = LINEAR_IMAGES
            self.filter = WienerFilter(self.shape[0], self.shape[1], config.filter_axes, mirrored=False)
        self.unet = UNet(
            self.shape[0],
            self.shape[1],
            width=config.width,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention=config.attention,
            dropout=config.dropout,
            patch=1,
            beside=self.shape[0] if self.filter else 0,
        )

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the U-Net; the first stage stays in eval mode."""
        super().train(mode)
        self.get_submodule("first").eval()
        return self

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """The U-Net; the first stage is frozen."""
        return {"unet": [self.unet]}

    def phases(self) -> Sequence[Phase]:
        """One step on the denoising error."""
        return [Phase("unet", self.loss)]

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Measure the scale of the latents once, and take the filter, if there is one, from them.

        Both are saved among the weights, for sampling and resumed training.
        """
        x = torch.stack([batch.x, batch.x.flip(3)], dim=1).flatten(0, 1)
        eps = noise.randn(len(x), self.shape, torch.Generator().manual_seed(0), x.device)
        parts = zip(torch.split(x, 128), torch.split(eps, 128), strict=True)
        z = torch.cat([self.first.compress(*part) for part in parts])
        self.scale.copy_(1 / z.std())
        if self.filter:
            self.filter.fit(self.scale * z)

    @torch.no_grad()
    def latents(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of z for each image, (B, C, s, s), of about unit variance; in the precision of the training."""
        return self.scale * self.first.compress(x, noise.normal((len(x), *self.shape), generator, x.device))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error of the predicted noise (eq. 2), or its counterpart."""
        z = self.latents(batch.x, step.generator)
        t = noise.integers(1, self.config.timesteps + 1, len(z), step.generator, z.device)
        eps = noise.normal(z.shape, step.generator, z.device)
        a, sigma = diffusion.from_tables(self.tables, t, z)
        z_t = diffusion.diffuse(z, eps, a, sigma)
        if self.filter:
            guess: LinearGuess = self.filter(z_t, a, sigma)
            return guess.loss(self.unet(guess.inputs, self.time(t, z_t)), z)
        target = eps if self.config.prediction == "epsilon" else diffusion.velocity(z, eps, a, sigma)
        loss = F.mse_loss(self.output(z_t, t), target)
        return loss, {"mse": loss.detach()}

    def output(self, z_t: Tensor, t: Tensor) -> Tensor:
        """The network's prediction for z_t (B, C, s, s), of a residual the latents with it; t is (B,), integers."""
        if self.filter:
            guess: LinearGuess = self.filter(z_t, *diffusion.scales(self.abar[t], z_t))
            return guess.image(self.unet(guess.inputs, self.time(t, z_t)))
        prediction: Tensor = self.unet(z_t, self.time(t, z_t))
        return prediction

    def time(self, t: Tensor, z_t: Tensor) -> Tensor:
        """The time that the network receives for t (B,): 1000 t / T, on the device of z_t."""
        return (1000 / self.config.timesteps * t).to(z_t.device)

    def predict(self, z_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The guesses at z and at eps for z_t (B, C, s, s); t is (B,), integers on the CPU."""
        return diffusion.split(z_t, self.output(z_t, t), self.abar[t], self.config.prediction, clip=False)

    def times(self) -> list[int]:
        """The times that DDIM visits, from 0 to T."""
        return diffusion.spaced_times(self.config.timesteps, self.config.sampling_steps)

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no likelihood of pixels, and its first stage is what reconstructs."""
        doubly = "a bound of pixels through encoder and latents would be doubly loose; in latents it has other units"
        return {
            Denoises: "removes noise from latents, not from images",
            Reconstructs: "its first stage does, unchanged: see the autoencoder",
            HasLogProb: "the density of its latents is no density of pixels",
            HasBound: doubly,
        }

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z_T ~ N(0, I), flat, (n, C * s * s)."""
        return noise.randn(n, self.shape, generator, self.scale.device).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """DDIM from z_T to z_0, then the first stage's decoder."""
        z0 = samplers.ddim(z.reshape(-1, *self.shape), self.times()[::-1], self.predict, self.abar)
        return self.first.decompress(z0 / self.scale)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Solve from z_T, drawn from the prior, by the sampler that is configured, and decode z_0."""
        z = self.prior(n, generator)
        if self.config.sampler == "ddim":
            return self.decode(z)
        times = diffusion.log_snr_times(self.abar, self.config.sampling_steps)
        z0 = samplers.dpm_solver(z.reshape(-1, *self.shape), times[::-1], self.predict, self.abar)
        return self.first.decompress(z0 / self.scale)

    def encode(self, x: Tensor) -> Tensor:
        """DDIM from the means of the image's latents to z_T, flattened: `decode` run in reverse."""
        return samplers.ddim_inverse(self.means(x), self.times(), self.predict, self.abar).flatten(1)

    def means(self, x: Tensor) -> Tensor:
        """The means of z for each image, (B, C, s, s)."""
        return self.scale * self.first.encode(x).reshape(-1, *self.shape)

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The error of the predicted noise in the latents at a few times, and their norm; images share the noise."""
        z, probes = self.means(x), self.probes(len(OOD_TIMES))
        error = samplers.denoising_error(z, OOD_TIMES, probes, self.predict, self.abar)
        return {"latent_denoising": error, "latent_length": z.flatten(1).norm(dim=1)}

    def features(self, x: Tensor) -> Tensor:
        """The U-Net's middle activations for the means of the latents with noise up to 0.1 T; images share it."""
        z_t, t = samplers.noised(self.means(x), self.probes(1)[0], FEATURE_TIME, self.abar)
        seen = self.filter(z_t, *diffusion.scales(self.abar[t], z_t)).inputs if self.filter else z_t
        return self.unet.features(seen, self.time(t, z_t))

    def probes(self, n: int) -> Tensor:
        """The noise that all images share, (n, C, s, s), from a fixed seed."""
        return noise.randn(n, self.shape, torch.Generator().manual_seed(0), self.scale.device)
