"""The Wasserstein GAN, with weight clipping (Arjovsky et al. 2017, arXiv:1701.07875) or a gradient penalty
(Gulrajani et al. 2017, arXiv:1704.00028).

    f maximises  E_x f(x) - E_z f(g(z))                                  eq. 3 of the first paper, eq. 2 of the second
    g maximises  E_z f(g(z))                                             theorem 3 of the first paper
    clip:    every weight of f is clipped to [-c, c] after each of its steps          algorithm 1 of the first paper
    penalty: f minimises  E_z f(g(z)) - E_x f(x) + lambda E_x^ (|grad f(x^)|_2 - 1)^2        eq. 3 of the second paper
             with x^ = epsilon x + (1 - epsilon) g(z), epsilon ~ U[0, 1) for each image

    f  critic, any real number  `Critic`     c        bound of the weights   `clip`      x  training image   `batch.x`
    g  generator, z to image    `Generator`  lambda   weight of the penalty  `penalty`   z  code, N(0, I)    `z`
    n_critic  steps of f for each one of g, every one with new training images

If f were the best of all 1-Lipschitz functions, E f(x) - E f(g(z)) would be the Wasserstein-1 distance between images
and samples (eq. 2 of the first paper). Clipping gives K-Lipschitz functions for some unknown K, the penalty gives
slopes near 1, and neither network is optimal: the logged `gap` is comparable within a run at most.

Where we deviate:

* `blocks: convolutional` are the DCGAN's networks, as in the first paper. `blocks: residual` are those of the second
  paper's code for 64-pixel images; the number of halvings follows the image size, and channels end at 8 `width`.
* The critic's normalisation is a choice, `norm`. The first paper has batch normalisation, with gains and biases clipped
  like all else. It is not allowed with the penalty, which constrains the gradient at each image by itself (second
  paper, section 4): deep critics use layer normalisation instead, and shallow ones none.
* The critic is also clipped before its first step, so that the score of an untrained one is bounded as well.
* There are no 100 critic steps for each of the first 25 generator steps, which are in the code but not in the paper.
* If `linear` is on, g is a linear map plus convolutions that start at 0, g(z) = W z + m + conv(z), cut off at -1 and 1
  in the place of the tanh. With the convolutions at 0, g(z) is the Gaussian of the mean m, the principal axes U and the
  variances L along them of training images and their mirror images,

      W = U L^1/2

  as far as pixels are not cut off. A training of a minute does not come near this from random weights; it ends with
  broken faces among the good ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from visage.maths import noise
from visage.maths.principal import principal_axes
from visage.models.base import LINEAR_IMAGES, NO_DENSITY, NO_ENCODER, Batch, GenerativeModel, Phase, Step
from visage.nn.affine import Affine

Norm = Literal["batch", "layer", "none"]


@dataclass(frozen=True, slots=True)
class WGANConfig:
    """The WGAN's settings."""

    constraint: Literal["clip", "penalty"]  # what bounds the critic's slopes
    clip: Annotated[float, Ge(0)]  # c, the clipping bound; the paper: 0.01; 0 with the penalty
    penalty: Annotated[float, Ge(0)]  # lambda, the weight of the penalty; the paper: 10; 0 with clipping
    n_critic: Annotated[int, Ge(1)]  # steps of the critic for each one of the generator; both papers: 5
    blocks: Literal["convolutional", "residual"]  # both networks: the DCGAN's, or residual blocks
    norm: Norm  # in the critic; the papers: batch with clipping, layer or none with the penalty
    latent_dim: Annotated[int, Ge(1)]  # dimensions of z; the papers: 100 and 128
    width: Annotated[int, Ge(1)]  # channels at the largest resolution, doubled at every halving up to 8 times as many
    linear: bool  # add a fixed linear map, that of principal components, to g

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        for name in ("clip", "penalty"):
            value = getattr(self, name)
            if (value > 0) != (name == self.constraint):
                fix = "a number above 0" if name == self.constraint else "0"
                raise ValueError(f"{name}={value} does not go with constraint={self.constraint}: set it to {fix}")
        if self.constraint == "penalty" and self.norm == "batch":
            raise ValueError(
                "norm=batch does not go with constraint=penalty, which is on each image's own gradient: "
                "set it to layer or none"
            )


# --- Networks


def widths(config: WGANConfig, size: int) -> list[int]:
    """Channels at size (residual) or size / 2 (convolutional), at half of that, ..., 4 pixels."""
    if size < 16 or size & (size - 1):
        raise ValueError(f"size {size}: the WGAN halves images down to 4 pixels, choose a power of two from 16 on")
    levels = size.bit_length() - (2 if config.blocks == "residual" else 3)
    return [config.width << min(i, 3) for i in range(levels)]


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Normalisation over batch and positions, over an image's channels and positions, or none."""
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)  # one group: statistics over (C, H, W), gains for each channel
        case "none":
            return nn.Identity()


class ResidualBlock(nn.Module):
    """Normalisation, ReLU and a 3x3 convolution, twice, in parallel with a 1x1 convolution.

    resize: "double" repeats pixels before the first 3x3 convolution, "halve" averages 2x2 pixels after the second.
    """

    def __init__(self, ins: int, outs: int, norm: Norm, resize: Literal["double", "halve"]) -> None:
        super().__init__()
        middle = outs if resize == "double" else ins
        self.enlarge = nn.Upsample(scale_factor=2) if resize == "double" else nn.Identity()
        self.average = nn.AvgPool2d(2) if resize == "halve" else nn.Identity()
        self.norm1, self.conv1 = normalisation(norm, ins), nn.Conv2d(ins, middle, 3, padding=1, bias=False)
        self.norm2, self.conv2 = normalisation(norm, middle), nn.Conv2d(middle, outs, 3, padding=1)
        self.skip = nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ins, s, s) to (B, outs, 2 s, 2 s) or (B, outs, s / 2, s / 2)."""
        h = self.conv1(self.enlarge(F.relu(self.norm1(x))))
        h = self.average(self.conv2(F.relu(self.norm2(h))))
        out: Tensor = h + self.enlarge(self.skip(self.average(x)))  # 1x1: the same at the lower resolution, and cheaper
        return out


def initialize(network: nn.Module, config: WGANConfig) -> None:
    """Weights from N(0, 0.02^2) as in the DCGAN, or, in residual networks, from N(0, 2 / inputs); biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if config.blocks == "convolutional":
                nn.init.normal_(module.weight, 0.0, 0.02)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """g: (B, latent_dim) to images (B, 3, S, S) in [-1, 1]; batch normalisation and ReLU everywhere but at the end."""

    def __init__(self, config: WGANConfig, size: int) -> None:
        super().__init__()
        ins, residual = widths(config, size)[::-1], config.blocks == "residual"
        layers: list[nn.Module] = [nn.Linear(config.latent_dim, ins[0] * 4 * 4, bias=residual)]
        layers += [nn.Unflatten(1, (ins[0], 4, 4))]
        if residual:
            layers += [ResidualBlock(i, o, "batch", "double") for i, o in pairwise(ins)]
            layers += [nn.BatchNorm2d(ins[-1]), nn.ReLU(), nn.Conv2d(ins[-1], 3, 3, padding=1)]
        else:
            for i, o in pairwise([*ins, 3]):
                layers += [nn.BatchNorm2d(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers)
        self.linear = Affine(config.latent_dim, 3 * size * size) if config.linear else None
        initialize(self, config)

    def forward(self, z: Tensor) -> Tensor:
        """Return images, float32."""
        h: Tensor = self.layers(z).float()
        return torch.tanh(h) if self.linear is None else (h + self.linear(z).view_as(h)).clamp(-1, 1)


class Critic(nn.Module):
    """f: (B, 3, S, S) to any real number (B,), high for real; a bias at the end would cancel in every loss."""

    def __init__(self, config: WGANConfig, size: int) -> None:
        super().__init__()
        outs = widths(config, size)
        layers: list[nn.Module]
        if config.blocks == "residual":
            layers = [nn.Conv2d(3, outs[0], 3, padding=1)]
            layers += [ResidualBlock(i, o, config.norm, "halve") for i, o in pairwise(outs)]
        else:
            bias = config.norm == "none"  # without any bias, f(a x) = a f(x) for all a > 0
            layers = [nn.Conv2d(3, outs[0], 4, 2, 1, bias=bias), nn.LeakyReLU(0.2)]
            for i, o in pairwise(outs):
                layers += [nn.Conv2d(i, o, 4, 2, 1, bias=bias), normalisation(config.norm, o), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(outs[-1] * 4 * 4, 1, bias=False), nn.Flatten(0))
        initialize(self, config)

    def forward(self, x: Tensor) -> Tensor:
        """Return the critic's value for each image, float32."""
        opinion: Tensor = self.layers(x).float()
        return opinion

    def features(self, x: Tensor) -> Tensor:
        """The input of the final linear layer, mean over positions, (B, channels there), float32."""
        activations: Tensor = self.layers[:-3](x).float()
        return activations.mean((2, 3))


# --- The model


class WGAN(GenerativeModel):
    """A generator, and a critic that estimates how far its images are from the real ones.

    Raises:
        ValueError: size is not a power of two, or less than 16.
    """

    paper = "Arjovsky et al. 2017, arXiv:1701.07875; penalty: Gulrajani et al. 2017, arXiv:1704.00028"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"

    def __init__(self, config: WGANConfig, size: int) -> None:
        super().__init__()
        self.config = config
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.generator = Generator(config, size)
        self.critic = Critic(config, size)
        self.clip_weights()

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Set the linear map, if there is one, from the principal components of the images; convolutions add 0."""
        if self.generator.linear is None:
            return
        found = principal_axes(batch.x, self.config.latent_dim)
        self.generator.linear.set(found.axes * found.variances.sqrt(), found.mean)
        for parameter in self.generator.layers[-1].parameters():
            parameter.zero_()

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """The generator and its critic."""
        return {"generator": [self.generator], "critic": [self.critic]}

    def phases(self) -> Sequence[Phase]:
        """n_critic steps of f, each with new images, then one of g, which uses none."""
        critic = Phase("critic", self.critic_loss, after=self.clip_weights)
        return [critic] * self.config.n_critic + [Phase("generator", self.generator_loss, fresh=False)]

    def critic_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """E f(g(z)) - E f(x), eq. 2 with its sign turned, and the penalty of eq. 3."""
        with torch.no_grad():
            fakes = self.generator(self.z(batch, step))
        gap = self.critic(batch.x).mean() - self.critic(fakes).mean()
        if self.config.constraint == "clip":
            return -gap, {"gap": gap.detach(), "at_bound": self.at_bound()}
        slopes = self.slopes(batch.x, fakes, step)
        penalty = self.config.penalty * (slopes - 1).square().mean()
        return -gap + penalty, {"gap": gap.detach(), "penalty": penalty.detach(), "slope": slopes.detach().mean()}

    def generator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """-E f(g(z)), theorem 3."""
        return -self.critic(self.generator(self.z(batch, step))).mean(), {}

    def z(self, batch: Batch, step: Step) -> Tensor:
        """One code for each image of the batch."""
        return noise.normal((len(batch.x), self.config.latent_dim), step.generator, batch.x.device)

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Clip every parameter of the critic to [-c, c]; do nothing if the penalty is the constraint."""
        if self.config.constraint == "clip":
            for parameter in self.critic.parameters():
                parameter.clamp_(-self.config.clip, self.config.clip)

    @torch.no_grad()
    def at_bound(self) -> Tensor:
        """The share of the critic's parameters at the bound, a scalar; near 1, f can hardly learn anything."""
        parameters = torch.cat([parameter.flatten() for parameter in self.critic.parameters()])
        return (parameters.abs() >= self.config.clip).float().mean()

    def slopes(self, real: Tensor, fake: Tensor, step: Step) -> Tensor:
        """|grad f(x^)|_2 at one x^ between each real and generated image, (B,), itself differentiable."""
        with torch.autocast(real.device.type, enabled=False):
            epsilon = noise.uniform((len(real), 1, 1, 1), step.generator, real.device)
            between = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
            (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
            norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
            return norms

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no encoder and no density."""
        return {**NO_ENCODER, **NO_DENSITY}

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z ~ N(0, I), (n, latent_dim)."""
        return noise.randn(n, (self.config.latent_dim,), generator, next(self.parameters()).device)

    def decode(self, z: Tensor) -> Tensor:
        """g(z), (B, 3, S, S) in [-1, 1]."""
        images: Tensor = self.generator(z)
        return images

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """g(z) for z from the prior."""
        return self.decode(self.prior(n, generator))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """-f(x): a weak score, since f has only learned to tell training images from g's."""
        return {"critic": -self.critic(x)}

    def features(self, x: Tensor) -> Tensor:
        """The critic's last hidden layer, mean over positions."""
        return self.critic.features(x)
