"""The bidirectional GAN (Donahue et al. 2017, arXiv:1605.09782), or adversarially learned inference (Dumoulin et al.
2017, arXiv:1606.00704).

    D maximises   V(D, E, G) = E_x log s(D(x, E(x))) + E_z log (1 - s(D(G(z), z)))                         eq. 3
    E, G minimise  E_x softplus(D(x, E(x))) + E_z softplus(-D(G(z), z))           section 3.4, "inverse" objective
                   + lambda E_x mean (x - G(E(x)))^2                              ALICE, where `cycle` is above 0

    s  the sigmoid, so that -log s(a) = softplus(-a) and -log (1 - s(a)) = softplus(a)
    E  encoder, image to code    `Encoder`     x  training image  `batch.x`   (x, E(x))  encoded pair    `encoded`
    G  generator, code to image  `Generator`   z  code, N(0, I)   `z`         (G(z), z)  generated pair  `generated`
    D  joint discriminator, a logit, high for encoded pairs       `Discriminator`   lambda  `cycle`

D sees only pairs: it never compares x with G(E(x)). Yet where D cannot tell the two kinds of pairs apart, E and G
invert each other (theorem 2); short of that, reconstructions preserve a face's character rather than its pixels. Li et
al. 2017 (ALICE, arXiv:1709.01215) show that many pairings of x and z fool D equally well, and bound the conditional
entropy of x given z, which tells them apart, by the error of a reconstruction; lambda is its weight.

Where we deviate:

* D joins the features of x with those of z in its last hidden layer, as the second paper does, not in every layer.
* z is N(0, I), as in the second paper; in the first it is uniform in a cube.
* D takes its step first, then E and G together. The first paper describes this but, for speed, updates all at once.
* Convolutions are the DCGAN's, with weights from N(0, 0.02^2); fully connected layers start from N(0, 2 / inputs),
  because at 0.02 x would drown out z. The two kinds of pairs pass through D in separate batches, since batch
  normalisation would give them away in a mixed one. As a score, D uses the running statistics of both kinds.
* E is a function, as in the first paper's experiments; the second draws from N(mu(x), sigma(x)^2).
* `cycle` is 0 in both papers. In trainings of a minute D comes nowhere near its optimum, and without the error of
  ALICE reconstructions show another person.
* If `linear` is on, G and E are linear maps plus convolutions that start at 0: G(z) = W z + m + conv(z), cut off at -1
  and 1 in the place of the tanh, and E(x) = V (x - m) + conv(x). With the convolutions at 0, G and E are the principal
  components of images and their mirror images, of mean m, principal axes U and variances L along them,

      W = U L^1/2        V = L^-1/2 U^T

  so that codes have the mean and the variances of N(0, I), generated images those of training images, and no linear
  pair reconstructs better. A training of a minute does not come near this from random weights. The error of ALICE,
  with a large weight, lets D sharpen images without losing the faces that they belong to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from visage.maths import noise, ranks
from visage.maths.principal import principal_axes
from visage.models.base import LINEAR_IMAGES, NO_DENSITY, Batch, GenerativeModel, Phase, Step
from visage.nn.affine import Affine


@dataclass(frozen=True, slots=True)
class BiGANConfig:
    """The BiGAN's settings."""

    latent_dim: Annotated[int, Ge(1)]  # dimensions of z; the papers: 200 and 256
    width: Annotated[int, Ge(1)]  # channels of each network at half the image size, doubled at every halving
    code_width: Annotated[int, Ge(1)]  # units of the two layers of D that see only z
    joint_width: Annotated[int, Ge(1)]  # units of the layer of D that sees both
    dropout: Annotated[float, Ge(0), Lt(1)]  # share of D's fully connected inputs zeroed in training; ALI: 0.2
    cycle: Annotated[float, Ge(0)]  # lambda, weight of the squared error of G(E(x)), for pixels in [-1, 1]; 0 = none
    linear: bool  # add fixed linear maps, those of principal components, to G and E


# --- Networks


def widths(config: BiGANConfig, size: int) -> list[int]:
    """Channels at size / 2, size / 4, ..., 4 pixels."""
    if size < 16 or size & (size - 1):
        raise ValueError(f"size {size}: the BiGAN halves images down to 4 pixels, choose a power of two from 16 on")
    return [config.width << i for i in range(size.bit_length() - 3)]


def initialize(module: nn.Module) -> None:
    """Initialise as the DCGAN does (Radford et al. 2016), except that fully connected layers preserve the scale."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        nn.init.zeros_(module.bias)


def trunk(config: BiGANConfig, size: int) -> tuple[nn.Sequential, int]:
    """Convolutions from (B, 3, S, S) down to 4 x 4 positions, flattened, and the number of features that result."""
    outs = widths(config, size)
    layers: list[nn.Module] = [nn.Conv2d(3, outs[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for i, o in pairwise(outs):
        layers += [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten()), outs[-1] * 4 * 4


class Generator(nn.Module):
    """G: (B, latent_dim) to images (B, 3, S, S) in [-1, 1]."""

    def __init__(self, config: BiGANConfig, size: int) -> None:
        super().__init__()
        ins = widths(config, size)[::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(config.latent_dim, ins[0], 4, 1, 0, bias=False)]
        for i, o in pairwise([*ins, 3]):
            layers += [nn.BatchNorm2d(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(nn.Unflatten(1, (config.latent_dim, 1, 1)), *layers)
        self.linear = Affine(config.latent_dim, 3 * size * size) if config.linear else None
        self.apply(initialize)

    def forward(self, z: Tensor) -> Tensor:
        """Return images, float32."""
        h: Tensor = self.layers(z).float()
        return torch.tanh(h) if self.linear is None else (h + self.linear(z).view_as(h)).clamp(-1, 1)


class Encoder(nn.Module):
    """E: (B, 3, S, S) to codes (B, latent_dim), unbounded like draws of N(0, I)."""

    def __init__(self, config: BiGANConfig, size: int) -> None:
        super().__init__()
        self.trunk, features = trunk(config, size)
        self.head = nn.Linear(features, config.latent_dim)
        self.linear = Affine(3 * size * size, config.latent_dim) if config.linear else None
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Return codes, float32."""
        codes: Tensor = self.head(self.trunk(x)).float()
        return codes if self.linear is None else codes + self.linear(x.flatten(1))


class Discriminator(nn.Module):
    """D: images (B, 3, S, S) and their codes (B, latent_dim) to a logit (B,), high for encoded pairs."""

    def __init__(self, config: BiGANConfig, size: int) -> None:
        super().__init__()
        self.image, features = trunk(config, size)
        self.code = nn.Sequential(
            nn.Linear(config.latent_dim, config.code_width),
            nn.LeakyReLU(0.2),
            nn.Dropout(config.dropout),
            nn.Linear(config.code_width, config.code_width),
            nn.LeakyReLU(0.2),
        )
        self.joint = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(features + config.code_width, config.joint_width),
            nn.LeakyReLU(0.2),
        )
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.joint_width, 1), nn.Flatten(0))
        self.apply(initialize)

    def features(self, x: Tensor, z: Tensor) -> Tensor:
        """The last hidden layer, (B, joint_width)."""
        hidden: Tensor = self.joint(torch.cat([self.image(x), self.code(z)], dim=1))
        return hidden

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return logits, float32."""
        logits: Tensor = self.head(self.features(x, z)).float()
        return logits


# --- The model


class BiGAN(GenerativeModel):
    """A generator, an encoder that learns to invert it, and a discriminator that judges pairs.

    Raises:
        ValueError: size is not a power of two, or less than 16.
    """

    paper = "Donahue et al. 2017, arXiv:1605.09782; ALI: Dumoulin et al. 2017, arXiv:1606.00704"
    discriminator_score = "discriminator"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"

    def __init__(self, config: BiGANConfig, size: int) -> None:
        super().__init__()
        self.config = config
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.generator = Generator(config, size)
        self.encoder = Encoder(config, size)
        self.discriminator = Discriminator(config, size)

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Set the linear maps, if there are any, from the principal components of the images; convolutions add 0."""
        if self.generator.linear is None or self.encoder.linear is None:
            return
        found = principal_axes(batch.x, self.config.latent_dim)
        W = found.axes * found.variances.sqrt()
        V = (found.axes / found.variances.sqrt().clamp(min=1 / 255)).T
        self.generator.linear.set(W, found.mean)
        self.encoder.linear.set(V, -V @ found.mean)
        for parameter in (*self.generator.layers[-1].parameters(), *self.encoder.head.parameters()):
            parameter.zero_()

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """E and G are one player: both make D's task harder."""
        return {"generator_encoder": [self.generator, self.encoder], "discriminator": [self.discriminator]}

    def phases(self) -> Sequence[Phase]:
        """One step of D, then one of E and G on the same images."""
        return [
            Phase("discriminator", self.discriminator_loss),
            Phase("generator_encoder", self.generator_encoder_loss, fresh=False),
        ]

    def discriminator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """-V of eq. 3: encoded pairs up, generated ones down."""
        with torch.no_grad():
            z = self.z(batch, step)
            codes, images = self.encoder(batch.x), self.generator(z)
        encoded, generated = self.discriminator(batch.x, codes), self.discriminator(images, z)
        loss = F.softplus(-encoded).mean() + F.softplus(generated).mean()
        return loss, beliefs(encoded, generated)

    def generator_encoder_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The same with the labels swapped; its gradient does not vanish where D is confident (section 3.4).

        Where `cycle` is above 0, with the error of ALICE, for pixels in [-1, 1], beside it.
        """
        z = self.z(batch, step)
        codes, images = self.encoder(batch.x), self.generator(z)
        encoded, generated = self.discriminator(batch.x, codes), self.discriminator(images, z)
        loss = F.softplus(encoded).mean() + F.softplus(-generated).mean()
        # codes should become like draws of N(0, I), with spread 1: near 0 they collapse, far above 1 they explode
        spread = ranks.gather(codes.detach()).std(0).mean()
        terms = beliefs(encoded, generated) | {"code_std": spread, "code_mean": codes.detach().mean()}
        if self.config.cycle:
            # apart from G(z): in a mixed batch G would show D other images than those that it is trained with
            missed = (self.generator(codes) - batch.x).square().mean()
            loss, terms = loss + self.config.cycle * missed, terms | {"cycle": missed.detach()}
        return loss, terms

    def z(self, batch: Batch, step: Step) -> Tensor:
        """One code for each image of the batch."""
        return noise.normal((len(batch.x), self.config.latent_dim), step.generator, batch.x.device)

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It defines no density."""
        return NO_DENSITY

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z ~ N(0, I), (n, latent_dim)."""
        return noise.randn(n, (self.config.latent_dim,), generator, self.encoder.head.weight.device)

    def decode(self, z: Tensor) -> Tensor:
        """G(z), (B, 3, S, S) in [-1, 1]."""
        images: Tensor = self.generator(z)
        return images

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """G(z) for z from the prior."""
        return self.decode(self.prior(n, generator))

    def encode(self, x: Tensor) -> Tensor:
        """E(x), (B, latent_dim)."""
        codes: Tensor = self.encoder(x)
        return codes

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x))."""
        return self.decode(self.encode(x))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """-D(x, E(x)), and the mean distance between D's features of x and those of G(E(x)).

        The second is the feature-matching score of Zenati et al. 2018 (arXiv:1802.06222). Both give D the code E(x).
        """
        codes = self.encode(x)
        seen, remade = self.discriminator.features(x, codes), self.discriminator.features(self.decode(codes), codes)
        logits: Tensor = self.discriminator.head(seen)
        return {"discriminator": -logits.float(), "features": (seen - remade).abs().float().mean(1)}

    def features(self, x: Tensor) -> Tensor:
        """D's last hidden layer for x with its code E(x)."""
        return self.discriminator.features(x, self.encode(x)).float()


def beliefs(encoded: Tensor, generated: Tensor) -> dict[str, Tensor]:
    """D's mean probability that a pair is an encoded one, for the log. Arguments are logits, (B,)."""
    return {"d_encoded": encoded.detach().sigmoid().mean(), "d_generated": generated.detach().sigmoid().mean()}
