"""The first stage of latent diffusion: a KL-regularised autoencoder (Rombach et al. 2022, arXiv:2112.10752, 3.1).

    minimise  E_q(z|x) [-log p(x|z)]  +  lambda KL(q(z|x) || N(0, I))          nats per image, mean over the batch

    x  image                          `x`        z  array of latents (C, s, s), s = S / 2^k         `z`
    q(z|x) = N(mu, diag sigma^2)      `Encoder`  p(x|z)  Laplace around the decoder's output        `Decoder`
    lambda  weight of the KL term     `kl_weight`, small: it only keeps the latents near the origin

It compresses but does not generate: with lambda far below 1, draws of N(0, I) do not decode to images. A second model
learns the distribution of z. `bound` is the ELBO at lambda = 1: a true bound, but a loose one for the same reason.

Where we deviate:

* The paper adds a perceptual loss with pretrained weights (LPIPS) and a patch discriminator to the absolute error. Here
  the loss is the absolute error alone, as a Laplace density of y01 with one learned scale, so that no pretrained
  weights are needed and the loss is a likelihood. Both codes sum the KL divergence over latents and divide by the
  batch, but the authors' absolute error, a sum in x11, has the weight 1 where a Laplace density of scale b in y01
  gives it about 1 / (2 b): their lambda, 1e-6, corresponds to 1e-6 / (2 b), which is 2e-5 at b = 0.025.
* There is no attention in the middle. Patches of `patch` x `patch` pixels become channels first (1 is the paper's),
  which makes small networks fast.
* If `linear` is on, each network is a linear map plus convolutions that start at 0: mu(x) = V (x - m) + conv(x) and
  decoder(z) = W z + m + conv(z). Images have the mean m; their principal axes U, as many as there are latents, span the
  best linear code, but every axis extends over the whole image, whereas latents should form an array that convolutions
  can work on. So the axes are rotated to lie as near as possible to a code of cells: L, the first C principal axes of
  the pixels that one latent position stands for, the same at all positions. Nothing is lost thereby:

      B = U R,   R the orthogonal matrix with the least |U R - L|^2        W = B c        V = c^-1 B^T

  with c, one number for each channel, the standard deviation of B^T (x - m), so that latents have about unit variance.
  b starts at the mean absolute error. Noise in z of variance sigma^2 moves pixels by d with E |d|^2 = sigma^2 c^2, and
  errors that have the Laplace density of scale b make that cost |d|^2 / (2 b^2) nats, with d and b in the same unit,
  so that the least loss is at sigma^2 = lambda / (lambda + (c / b)^2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MinLen, MultipleOf
from torch import Tensor, nn

from visage.maths import noise, pixels
from visage.maths.likelihoods import laplace_log_density, sampled_standard_normal_kl, standard_normal_kl
from visage.maths.principal import local_basis, principal_axes
from visage.models.base import (
    LINEAR_IMAGES,
    Batch,
    Bound,
    Decodes,
    GenerativeModel,
    HasLogProb,
    Phase,
    Samples,
    Step,
)
from visage.nn.affine import Affine
from visage.nn.unet import norm


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """The autoencoder's settings."""

    latent_channels: Annotated[int, Ge(1)]  # C; the paper: 3 or 4
    width: Annotated[int, Ge(4), MultipleOf(4)]  # channels at the highest resolution; the paper: 128
    multipliers: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]  # channels at each resolution, in `width`s
    blocks: Annotated[int, Ge(1)]  # residual blocks at each resolution, one more in the decoder; the paper: 2
    patch: Annotated[int, Ge(1)]  # pixels of a square that becomes one position; 1: none
    kl_weight: Annotated[float, Ge(0), Le(1)]  # lambda; the authors' 1e-6, beside another error, is about 2e-5 here
    linear: bool  # add fixed linear maps, those of principal components, to encoder and decoder


LOGVAR = (-30.0, 20.0)
"""The bounds of log sigma^2 of q, as in the authors' code."""
SCALE_START, SCALE_MIN = 0.1, 1 / 256
"""The initial and the smallest allowed Laplace scale, in y01."""
SCALE_SPEED = 10.0
"""How fast the log scale learns relative to a weight: Adam moves both by about lr per step, but it moves further."""


def latent_shape(config: AutoencoderConfig, size: int) -> tuple[int, int, int]:
    """C, s, s."""
    side = size // (config.patch * 2 ** (len(config.multipliers) - 1))
    return config.latent_channels, side, side


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after group normalisation and SiLU, added to the input."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(ins), nn.Conv2d(ins, outs, 3, padding=1)
        self.norm2, self.conv2 = norm(outs), nn.Conv2d(outs, outs, 3, padding=1)
        self.skip = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ins, s, s) to (B, outs, s, s)."""
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        out: Tensor = self.skip(x) + h
        return out


class Encoder(nn.Module):
    """q(z|x): (B, 3, S, S) to mu and log sigma^2, each (B, C, s, s)."""

    def __init__(self, config: AutoencoderConfig, size: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1),
        ]
        for i, outs in enumerate(widths):
            ins = widths[max(i - 1, 0)]
            if i:
                layers.append(nn.Conv2d(ins, ins, 3, stride=2, padding=1))
            layers += [ResidualBlock(ins if j == 0 else outs, outs) for j in range(config.blocks)]
        layers += [ResidualBlock(widths[-1], widths[-1]) for _ in range(2)]  # the middle
        head = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        self.layers = nn.Sequential(*layers, norm(widths[-1]), nn.SiLU(), head)
        self.linear = Affine(3 * size * size, math.prod(latent_shape(config, size))) if config.linear else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 in float32."""
        mu, logvar = self.layers(x).float().chunk(2, dim=1)
        if self.linear is not None:
            mu = mu + self.linear(x.flatten(1)).view_as(mu)
        return mu, logvar.clamp(*LOGVAR)


class Decoder(nn.Module):
    """(B, C, s, s) to the centre of p(x|z), (B, 3, S, S)."""

    def __init__(self, config: AutoencoderConfig, size: int) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers][::-1]
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
        layers += [ResidualBlock(widths[0], widths[0]) for _ in range(2)]  # the middle
        for i, outs in enumerate(widths):
            ins = widths[max(i - 1, 0)]
            if i:
                layers += [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(ins, ins, 3, padding=1)]
            layers += [ResidualBlock(ins if j == 0 else outs, outs) for j in range(config.blocks + 1)]
        head = nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)
        self.layers = nn.Sequential(*layers, norm(widths[-1]), nn.SiLU(), head, nn.PixelShuffle(config.patch))
        self.linear = Affine(math.prod(latent_shape(config, size)), 3 * size * size) if config.linear else None

    def forward(self, z: Tensor) -> Tensor:
        """Return the centre in float32."""
        centre: Tensor = self.layers(z).float()
        return centre if self.linear is None else centre + self.linear(z.flatten(1)).view_as(centre)


def patch_axes(x: Tensor, mean: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Principal axes of a cell's pixels, the same for all cells, each as an image: (3 S S, C s s), orthonormal columns.

    x: (N, 3, S, S). mean: (3 S S,). shape: C, s, s.
    """
    channels, side, _ = shape
    factor = x.shape[3] // side
    centred = x - mean.view_as(x[0])
    second = torch.zeros(3 * factor**2, 3 * factor**2).to(x)
    for images in (centred, centred.flip(3)):
        patches = F.unfold(images, factor, stride=factor).transpose(0, 1).flatten(1)
        second += patches @ patches.T
    kernels = torch.linalg.eigh(second).eigenvectors.flip(1).T[:channels].reshape(channels, 3, factor, factor)
    cells = torch.eye(math.prod(shape)).to(x).view(-1, *shape)
    return F.conv_transpose2d(cells, kernels, stride=factor).flatten(1).T


class Autoencoder(GenerativeModel):
    """An encoder from images to small arrays of latents, and a decoder back.

    Raises:
        ValueError: the image cannot be divided into patches, or halved as often as there are multipliers; there are
            linear maps, and more latents than a cell's pixels have values.
    """

    paper = "Rombach et al. 2022, arXiv:2112.10752"
    chosen_by_likelihood = False  # the bound counts the full rate, which training weights by a tiny lambda

    def __init__(self, config: AutoencoderConfig, size: int) -> None:
        super().__init__()
        factor = config.patch * 2 ** (len(config.multipliers) - 1)
        if size % factor:
            raise ValueError(f"size {size}: patch and multipliers shrink images {factor} times, choose a multiple")
        if config.linear and config.latent_channels > 3 * factor**2:
            raise ValueError(
                f"latent_channels={config.latent_channels}: linear maps of {factor}x{factor} pixels have "
                f"{3 * factor**2} channels at most"
            )
        self.config = config
        self.latent_shape = latent_shape(config, size)
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.encoder, self.decoder = Encoder(config, size), Decoder(config, size)
        self.shift = nn.Parameter(torch.zeros(()))  # of the logarithm of the Laplace scale, in units of SCALE_SPEED

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Set the linear maps, if there are any, from the images' principal components, and all else to match."""
        if self.encoder.linear is None or self.decoder.linear is None:
            return
        x = 2 * pixels.dequantize(batch.x, torch.tensor(0.5)) - 1
        found = principal_axes(x, math.prod(self.latent_shape))
        B = local_basis(found.axes, patch_axes(x, found.mean, self.latent_shape))
        flat = x.flatten(1) - found.mean
        codes = flat @ B
        b = (flat - codes @ B.T).abs().mean().clamp(min=2 * SCALE_MIN)  # in the unit of x, as c is
        c = codes.view(-1, *self.latent_shape).square().mean((0, 2, 3)).sqrt().clamp(min=2 * SCALE_MIN)
        lengths = c.repeat_interleave(self.latent_shape[1] * self.latent_shape[2])
        V, W = (B / lengths).T, B * lengths
        self.encoder.linear.set(V, -V @ found.mean)
        self.decoder.linear.set(W, found.mean)
        self.shift.fill_(((b / 2).log() - math.log(SCALE_START)) / SCALE_SPEED)
        weight, bias = self.encoder.layers[-1].parameters()
        for parameter in (weight, bias, *self.decoder.layers[-2].parameters()):
            parameter.zero_()
        precision = (c / b).square()  # nats that noise of variance 1 in a latent costs, twice
        logvar = -(1 + precision / self.config.kl_weight).log()
        bias[len(c) :] = logvar.clamp(min=LOGVAR[0])

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """One player, since nothing here competes."""
        return {"autoencoder": [self]}

    def phases(self) -> Sequence[Phase]:
        """One step on both terms."""
        return [Phase("autoencoder", self.loss)]

    def log_scale(self) -> Tensor:
        """Log of the Laplace scale in y01, a scalar."""
        return (math.log(SCALE_START) + SCALE_SPEED * self.shift).clamp(min=math.log(SCALE_MIN))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion + lambda rate, nats per image, mean over the batch (the paper's eq. 25 without discriminator)."""
        x = batch.x
        u = noise.uniform(x.shape, step.generator, x.device)
        eps = noise.normal((len(x), *self.latent_shape), step.generator, x.device)
        parts = self.parts(x, u, eps)
        distortion, rate = parts.distortion.mean(), parts.rate.mean()
        terms = {"distortion": distortion, "rate": rate, "scale": self.log_scale().exp()}
        return distortion + self.config.kl_weight * rate, {name: term.detach() for name, term in terms.items()}

    def parts(self, x: Tensor, u: Tensor, eps: Tensor) -> Bound:
        """Distortion and rate of each image, for u (B, 3, S, S) in [0, 1) and eps (B, C, s, s) from N(0, I)."""
        y = pixels.dequantize(x, u)
        mu, logvar = self.encoder(2 * y - 1)
        distortion = self.distortion(y, mu + torch.exp(0.5 * logvar) * eps)
        return Bound(distortion, standard_normal_kl(mu, logvar).sum((1, 2, 3)))

    def distortion(self, y: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) of the 8-bit image, (B,), for y (B, 3, S, S) in y01 and z (B, C, s, s)."""
        centre = self.decoder(z)
        log_density = laplace_log_density(y, (centre + 1) / 2, self.log_scale()).sum((1, 2, 3))
        return pixels.quantization_nats(y[0].numel()) - log_density

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mu and log sigma^2 of images whose values lie in the middle of their bins, u = 1/2."""
        mu, logvar = self.encoder(2 * pixels.dequantize(x, torch.tensor(0.5)) - 1)
        return mu, logvar

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """Its code has no prior."""
        return {
            Samples: "compresses only: the distribution of its latents is left to latent diffusion",
            Decodes: "its latents have no prior to walk in; latent diffusion gives them one",
            HasLogProb: "an autoencoder of this kind bounds log p(x), it does not compute it",
        }

    def compress(self, x: Tensor, eps: Tensor) -> Tensor:
        """Draws mu + sigma eps of q(z|x), (B, C, s, s), for eps of N(0, I)."""
        mu, logvar = self.posterior(x)
        return mu + torch.exp(0.5 * logvar) * eps

    def decompress(self, z: Tensor) -> Tensor:
        """The value v = 256 y01 - 1/2 whose bin has the centre of p(x|z) in its middle, in x11, clamped to [-1, 1]."""
        centre: Tensor = self.decoder(z)
        return pixels.from_middle((centre + 1) / 2).clamp(-1, 1)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z|x), flattened, (B, C * s * s)."""
        return self.posterior(x)[0].flatten(1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The centre of p(x|z) at the mean of q(z|x)."""
        return self.decompress(self.posterior(x)[0])

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """The ELBO from one draw of u and z, at lambda = 1."""
        return self.parts(x, *self.draws(x, generator))

    def draws(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw u (B, 3, S, S) from U[0, 1) and eps (B, C, s, s) from N(0, I), image by image."""
        draws = [(noise.rand(1, x.shape[1:], generator), noise.randn(1, self.latent_shape, generator)) for _ in x]
        u, eps = (torch.cat(part).to(x.device) for part in zip(*draws, strict=True))
        return u, eps

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """-distortion - log q(z|x) / p(z) at one z; the bound has the expectation of the second term instead."""
        u, eps = self.draws(x, generator)
        y = pixels.dequantize(x, u)
        mu, logvar = self.encoder(2 * y - 1)
        rate = sampled_standard_normal_kl(mu, logvar, eps).sum((1, 2, 3))
        return -self.distortion(y, mu + torch.exp(0.5 * logvar) * eps) - rate

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The rate: how far an image's latents lie from the origin, and how precisely they are known."""
        mu, logvar = self.posterior(x)
        return {"kl": standard_normal_kl(mu, logvar).sum((1, 2, 3))}
