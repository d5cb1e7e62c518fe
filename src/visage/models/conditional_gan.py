"""The conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784) with a projection discriminator (Miyato & Koyama 2018,
arXiv:1802.05637) under spectral normalisation (Miyato et al. 2018, arXiv:1802.05957).

    D minimises  E_(x,y) max(0, 1 - D(x, y)) + E_(z,y) max(0, 1 + D(G(z, y), y))          hinge loss, section 5
    G minimises  -E_(z,y) D(G(z, y), y)
    D(x, y) = y^T V phi(x) + psi(phi(x))                                                  projection, eq. 3
    W_SN(W) = W / sigma(W), sigma the largest singular value, for every weight W of D     spectral norm, eq. 8

    x    training image   `batch.x`            G    generator, (z, y) to image      `Generator`
    y    its attributes   `batch.y`, `signs`   D    discriminator, high for real    `Discriminator`
    z    code, N(0, I)    `z`                  phi  features of an image, a vector  `Discriminator.phi`
    V    embedding of y   `projection`         psi  linear                          `psi`

Under the log loss the best D is log q(x, y) / p(x, y) = log q(y|x) / p(y|x) + log q(x) / p(x) (eq. 2), q for training
images and p for generated ones; eq. 3 is its form where the first term is log-linear in y. It compares images only if
p(y) = q(y), so generated images get whole rows of training attributes. Attributes drawn one by one would combine as
they do on no face, such as women with beards, and y alone would reveal what is generated.

Where we deviate:

* y is A attributes at once, each as -1 or 1, instead of one of C classes: v_c of eq. 3 becomes the sum of +-v_a.
* Networks are the DCGAN's; D has spectral instead of batch normalisation, with sum-pooled features as in the authors'
  code. G receives y next to z as in the first paper, whereas the second has conditional batch normalisation.
* One step of D, at a greater learning rate (Heusel et al. 2017, arXiv:1706.08500), for each one of G instead of five.
* If `linear` is on, G is a linear map plus convolutions that start at 0, G(z, y) = W z + M y + m + conv(z, y), cut off
  at -1 and 1 in the place of the tanh. M y + m is the least-squares regression of training images and their mirror
  images on their attributes, so the mean image of those with attributes y as far as it is linear in y; the rest has
  principal axes U and variances L along them, and W = U L^1/2. With the convolutions at 0, images have the mean, the
  dependence on y and the principal variances of training images. A training of a minute does not come near this from
  random weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, MinLen
from torch import Tensor, nn
from torch.nn.utils import parametrize

from visage.maths import noise
from visage.maths.principal import principal_axes
from visage.maths.regression import regression
from visage.models.base import (
    INITIAL_IMAGES,
    LINEAR_IMAGES,
    NO_DENSITY,
    NO_ENCODER,
    Batch,
    GenerativeModel,
    Phase,
    Step,
)
from visage.nn.affine import Affine


@dataclass(frozen=True, slots=True)
class ConditionalGANConfig:
    """The conditional GAN's settings."""

    attributes: Annotated[tuple[str, ...], MinLen(1)]  # the attributes in y, by their CelebA names
    latent_dim: Annotated[int, Ge(1)]  # dimensions of z; the papers: 100 and 128
    embedding: Annotated[int, Ge(1)]  # dimensions that y is mapped to before it joins z
    width: Annotated[int, Ge(1)]  # channels of both networks at half the image size, doubled at every halving
    linear: bool  # add a fixed linear map, of principal components and of attributes, to G

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        twice = [name for name in self.attributes if self.attributes.count(name) > 1]
        if twice:
            raise ValueError(f"attributes: {twice[0]} is listed {len(twice)} times: list each once")


def signs(y: Tensor) -> Tensor:
    """Attributes in {0, 1} as -1 and 1, so that the absence of an attribute is also a signal."""
    return 2 * y - 1


# --- Networks


class SpectralNorm(nn.Module):
    """W to W / sigma(W), sigma the largest singular value of W as a matrix with its first dimension in the rows.

    Each use in training takes one step of power iteration (algorithm 1) from the u of the previous use. In evaluation u
    stays, and v is computed for the given W, which may be an average over the training with another norm.
    """

    u: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn(len(weight), device=weight.device), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalised weight; gradients flow through sigma, not through the singular vectors."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            v = F.normalize(matrix.detach().T @ self.u, dim=0)
            image = matrix @ v
            sigma: Tensor = torch.linalg.vector_norm(image)  # u^T W v for the new u = W v / |W v|
            if self.training:
                self.u.copy_(image.detach() / sigma.detach())
            return weight / sigma


def normalised(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer under spectral normalisation; its weight keeps its name in the layer."""
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


def widths(config: ConditionalGANConfig, size: int) -> list[int]:
    """Channels at size / 2, size / 4, ..., 4 pixels."""
    if size < 16 or size & (size - 1):
        raise ValueError(
            f"size {size}: the conditional GAN halves images down to 4 pixels, choose a power of two from 16 on"
        )
    return [config.width << i for i in range(size.bit_length() - 3)]


class Generator(nn.Module):
    """G: codes (B, latent_dim) and attributes (B, A) in [-1, 1] to images (B, 3, S, S) in [-1, 1]."""

    def __init__(self, config: ConditionalGANConfig, size: int) -> None:
        super().__init__()
        ins = widths(config, size)[::-1]
        self.embed = nn.Linear(len(config.attributes), config.embedding)
        start = config.latent_dim + config.embedding
        layers: list[nn.Module] = [
            nn.Unflatten(1, (start, 1, 1)),
            nn.ConvTranspose2d(start, ins[0], 4, 1, 0, bias=False),
        ]
        for i, o in pairwise([*ins, 3]):
            layers += [nn.BatchNorm2d(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(*layers)
        inputs = config.latent_dim + len(config.attributes)
        self.linear = Affine(inputs, 3 * size * size) if config.linear else None
        for module in self.layers:  # as in the DCGAN
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images, float32."""
        h: Tensor = self.layers(torch.cat([z, self.embed(y)], dim=1)).float()
        if self.linear is None:
            return torch.tanh(h)
        added: Tensor = self.linear(torch.cat([z, y], dim=1))
        return (h + added.view_as(h)).clamp(-1, 1)


class Discriminator(nn.Module):
    """D: images (B, 3, S, S) and attributes (B, A) in [-1, 1] to any real number (B,), high for real pairs."""

    def __init__(self, config: ConditionalGANConfig, size: int) -> None:
        super().__init__()
        outs = widths(config, size)
        layers: list[nn.Module] = []
        for i, o in pairwise([3, *outs]):
            layers += [normalised(nn.Conv2d(i, o, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.psi = normalised(nn.Linear(outs[-1], 1))
        self.projection = normalised(nn.Linear(len(config.attributes), outs[-1], bias=False))

    def phi(self, x: Tensor) -> Tensor:
        """Features, summed over positions, (B, C)."""
        phi: Tensor = self.layers(x).float().sum((2, 3))
        return phi

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y^T V phi(x) + psi(phi(x)), eq. 3, float32."""
        phi = self.phi(x)
        opinion: Tensor = (self.projection(y).float() * phi).sum(1) + self.psi(phi).float().squeeze(1)
        return opinion


# --- The model


class ConditionalGAN(GenerativeModel):
    """A generator that is told which attributes its images should have, and a discriminator that looks for them.

    Raises:
        ValueError: size is not a power of two, or less than 16.
    """

    paper = "Mirza & Osindero 2014, arXiv:1411.1784; projection: Miyato & Koyama 2018, arXiv:1802.05637"
    discriminator_score = "discriminator"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"
    rows: Tensor

    def __init__(self, config: ConditionalGANConfig, size: int) -> None:
        super().__init__()
        self.config = config
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.generator = Generator(config, size)
        self.discriminator = Discriminator(config, size)
        self.register_buffer("rows", torch.zeros(INITIAL_IMAGES, len(config.attributes)))

    @property
    def attributes(self) -> Sequence[str]:
        """The attributes of the config."""
        return self.config.attributes

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """The two opponents."""
        return {"generator": [self.generator], "discriminator": [self.discriminator]}

    def phases(self) -> Sequence[Phase]:
        """One step of D, then one of G."""
        return [Phase("discriminator", self.discriminator_loss), Phase("generator", self.generator_loss, fresh=False)]

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Keep rows of training attributes as q(y) for `sample`; where there are too few, they are repeated.

        Set the linear map, if there is one, from the images and their attributes; convolutions then add 0.
        """
        self.rows.copy_(batch.y[torch.arange(len(self.rows), device=batch.y.device) % len(batch.y)])
        if self.generator.linear is None:
            return
        y, x = signs(batch.y), batch.x.flatten(1)
        M, m = regression(y, ((batch.x + batch.x.flip(3)) / 2).flatten(1))
        found = principal_axes((x - F.linear(y, M, m)).view_as(batch.x), self.config.latent_dim)
        self.generator.linear.set(torch.cat([found.axes * found.variances.sqrt(), M], dim=1), m)
        for parameter in self.generator.layers[-1].parameters():
            parameter.zero_()

    def discriminator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Push real pairs above 1 and generated ones below -1."""
        z, y = self.inputs(batch, step)
        with torch.no_grad():
            fakes = self.generator(z, y)
        # one pass: without batch normalisation images do not affect each other, and W_SN is the same for both kinds
        both = self.discriminator(torch.cat([batch.x, fakes]), torch.cat([signs(batch.y), y]))
        real, fake = both.chunk(2)
        loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return loss, {"d_real": real.detach().mean(), "d_fake": fake.detach().mean()}

    def generator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Raise D for generated pairs, each with the attributes that G received."""
        z, y = self.inputs(batch, step)
        return -self.discriminator(self.generator(z, y), y).mean(), {}

    def inputs(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """G's inputs: a code for each image of the batch, and the batch's rows of attributes as signs, shuffled."""
        z = noise.normal((len(batch.x), self.config.latent_dim), step.generator, batch.x.device)
        return z, signs(noise.shuffled(batch.y, step.generator))

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no encoder and no density."""
        return {**NO_ENCODER, **NO_DENSITY}

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """G(z, y) for z ~ N(0, I)."""
        images: Tensor = self.generator(noise.randn(len(y), (self.config.latent_dim,), generator, y.device), signs(y))
        return images

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z ~ N(0, I), each followed by a row of q(y) as signs: (n, latent_dim + A)."""
        codes = []
        for _ in range(n):  # image by image, so that the first ones do not depend on n
            z = torch.randn(self.config.latent_dim, generator=generator)
            row = int(torch.randint(len(self.rows), (), generator=generator))
            codes.append(torch.cat([z.to(self.rows.device), signs(self.rows[row])]))
        return torch.stack(codes)

    def decode(self, z: Tensor) -> Tensor:
        """G(z, y) for codes (B, latent_dim + A).

        Attributes are clamped to [-1, 1]: on the arc between two codes, those that differ pass through 0, while those
        that agree bulge beyond 1, which the clamp undoes.
        """
        z, y = z[:, : self.config.latent_dim], z[:, self.config.latent_dim :]
        images: Tensor = self.generator(z, y.clamp(-1, 1))
        return images

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """G(z, y) for (z, y) from the prior."""
        return self.decode(self.prior(n, generator))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """-D(x, y) averaged over y ~ q(y), the same for every image, because its attributes would give it away.

        D is affine in y, so the mean of D is D at the mean of y, which costs a single call.
        """
        y = signs(self.rows.mean(0)).expand(len(x), -1)
        return {"discriminator": -self.discriminator(x, y)}

    def features(self, x: Tensor) -> Tensor:
        """phi(x), which does not depend on y."""
        return self.discriminator.phi(x)
