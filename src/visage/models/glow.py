"""Glow, a flow with learned 1x1 convolutions (Kingma & Dhariwal 2018, arXiv:1807.03039).

An invertible network f maps an image to noise, e = f(x), which gives the image a density (eq. 6):

    minimise  -log p(x) = -log N(f(x); 0, I) - log |det df/dx|

    x     the image, dequantised, in [-1/2, 1/2), of D = 3 * S * S dimensions                         `observe`
    K     steps of flow at each level: ActNorm, 1x1 convolution, affine coupling (table 1)            `step_of_flow`
    L     levels: squeeze, K steps, then half of the channels leave (figure 2b)                       `level`
    s, t  scale and translation of a coupling layer, y_a = s * x_a + t, y_b = x_b                     `AffineCoupling`
    z_i   what leaves at level i, N(mean(h), std(h)^2) given the part that continues, h               `Split`
    z_L   what remains at the last level, N(mean, std^2)                                              `TopPrior`
    e_i   (z_i - mean) / std, the noise

As every z_i is mapped on to its e_i, all noise is N(0, I), and a sample at temperature T is f^-1(T e). With additive
couplings that draws from p(x)^(1/T^2), up to a constant (section 6); with affine ones it does so roughly, and the
authors' code does the same.

Where we deviate:

* s = c + (1 - c) sigmoid(. + 2), after the authors' code, where table 1 has an exponential; theirs goes down to 0,
  which cannot be inverted, and ours to c, the setting `least_scale`. The log std of each `Split` is restricted to
  +-LIMIT for the same reason.
* The last level's prior has a mean and a std for every position; the authors' has one per channel, except at borders.
  Faces are aligned: after 300 steps of the demo (32 pixels, one seed) samples showed the outlines of faces only with
  this prior, at nearly the same likelihood (3.80 and 3.82 bits per dimension).
* The hidden layers of the coupling networks have biases instead of the code's ActNorm, and images are padded with zeros
  instead of a channel that marks their borders, which keeps the network of section 3.3 simple.
* The 1x1 convolutions learn W itself (eq. 9) as the code does by default, not its LU decomposition (eq. 10). They
  absorb the order in which a squeeze lists its channels, so that RealNVP's squeeze can be used.
* `whitening_axes` puts a fixed linear layer first, which whitens the image by the mean and the covariance of the
  training images, measured along as many principal axes. The flow then starts as the Gaussian of these images, but for
  the s of its couplings, which is a little less than 1, and a short training is spent on what in faces is not Gaussian:
  without it, most of one goes by before means and covariances are learned. The map is symmetric: each number stays at
  its pixel. With fewer axes than dimensions, `SpectralFlattening` comes before it. Of a white image no scale has to
  become small, and with c = 1/2 in the place of 1/10 no sample runs away: the way back divides by s twelve times in the
  demo, and one in twenty of its samples were blots, at equal likelihood.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from visage.maths import noise
from visage.maths.pixels import dequantize, from_middle, quantization_nats, to_middle
from visage.maths.units import bits_per_dim
from visage.models.base import (
    LINEAR_IMAGES,
    Batch,
    GenerativeModel,
    HasBound,
    Phase,
    Reconstructs,
    Sampler,
    ScoresOod,
    Step,
)
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
class GlowConfig:
    """Settings of Glow."""

    levels: Annotated[int, Ge(1)]
    """L; the paper: 3 for 32 pixels, 6 for 256."""
    steps: Annotated[int, Ge(1)]
    """K, steps of flow at each level; the paper: 32."""
    width: Annotated[int, Ge(1)]
    """Channels inside the coupling networks; the paper: 512."""
    least_scale: Annotated[float, Gt(0), Lt(1)]
    """c, below which no scale of a coupling layer goes."""
    whitening_axes: Annotated[int, Ge(0)]
    """Principal axes of the Gaussian at which the flow starts; 0: it does not (the paper)."""


LIMIT = 7.0
"""Largest |log std| of a learned prior."""
TEMPERATURES = (1.0, 0.8, 0.7, 0.5)
"""Temperatures at which to show samples; most samples in the paper are at 0.7."""


# --- Layers


class ZeroConv(nn.Module):
    """A 3x3 convolution that starts at zero, times exp(3 g) with a learned g per channel (section 3.3, zero init)."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one
        self.gain = nn.Parameter(torch.zeros(1, outs, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        """(B, ins, H, W) to (B, outs, H, W)."""
        out: Tensor = self.conv(h) * torch.exp(3 * self.gain)
        return out


class AffineCoupling(Bijection):
    """y_a = s(x_b) * x_a + t(x_b), y_b = x_b (table 1), s > least_scale, for the halves x_a, x_b of the channels."""

    def __init__(self, channels: int, width: int, least_scale: float) -> None:
        super().__init__()
        self.least_scale = least_scale
        half = channels // 2
        first, middle = nn.Conv2d(half, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.net = nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), ZeroConv(width, channels))

    def scale_and_shift(self, x_b: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t; only the network runs in the precision of autocast, if there is any."""
        raw, t = self.net(x_b).to(x_b.dtype).chunk(2, dim=1)
        return self.least_scale + (1 - self.least_scale) * torch.sigmoid(raw + 2), t

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x_a, x_b = x.chunk(2, dim=1)
        s, t = self.scale_and_shift(x_b)
        return torch.cat([s * x_a + t, x_b], dim=1), s.log().flatten(1).sum(1)

    def from_noise(self, z: Tensor) -> Tensor:
        y_a, y_b = z.chunk(2, dim=1)
        s, t = self.scale_and_shift(y_b)
        return torch.cat([(y_a - t) / s, y_b], dim=1)


class Split(Bijection):
    """Outputs the second half of the channels as noise, e = (z - mean(h)) / std(h), and passes the first, h, on."""

    def __init__(self, channels: int, rest: Bijection) -> None:
        super().__init__()
        self.prior = ZeroConv(channels // 2, channels)
        self.rest = rest

    def mean_and_log_std(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log std of z given h, both shaped as h; 0 at the start, which is N(0, 1)."""
        mean, log_std = self.prior(h).to(h.dtype).chunk(2, dim=1)
        return mean, log_std.clamp(-LIMIT, LIMIT)

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, z = x.chunk(2, dim=1)
        mean, log_std = self.mean_and_log_std(h)
        h, log_det = self.rest.to_noise(h)
        return torch.cat([h, (z - mean) * torch.exp(-log_std)], dim=1), log_det - log_std.flatten(1).sum(1)

    def from_noise(self, z: Tensor) -> Tensor:
        h, e = z.chunk(2, dim=1)
        h = self.rest.from_noise(h)
        mean, log_std = self.mean_and_log_std(h)
        return torch.cat([h, mean + log_std.exp() * e], dim=1)


class TopPrior(Bijection):
    """Outputs all that remains as noise, e = (z - mean) / std, with a mean and a std for each of its numbers."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, size, size))
        self.log_std = nn.Parameter(torch.zeros(1, channels, size, size))

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.mean) * torch.exp(-self.log_std), -self.log_std.sum().expand(len(x))

    def from_noise(self, z: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * z


def step_of_flow(channels: int, width: int, least_scale: float) -> Bijection:
    """One of the K steps (figure 2a)."""
    return Chain(ActNorm(channels), InvertibleConv(channels), AffineCoupling(channels, width, least_scale))


def level(config: GlowConfig, channels: int, size: int, index: int) -> Bijection:
    """The levels from this one on, on images (B, channels, size, size) (figure 2b)."""
    channels, size = 4 * channels, size // 2
    last = index == config.levels - 1
    end = TopPrior(channels, size) if last else Split(channels, level(config, channels // 2, size, index + 1))
    steps = (step_of_flow(channels, config.width, config.least_scale) for _ in range(config.steps))
    return Squeeze(Chain(*steps, end))


# --- The model


class Glow(GenerativeModel):
    """The multi-scale flow on dequantised images, trained by maximum likelihood.

    Raises:
        ValueError: the image cannot be halved as often as there are levels.
    """

    paper = "Kingma & Dhariwal 2018, arXiv:1807.03039"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"

    def __init__(self, config: GlowConfig, size: int) -> None:
        super().__init__()
        if size % 2**config.levels:
            raise ValueError(
                f"levels={config.levels} needs an image size that is a multiple of {2**config.levels}, not {size}: "
                f"set fewer levels"
            )
        self.shape = (3, size, size)
        self.dims = 3 * size * size
        whitening = whitenings(3, size, config.whitening_axes)
        if whitening:
            self.initial_images = LINEAR_IMAGES
        self.flow = Chain(*whitening, level(config, 3, size, 0))

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """One player, the flow."""
        return {"flow": [self.flow]}

    def phases(self) -> Sequence[Phase]:
        """One step on the negative log-likelihood."""
        return [Phase("flow", self.loss)]

    def initialize(self, batch: Batch) -> None:
        """Set the whitening, if there is one, and every ActNorm (section 3.1), from these images, dequantised."""
        u = noise.rand(len(batch.x), self.shape, torch.Generator().manual_seed(0), batch.x.device)
        fit_to(self.flow, self.observe(batch.x, u))

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood, mean over the batch, in nats per image (eq. 1 and 2)."""
        u = noise.uniform(batch.x.shape, step.generator, batch.x.device)
        nll = -self.log_density(batch.x, u).mean()
        return nll, {"bits_per_dim": bits_per_dim(-nll.detach(), self.dims)}

    def log_density(self, x: Tensor, u: Tensor) -> Tensor:
        """Nats of the 8-bit images, (B,): log p((v + u) / 256) - D log 256 (eq. 2 and 6)."""
        e, log_det = self.flow.to_noise(self.observe(x, u))
        log_normal = -0.5 * (e.square().flatten(1).sum(1) + self.dims * math.log(2 * math.pi))
        return log_normal + log_det - quantization_nats(self.dims)

    def observe(self, x: Tensor, u: Tensor) -> Tensor:
        """The flow's input for images in [-1, 1] and noise u in [0, 1): (v + u) / 256 - 1/2, without a logit."""
        return dequantize(x, u) - 0.5

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """Nothing is approximate, so there is nothing to reconstruct or to bound."""
        return {
            Reconstructs: "exactly invertible: the round trip measures rounding, not the model",
            HasBound: "computes log p(x) itself",
            ScoresOod: "log p(x) is the one score it defines",
        }

    def log_prob(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`log_density` in float32."""
        u = noise.rand(len(x), self.shape, generator, x.device)
        with torch.autocast(x.device.type, enabled=False):
            return self.log_density(x, u)

    def encode(self, x: Tensor) -> Tensor:
        """The noise of the images in the middle of their bins, u = 1/2, of unrounded values too: (B, D)."""
        with torch.autocast(x.device.type, enabled=False):
            e, _ = self.flow.to_noise(to_middle(x) - 0.5)
        return e.flatten(1)

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Noise of all levels, N(0, I), (n, D)."""
        return noise.randn(n, self.shape, generator, next(self.parameters()).device).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The inverse of `encode`, neither rounded nor clamped; pictures of it show the bins in which the codes lie."""
        with torch.autocast(z.device.type, enabled=False):
            return from_middle(self.flow.from_noise(z.reshape(-1, *self.shape)) + 0.5)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws from p, at temperature 1."""
        return self.sample_at(1.0, n, generator)

    def sample_at(self, temperature: float, n: int, generator: torch.Generator) -> Tensor:
        """Draws with the noise of every level multiplied by the temperature."""
        return self.decode(temperature * self.prior(n, generator)).clamp(-1, 1)

    def variants(self) -> Mapping[str, Sampler]:
        """Samples at lower temperatures, which trade variety for likelihood."""
        return {f"T {t:g}": partial(self.sample_at, t) for t in TEMPERATURES}
