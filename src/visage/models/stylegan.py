"""StyleGAN2 (Karras et al. 2020, arXiv:1912.04958), on the mapping network of StyleGAN (2019, arXiv:1812.04948).

    D minimises  E_x softplus(-D(x)) + E_z softplus(D(G(z)))    + gamma / 2 E_x |grad_x D(x)|^2            (R1)
    G minimises  E_z softplus(-D(G(z)))                         + 2 E_w,y (|J_w^T y| - a)^2                (eq. 4)

    z -> f(z) = w, one code for every layer -> g(w, noise) = image

    w'_oik = s_i w_oik                          modulation, s = A(w) affine, one s_i per input channel     (eq. 1)
    w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + eps)                      demodulation                       (eq. 3)

    f  mapping           `Mapping`          z  code, N(0, I)                                    `z`
    g  synthesis         `Synthesis`        w  style code, an array (B, layers, d) of them      `w`, `ws`
    D  discriminator     `Discriminator`    s  styles, s_i of an image                          `s`
    B  noise, N(0, 1)    `noise`            a  running mean of path lengths                     `pl_mean`
    y  N(0, I) images / side                psi, mean w   truncation, w_avg + psi (w - w_avg)   `psi`, `w_avg`

The logistic loss is Goodfellow's (arXiv:1406.2661), R1 is Mescheder et al. 2018 (arXiv:1801.04406, eq. 9); both norms
are over all pixels. Penalties are lazy (section 3.1): a phase of their own every k steps, multiplied by k. Equalised
learning rates and the minibatch's standard deviation are Karras et al. 2018 (arXiv:1710.10196).

Modulation and demodulation are computed in a different order than written, with the same result: x * s -> convolution
-> * d with d_o = 1 / sqrt(sum_ik w'_oik^2 + eps), so that all images of a batch share one convolution. Before every
halving and after every doubling there is the filter [1, 3, 3, 1] / 8 in both directions    `blur`

Where we deviate:

* Each image has its own random layer at which styles are mixed, instead of one for the whole batch.
* pl_mean is a constant in the gradient of eq. 4; the authors' code lets 1 % of the gradient pass through it.
* To compensate for the penalties' extra steps, the authors multiply Adam's learning rate by c = k / (k + 1) and raise
  its betas to the power c. Here `train.lr_factors` are the factors, and both players share the betas.
* Outside of training an image is judged by itself: D then sees the running mean of the spread of training batches, real
  and generated. In a batch whose size is not divisible by 4, 3 or 2, the spread is 0.
* If `linear` is on, g adds a fixed linear map of w to the colours of its layers, which start at 0:

      W C^-1/2 (w - w') + m,   W = U L^1/2

  for images and their mirror images of mean m, principal axes U and variances L along them, and codes w = f(z) of mean
  w' and covariance C. So g starts at images of the right mean and, along U, covariance, and f hardly moves afterwards.
  With mixed codes, the map takes the first layer's. A training of a minute does not come near this from random weights.
* If `noise_speed` is less than 1, the strengths of the noise learn as much slower as the mapping does by its own
  factor: Adam moves a scalar by up to lr a step, so a high rate takes the strength of the last layer to .5 in the 600
  steps of a minute, and one face in four is covered with speckles.
* `sample` draws new noise for each image, as training does; `decode` uses one fixed noise, so that an image is a
  function of its code. Both clamp images to [-1, 1], which the authors' code does when it saves them.
"""

import math
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from visage.maths import noise as noises
from visage.maths import ranks
from visage.maths.principal import principal_axes
from visage.models.base import LINEAR_IMAGES, NO_DENSITY, NO_ENCODER, Batch, GenerativeModel, Phase, Sampler, Step
from visage.nn.affine import Affine


@dataclass(frozen=True, slots=True)
class StyleGANConfig:
    """StyleGAN's settings."""

    latent_dim: Annotated[int, Ge(1)]  # dimensions of z and of w; the paper: 512
    mapping_layers: Annotated[int, Ge(1)]  # of f; the paper: 8, its authors' code for small images: 2
    width: Annotated[int, Ge(1)]  # channels at the image's size, doubled at every halving; the authors' code: 256 at 64
    max_width: Annotated[int, Ge(1)]  # where the doubling ends; the paper: 512
    r1_gamma: Annotated[float, Gt(0)]  # weight of R1; the authors' code: 0.0002 size^2 / batch size
    r1_every: Annotated[int, Ge(0)]  # steps from one R1 to the next; 0: never; the paper: 16
    path_every: Annotated[int, Ge(0)]  # steps from one path length penalty to the next; 0: never; the paper: 8
    noise_speed: Annotated[float, Gt(0), Le(1)]  # learning rate of the noise's strengths, as a share; the paper: 1
    mixing: Annotated[float, Ge(0), Le(1)]  # share of training images made from two codes; the paper: 0.9
    linear: bool  # add a fixed linear map of w, that of principal components, to the colours

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        if self.max_width < self.width:
            raise ValueError(f"max_width={self.max_width} < width={self.width}: set it to {self.width} or more")


MAPPING_SPEED = 0.01
"""Learning rate of f, relative to the rest."""
PATH_WEIGHT = 2.0
"""The weight of eq. 4 in the authors' code, for y / side."""
PATH_DECAY, W_DECAY, SPREAD_DECAY = 0.99, 0.995, 0.99
"""Decay rates of the running means of path lengths, of w and of the minibatches' spread."""
LINEAR_CODES = 8192
"""How many codes the linear map is set from."""
LEAST_SHARE = 1e-6
"""The least variance of codes, relative to the largest, that the linear map takes for more than rounding."""
PSIS = (1.0, 0.7, 0.5)
"""Truncations psi to show."""


def widths(config: StyleGANConfig, size: int) -> list[int]:
    """Channels at 4, 8, ..., size pixels."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"size {size}: StyleGAN doubles images from 4 pixels on, choose a power of two from 8 on")
    return [min(config.width << i, config.max_width) for i in range(size.bit_length() - 2)][::-1]


def lrelu(x: Tensor) -> Tensor:
    """LeakyReLU(0.2), scaled so that the second moment of N(0, 1) stays about 1."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def blur(x: Tensor, padding: int) -> Tensor:
    """[1, 3, 3, 1] / 8 along rows and columns: (B, C, s, s) to (B, C, s', s') with s' = s + 2 padding - 3."""
    return on_both_sides(filter_matrix(x.shape[2], padding, x.device, x.dtype), x)


def upsample(x: Tensor) -> Tensor:
    """(B, C, s, s) to (B, C, 2s, 2s): zeros between the pixels, then four times the filter."""
    return on_both_sides(2 * filter_matrix(2 * x.shape[2], 2, x.device, x.dtype)[:-1, ::2], x)


def on_both_sides(m: Tensor, x: Tensor) -> Tensor:
    """Multiply every channel of x from the left by m and from the right by m', in the precision of x.

    A convolution of each channel for itself says the same, but PyTorch takes the gradients of its gradients, as
    penalties need them, in one call for every channel.
    """
    with torch.autocast(x.device.type, enabled=False):
        return m @ x @ m.T


@cache
def filter_matrix(size: int, padding: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[1, 3, 3, 1] / 8 as a matrix, (size + 2 padding - 3, size), on columns of pixels between `padding` zeros each."""
    rows, columns = torch.arange(size + 2 * padding - 3, device=device), torch.arange(size, device=device)
    place = columns - rows[:, None] + padding  # in the filter: 0 to 3
    weights = 3 - 2 * ((place == 0) | (place == 3)).to(dtype)
    return weights / 8 * ((place >= 0) & (place <= 3))


# --- Layers with equalised learning rates: weights start as N(0, 1), and the gain is applied when they are used


class Linear(nn.Module):
    """W x / sqrt(ins) + b; under Adam its parameters move `speed` times as fast as others."""

    def __init__(self, ins: int, outs: int, speed: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outs, ins) / speed)
        self.bias = nn.Parameter(torch.full((outs,), bias / speed))
        self.speed, self.gain = speed, speed / math.sqrt(ins)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ins) to (B, outs)."""
        return F.linear(x, self.weight * self.gain, self.bias * self.speed)


class Conv(nn.Module):
    """A convolution, optionally with a bias, optionally halving the resolution."""

    def __init__(self, ins: int, outs: int, kernel: int, bias: bool = True, down: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outs, ins, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outs)) if bias else None
        self.gain, self.padding = 1 / math.sqrt(ins * kernel**2), kernel // 2
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        """(B, ins, s, s) to (B, outs, s, s), or s/2."""
        weight = self.weight * self.gain
        if self.down:
            return F.conv2d(blur(x, self.padding + 1), weight, self.bias, stride=2)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class StyledConv(nn.Module):
    """A modulated 3x3 convolution, optionally doubling the resolution, with demodulation, noise and activation."""

    def __init__(self, ins: int, outs: int, latent_dim: int, noise_speed: float, up: bool) -> None:
        super().__init__()
        self.affine = Linear(latent_dim, ins, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outs, ins, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outs))
        self.strength = nn.Parameter(torch.zeros(()))
        self.gain = 1 / math.sqrt(ins * 9)
        self.noise_speed = noise_speed
        self.up = up

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x: (B, ins, s, s); w: (B, latent_dim); noise: (B, 1, s', s'). Return (B, outs, s', s'), s' = s or 2s."""
        s, weight = self.affine(w), self.weight * self.gain
        x = x * s[:, :, None, None]
        if self.up:  # times 4, because three of four pixels are zeros before the blur
            x = blur(F.conv_transpose2d(x, 4 * weight.transpose(0, 1), stride=2), 1)
        else:
            x = F.conv2d(x, weight, padding=1)
        d = torch.rsqrt(F.linear(s.square(), weight.square().sum((2, 3))) + 1e-8)
        x = x * d[:, :, None, None]
        return lrelu(x + (self.noise_speed * self.strength * noise + self.bias[:, None, None]).to(x.dtype))


class ToRGB(nn.Module):
    """A modulated 1x1 convolution to three channels, not demodulated: the styles set how much this layer adds."""

    def __init__(self, ins: int, latent_dim: int) -> None:
        super().__init__()
        self.affine = Linear(latent_dim, ins, bias=1.0)
        self.conv = Conv(ins, 3, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x: (B, ins, s, s); w: (B, latent_dim). Return (B, 3, s, s) float32."""
        rgb: Tensor = self.conv(x * self.affine(w)[:, :, None, None]).float()
        return rgb


# --- Networks


class Mapping(nn.Module):
    """f: z (B, latent_dim) to w (B, latent_dim)."""

    def __init__(self, config: StyleGANConfig) -> None:
        super().__init__()
        d = config.latent_dim
        self.layers = nn.ModuleList(Linear(d, d, speed=MAPPING_SPEED) for _ in range(config.mapping_layers))

    def forward(self, z: Tensor) -> Tensor:
        """Return w, float32; z is first brought to unit second moment."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = lrelu(layer(x))
        return x.float()


class Synthesis(nn.Module):
    """g: one w for each layer, and noise, to images; every resolution adds its colours to those of the previous one."""

    def __init__(self, config: StyleGANConfig, size: int) -> None:
        super().__init__()
        outs = widths(config, size)
        styled = partial(StyledConv, latent_dim=config.latent_dim, noise_speed=config.noise_speed)
        self.const = nn.Parameter(torch.randn(1, outs[0], 4, 4))
        self.convs = nn.ModuleList([styled(outs[0], outs[0], up=False)])
        for i, o in pairwise(outs):
            self.convs += [styled(i, o, up=True), styled(o, o, up=False)]
        self.rgbs = nn.ModuleList(ToRGB(o, config.latent_dim) for o in outs)
        self.linear = Affine(config.latent_dim, 3 * size * size) if config.linear else None
        self.sides = [4 << (i + 1) // 2 for i in range(len(self.convs))]
        self.layers = len(self.convs) + 1

    @property
    def noise_dim(self) -> int:
        """Noise values behind one image: one for every pixel of every convolution."""
        return sum(side**2 for side in self.sides)

    def forward(self, ws: Tensor, noise: Tensor) -> Tensor:
        """ws: (B, layers, latent_dim); noise: (B or 1, noise_dim). Return (B, 3, S, S), about in [-1, 1], float32."""
        x, image = self.const.expand(len(ws), -1, -1, -1), torch.empty(0)
        parts = torch.split(noise, [side**2 for side in self.sides], dim=1)
        for i, (conv, part, side) in enumerate(zip(self.convs, parts, self.sides, strict=True)):
            x = conv(x, ws[:, i], part.reshape(-1, 1, side, side))
            if i % 2 == 0:  # the last one at its resolution; the next one shares its w with the colours
                rgb = self.rgbs[i // 2](x, ws[:, i + 1])
                image = rgb + upsample(image) if i else rgb
        return image if self.linear is None else image + self.linear(ws[:, 0]).view_as(image)


class Residual(nn.Module):
    """Two convolutions, the second one halving, in parallel with a halving 1x1 convolution."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(ins, ins, 3), Conv(ins, outs, 3, down=True)
        self.skip = Conv(ins, outs, 1, bias=False, down=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ins, s, s) to (B, outs, s/2, s/2)."""
        out: Tensor = (lrelu(self.conv2(lrelu(self.conv1(x)))) + self.skip(x)) / math.sqrt(2)
        return out


def spread(x: Tensor) -> Tensor:
    """Standard deviation within groups of 4 images, or 3 or 2 if 4 does not divide B, averaged over features: (B,)."""
    x = ranks.gather(x.float())
    group = next(g for g in (4, 3, 2, 1) if len(x) % g == 0)
    var = x.reshape(group, len(x) // group, -1).var(0, correction=0)
    return ranks.part((var + 1e-8).sqrt().mean(1).repeat(group))


class Discriminator(nn.Module):
    """D: (B, 3, S, S) to a logit (B,), high for real."""

    spread: Tensor

    def __init__(self, config: StyleGANConfig, size: int) -> None:
        super().__init__()
        ins = widths(config, size)[::-1]
        self.from_rgb = Conv(3, ins[0], 1)
        self.blocks = nn.Sequential(*(Residual(i, o) for i, o in pairwise(ins)))
        self.conv = Conv(ins[-1] + 1, ins[-1], 3)
        self.dense, self.out = Linear(ins[-1] * 16, ins[-1]), Linear(ins[-1], 1)
        self.register_buffer("spread", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, float32; in training they also depend on how different the images of a group are."""
        logits: Tensor = self.out(self.features(x)).float()
        return logits[:, 0]

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, (B, channels at 4 pixels)."""
        x = self.blocks(lrelu(self.from_rgb(x)))
        seen = spread(x) if self.training else self.spread.expand(len(x))
        if self.training:
            self.spread.lerp_(ranks.mean(seen.detach().mean()), 1 - SPREAD_DECAY)
        plane = seen[:, None, None, None].expand(-1, 1, 4, 4)
        x = lrelu(self.conv(torch.cat([x, plane.to(x.dtype)], dim=1)))
        return lrelu(self.dense(x.flatten(1)))


# --- The model


class StyleGAN(GenerativeModel):
    """A generator with a style in every layer, and a residual discriminator.

    Raises:
        ValueError: size is not a power of two, or less than 8.
    """

    paper = "Karras et al. 2020, arXiv:1912.04958"
    discriminator_score = "discriminator"
    path: ClassVar[Literal["lerp", "slerp"]] = "lerp"  # f unfolds W, so that straight lines are natural
    w_avg: Tensor
    pl_mean: Tensor
    noise: Tensor

    def __init__(self, config: StyleGANConfig, size: int) -> None:
        super().__init__()
        self.config = config
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config, size)
        self.discriminator = Discriminator(config, size)
        self.register_buffer("w_avg", torch.zeros(config.latent_dim))
        self.register_buffer("pl_mean", torch.zeros(()))
        self.register_buffer("noise", torch.randn(1, self.synthesis.noise_dim))

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Set the linear map, if there is one, from the images' principal components; the layers' colours are 0."""
        if self.synthesis.linear is None:
            return
        found = principal_axes(batch.x, self.config.latent_dim)
        g = torch.Generator().manual_seed(0)
        w = self.mapping(noises.randn(LINEAR_CODES, (self.config.latent_dim,), g, batch.x.device))
        centred = w - w.mean(0)
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(w))
        variances, axes = variances.flip(0), axes.flip(1)  # in falling order
        whiten = (axes / variances.clamp(min=LEAST_SHARE * variances[0]).sqrt()).T
        weight = found.axes * found.variances.sqrt() @ whiten
        self.synthesis.linear.set(weight, found.mean - weight @ w.mean(0))
        for name, parameter in self.synthesis.rgbs.named_parameters():
            if name.endswith("conv.weight"):
                parameter.zero_()

    def players(self) -> Map[str, Sequence[nn.Module]]:
        """The two opponents."""
        return {"generator": [self.mapping, self.synthesis], "discriminator": [self.discriminator]}

    def phases(self) -> Sequence[Phase]:
        """One step of D, then one of G, each followed by its penalty when that is due."""
        config = self.config
        r1 = Phase("discriminator", self.r1, every=config.r1_every or 1, fresh=False, name="discriminator_r1")
        path = Phase("generator", self.path_length, every=config.path_every or 1, fresh=False, name="generator_path")
        return [
            Phase("discriminator", self.discriminator_loss),
            *([r1] if config.r1_every else []),
            Phase("generator", self.generator_loss, fresh=False),
            *([path] if config.path_every else []),
        ]

    def generate(self, n: int, step: Step) -> tuple[Tensor, Tensor]:
        """Generate n images (n, 3, S, S) for training, and their codes (n, layers, latent_dim), some of them mixed."""
        layers, g, device = self.synthesis.layers, step.generator, self.w_avg.device
        z, mate, noise = (
            noises.normal((n, dim), g, device)
            for dim in (self.config.latent_dim, self.config.latent_dim, self.synthesis.noise_dim)
        )
        ws = self.mapping(z)[:, None].expand(-1, layers, -1)
        if self.config.mixing:
            place, mixed = noises.integers(1, layers, n, g, device), noises.uniform((n,), g, device)
            place = torch.where(mixed < self.config.mixing, place, layers)  # from there on, the layers of the mate
            own = torch.arange(layers, device=device) < place[:, None]
            ws = torch.where(own[:, :, None], ws, self.mapping(mate)[:, None])
        return self.synthesis(ws, noise), ws

    def discriminator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Raise D for real images and lower it for generated ones."""
        with torch.no_grad():
            fakes, _ = self.generate(len(batch.x), step)
        real, fake = self.discriminator(batch.x), self.discriminator(fakes)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss, {"d_real": real.detach().sigmoid().mean(), "d_fake": fake.detach().sigmoid().mean()}

    def r1(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """R1, gamma / 2 E |grad_x D(x)|^2 at real images, multiplied by the number of steps between two such phases."""
        with torch.autocast(batch.x.device.type, enabled=False):
            x = batch.x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.discriminator(x).sum(), x, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
        return self.config.r1_every * self.config.r1_gamma / 2 * penalty, {"r1": penalty.detach()}

    def generator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Raise D for generated images."""
        images, ws = self.generate(len(batch.x), step)
        fake = self.discriminator(images)
        self.w_avg.lerp_(ranks.mean(ws[:, 0].detach().mean(0)), 1 - W_DECAY)  # the first layer's code is never mixed
        return F.softplus(-fake).mean(), {"d_fake": fake.detach().sigmoid().mean()}

    def path_length(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance that images move for a small step in W should not depend on w or on the direction (eq. 4).

        It is computed on half a batch, as in the authors' code. A length is the root mean square over the layers.
        """
        with torch.autocast(batch.x.device.type, enabled=False):
            images, ws = self.generate(max(1, len(batch.x) // 2), step)
            y = noises.normal(images.shape, step.generator, images.device) / images.shape[-1]
            (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
            lengths = gradient.square().sum(2).mean(1).sqrt()
            self.pl_mean.lerp_(ranks.mean(lengths.detach().mean()), 1 - PATH_DECAY)
            penalty = (lengths - self.pl_mean.clone()).square().mean()
        terms = {"path_penalty": penalty.detach(), "path_mean": self.pl_mean.clone()}
        return self.config.path_every * PATH_WEIGHT * penalty, terms

    # Capabilities

    def why_not(self) -> Map[type, str]:
        """It has no encoder and no density."""
        return {**NO_ENCODER, **NO_DENSITY}

    def images(self, w: Tensor, noise: Tensor) -> Tensor:
        """g(w, noise) with the same w (B, latent_dim) in all layers."""
        images: Tensor = self.synthesis(w[:, None].expand(-1, self.synthesis.layers, -1), noise)
        return images.clamp(-1, 1)

    def truncated(self, n: int, generator: torch.Generator, psi: float) -> Tensor:
        """Images of codes pulled towards the mean code: w_avg + psi (w - w_avg) (StyleGAN, appendix B)."""
        dims = [self.config.latent_dim, self.synthesis.noise_dim]
        z, noise = torch.split(noises.randn(n, (sum(dims),), generator, self.w_avg.device), dims, dim=1)
        return self.images(torch.lerp(self.w_avg, self.mapping(z), psi), noise)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Images of codes w = f(z) for z ~ N(0, I), not truncated, each with its own noise."""
        return self.truncated(n, generator, 1.0)

    def variants(self) -> Map[str, Sampler]:
        """Smaller psi gives less varied, more typical images; z and the noise are the same at every psi."""
        return {f"psi {psi:g}": partial(self.truncated, psi=psi) for psi in PSIS}

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes w = f(z) for z ~ N(0, I), (n, latent_dim)."""
        w: Tensor = self.mapping(noises.randn(n, (self.config.latent_dim,), generator, self.w_avg.device))
        return w

    def decode(self, z: Tensor) -> Tensor:
        """g(w) with the fixed noise; the code z (B, latent_dim) is a w here."""
        return self.images(z, self.noise)

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """-D(x): a weak score, since D has only learned to tell training images from G's."""
        return {"discriminator": -self.discriminator(x)}

    def features(self, x: Tensor) -> Tensor:
        """D's last hidden layer."""
        return self.discriminator.features(x).float()
