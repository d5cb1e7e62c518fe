"""RealNVP, a flow of affine coupling layers over several scales (Dinh et al. 2017, arXiv:1605.08803).

An invertible network f maps an image to noise, z = f(y), which gives the image a density (eq. 2):

    log p(y) = log N(f(y); 0, I) + log |det df/dy|

Symbols: y is the dequantised image in [0, 1), b a binary mask (1 = passed through unchanged), s and t the log-scale and
the translation of a coupling layer, C channels, S the side of an image, D = 3 * S * S its dimensions, B images.

Where this differs from the paper, and why:

* ActNorm (Kingma & Dhariwal 2018, arXiv:1807.03039, section 3.1) precedes each coupling layer where the paper has batch
  normalisation after it: an image's density must not depend on the rest of its batch. For the same reason the coupling
  networks have no normalisation at all; ActNorm standardises their inputs.
* The last convolution of a coupling network starts at zero and the factor of tanh at one, so that training starts at
  the identity with nonzero gradients. The authors' code starts from a random convolution and a factor of zero.
* The logit is that of the authors' code, logit(.05 + .9 y); the formula printed in the paper reaches 1.
* `invertible_conv` adds the learned 1x1 convolutions of Glow (Kingma & Dhariwal 2018, section 3.2).
* `whitening_axes` puts a fixed linear layer after the logit, which whitens its output by the mean and the covariance of
  the training images, measured along as many principal axes. The flow then starts as the Gaussian of these logits, and
  a short training is spent on what in faces is not Gaussian: without it, most of one goes by before means and
  covariances are learned. The map is symmetric: each number stays at its pixel, where convolutions expect it. Where
  there are fewer axes than dimensions, a layer before it makes frequencies more alike (`SpectralFlattening`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from visage.maths import noise
from visage.maths.pixels import dequantize, from_middle, quantization_nats, to_middle
from visage.maths.units import bits_per_dim
from visage.models.base import LINEAR_IMAGES, Batch, GenerativeModel, HasBound, Phase, Reconstructs, ScoresOod, Step
from visage.nn.flow_layers import (
    ActNorm,
    Bijection,
    Chain,
    InvertibleConv,
    Squeeze,
    fit_to,
    whitenings,
)


@dataclass(frozen=True, slots=True)
class RealNVPConfig:
    """Settings of RealNVP.

    scales: resolutions with coupling layers; from one to the next the image is squeezed and half of it factored out.
    width: channels of the coupling networks at the first scale; doubled at every scale.
    blocks: residual blocks of each coupling network.
    invertible_conv: a learned 1x1 convolution before each coupling layer.
    whitening_axes: principal axes of the Gaussian at which the flow starts; 0: it does not (the paper).
    """

    scales: Annotated[int, Ge(1)]
    width: Annotated[int, Ge(1)]
    blocks: Annotated[int, Ge(0)]
    invertible_conv: bool
    whitening_axes: Annotated[int, Ge(0)]


class Logit(Bijection):
    """logit(.05 + .9 y) for y in [0, 1] (section 4.1, with the constants of the authors' code)."""

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.logit(0.05 + 0.9 * x)
        return z, (math.log(0.9) + F.softplus(z) + F.softplus(-z)).flatten(1).sum(1)

    def from_noise(self, z: Tensor) -> Tensor:
        return (torch.sigmoid(z) - 0.05) / 0.9


class FactorOut(Bijection):
    """Leaves the second half of the channels unchanged and transforms the first further (section 3.6, eq. 13 to 16)."""

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, z = x.chunk(2, dim=1)
        h, log_det = self.inner.to_noise(h)
        return torch.cat([h, z], dim=1), log_det

    def from_noise(self, z: Tensor) -> Tensor:
        h, rest = z.chunk(2, dim=1)
        return torch.cat([self.inner.from_noise(h), rest], dim=1)


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        self.branch = nn.Sequential(nn.ReLU(), convs[0], nn.ReLU(), convs[1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        return x + self.branch(x)  # type: ignore[no-any-return]


def coupling_net(channels: int, width: int, blocks: int) -> nn.Module:
    """The network of a coupling layer: (B, C, H, W) to (B, 2C, H, W), zero at the start."""
    first = nn.Conv2d(channels, width, 3, padding=1)
    last = nn.Conv2d(width, 2 * channels, 1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(first, *(Residual(width) for _ in range(blocks)), nn.ReLU(), last)


class AffineCoupling(Bijection):
    """z = b x + (1 - b) (x exp(s(b x)) + t(b x)) (eq. 9), with s = factor * tanh of the network's output.

    mask: b, (1, C or 1, H or 1, W or 1). Only the network runs in the precision of autocast, if there is any.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)
        self.net = net
        self.factor = nn.Parameter(torch.ones(1, channels, 1, 1))

    def log_scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t, shaped as x, zero where b is one; they depend on b x alone."""
        raw, t = self.net(self.mask * x).to(x.dtype).chunk(2, dim=1)
        return (1 - self.mask) * self.factor * torch.tanh(raw), (1 - self.mask) * t

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.log_scale_and_shift(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def from_noise(self, z: Tensor) -> Tensor:
        s, t = self.log_scale_and_shift(z)  # b z = b x
        return (z - t) * torch.exp(-s)


def checkerboard(size: int, parity: int) -> Tensor:
    """Mask (1, 1, size, size): 1 where row + column + parity is even (figure 3, left)."""
    index = torch.arange(size)
    return ((index[:, None] + index + parity + 1) % 2).float()[None, None]


def channelwise(channels: int, parity: int) -> Tensor:
    """Mask (1, channels, 1, 1) of squeezed images: 1 on one row of every 2x2 block (figure 3, right).

    A mask along the diagonal of the block would repeat the checkerboard.
    """
    quarter = torch.arange(channels) * 4 // channels
    return ((quarter + parity + 1) % 2).float()[None, :, None, None]


def multiscale(config: RealNVPConfig, channels: int, size: int, scale: int) -> Bijection:
    """The couplings from this scale on; the next scale works on half of the squeezed image (section 3.6, figure 4b)."""

    def steps(masks: Sequence[Tensor], channels: int, width: int) -> list[Bijection]:
        layers: list[Bijection] = []
        for mask in masks:
            layers.append(ActNorm(channels))
            if config.invertible_conv:
                layers.append(InvertibleConv(channels))
            layers.append(AffineCoupling(mask, coupling_net(channels, width, config.blocks), channels))
        return layers

    last = scale == config.scales - 1
    width = config.width * 2**scale
    couplings = steps([checkerboard(size, i % 2) for i in range(4 if last else 3)], channels, width)
    if last:
        return Chain(*couplings)
    squeezed = steps([channelwise(4 * channels, i % 2) for i in range(3)], 4 * channels, 2 * width)
    rest = multiscale(config, 2 * channels, size // 2, scale + 1)
    return Chain(*couplings, Squeeze(Chain(*squeezed, FactorOut(rest))))


class RealNVP(GenerativeModel):
    """The multi-scale flow on dequantised images, trained by maximum likelihood.

    Raises:
        ValueError: the image cannot be halved as often as there are scales.
    """

    paper: ClassVar[str] = "Dinh et al. 2017, arXiv:1605.08803"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"

    def __init__(self, config: RealNVPConfig, size: int) -> None:
        super().__init__()
        if size % 2**config.scales:
            raise ValueError(
                f"scales: {config.scales} needs an image size that is a multiple of {2**config.scales}, not {size};"
                f" set fewer scales"
            )
        self.shape = (3, size, size)
        self.dims = 3 * size * size
        whitening = whitenings(3, size, config.whitening_axes)
        if whitening:
            self.initial_images = LINEAR_IMAGES
        self.flow = Chain(Logit(), *whitening, multiscale(config, 3, size, 0))

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"flow": [self.flow]}

    def phases(self) -> Sequence[Phase]:
        return [Phase("flow", self.loss)]

    def initialize(self, batch: Batch) -> None:
        """Set the whitening, if there is one, and every ActNorm, from these images, dequantised; only here."""
        u = noise.rand(len(batch.x), self.shape, torch.Generator().manual_seed(0), batch.x.device)
        fit_to(self.flow, dequantize(batch.x, u))

    def log_density(self, x: Tensor, u: Tensor) -> Tensor:
        """Nats of the 8-bit images, (B,): log p((v + u) / 256) - D log 256 (eq. 2 and 3)."""
        z, log_det = self.flow.to_noise(dequantize(x, u))
        log_normal = -0.5 * (z.square().flatten(1).sum(1) + self.dims * math.log(2 * math.pi))
        return log_normal + log_det - quantization_nats(self.dims)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood, mean over the batch, in nats per image."""
        u = noise.uniform(batch.x.shape, step.generator, batch.x.device)
        nll = -self.log_density(batch.x, u).mean()
        return nll, {"nll": nll.detach(), "bits_per_dim": bits_per_dim(-nll.detach(), self.dims)}

    def log_prob(self, x: Tensor, generator: torch.Generator) -> Tensor:
        u = noise.rand(len(x), self.shape, generator, x.device)
        with torch.autocast(x.device.type, enabled=False):
            return self.log_density(x, u)

    def encode(self, x: Tensor) -> Tensor:
        """The noise of the images in the middle of their bins, u = 1/2, of unrounded values too: (B, D)."""
        with torch.autocast(x.device.type, enabled=False):
            z, _ = self.flow.to_noise(to_middle(x))
        return z.flatten(1)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        device = next(self.parameters()).device
        return noise.randn(n, self.shape, generator, device).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The inverse of `encode`, neither rounded nor clamped; pictures of it show the bins in which the codes lie."""
        with torch.autocast(z.device.type, enabled=False):
            return from_middle(self.flow.from_noise(z.view(-1, *self.shape)))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.decode(self.prior(n, generator)).clamp(-1, 1)

    def why_not(self) -> Mapping[type, str]:
        return {
            Reconstructs: "exactly invertible: the round trip measures rounding, not the model",
            HasBound: "computes log p(x) itself",
            ScoresOod: "log p(x) is the one score it defines",
        }
