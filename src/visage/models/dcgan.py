"""The deep convolutional GAN (Radford et al. 2016, arXiv:1511.06434).

    D minimises  E_x softplus(-D(x)) + E_z softplus(D(G(z)))     that is -E log s(D(x)) - E log (1 - s(D(G(z))))
    G minimises  E_z softplus(-D(G(z)))                          -E log s(D(G(z))), the non-saturating loss

    s  the sigmoid
    G  generator, z to image   `Generator`        z  code, N(0, I)         `z`
    D  discriminator, a logit  `Discriminator`    x  training image        `batch.x`

Both losses are Goodfellow et al. 2014 (arXiv:1406.2661, eq. 1 and the text after algorithm 1).

Where we deviate:

* Kernels of 4 instead of 5 pixels and z from N(0, I) instead of a uniform cube, as in the widely used PyTorch version;
  the number of halvings follows the image size.
* Real and generated images pass through D in separate batches, as in the authors' code, since batch normalisation would
  give them away in a mixed one. As an out-of-distribution score, D uses the running statistics of both kinds of images.
* If `linear` is on, G is a linear map plus convolutions that start at 0, G(z) = W z + m + conv(z), cut off at -1 and 1
  in the place of the tanh: as in `visage.models.wgan`, it starts at the Gaussian of the training images' principal
  components.
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


@dataclass(frozen=True, slots=True)
class DCGANConfig:
    """The DCGAN's settings."""

    latent_dim: Annotated[int, Ge(1)]
    """Dimensions of z; the paper: 100."""
    width: Annotated[int, Ge(1)]
    """Channels of both networks at half the image size, doubled at every halving; the paper: 128 at 64 pixels."""
    linear: bool
    """Add a fixed linear map, that of principal components, to G."""


def widths(config: DCGANConfig, size: int) -> list[int]:
    """Channels at size / 2, size / 4, ..., 4 pixels."""
    if size < 16 or size & (size - 1):
        raise ValueError(f"size {size}: the DCGAN halves images down to 4 pixels, choose a power of two from 16 on")
    return [config.width << i for i in range(size.bit_length() - 3)]


def initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), gains of batch normalisation from N(1, 0.02^2), its biases 0 (section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Generator(nn.Module):
    """G: (B, latent_dim) to images (B, 3, S, S) in [-1, 1]; batch normalisation and ReLU everywhere but at the end."""

    def __init__(self, config: DCGANConfig, size: int) -> None:
        super().__init__()
        ins = widths(config, size)[::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(config.latent_dim, ins[0], 4, 1, 0, bias=False)]
        for i, o in zip(ins, [*ins[1:], 3], strict=True):
            layers += [nn.BatchNorm2d(i), nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False)]
        self.layers = nn.Sequential(nn.Unflatten(1, (config.latent_dim, 1, 1)), *layers)
        self.linear = Affine(config.latent_dim, 3 * size * size) if config.linear else None
        self.apply(initialize)

    def forward(self, z: Tensor) -> Tensor:
        """Return images, float32."""
        h: Tensor = self.layers(z).float()
        return torch.tanh(h) if self.linear is None else (h + self.linear(z).view_as(h)).clamp(-1, 1)


class Discriminator(nn.Module):
    """D: (B, 3, S, S) to a logit (B,), high for real; LeakyReLU, batch normalisation inside."""

    def __init__(self, config: DCGANConfig, size: int) -> None:
        super().__init__()
        outs = widths(config, size)
        layers: list[nn.Module] = [nn.Conv2d(3, outs[0], 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for i, o in pairwise(outs):
            layers += [nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(outs[-1], 1, 4, 1, 0, bias=False), nn.Flatten(0))
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, float32."""
        logits: Tensor = self.layers(x).float()
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Activations before the last convolution, mean over positions, (B, channels there), float32."""
        activations: Tensor = self.layers[:-2](x).float()
        return activations.mean((2, 3))


class DCGAN(GenerativeModel):
    """A generator and a discriminator that play against each other.

    Raises:
        ValueError: size is not a power of two, or less than 16.
    """

    paper = "Radford et al. 2016, arXiv:1511.06434"
    discriminator_score = "discriminator"
    path: ClassVar[Literal["lerp", "slerp"]] = "slerp"

    def __init__(self, config: DCGANConfig, size: int) -> None:
        super().__init__()
        self.config = config
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.generator = Generator(config, size)
        self.discriminator = Discriminator(config, size)

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
        """The two opponents."""
        return {"generator": [self.generator], "discriminator": [self.discriminator]}

    def phases(self) -> Sequence[Phase]:
        """One step of D, then one of G."""
        return [Phase("discriminator", self.discriminator_loss), Phase("generator", self.generator_loss, fresh=False)]

    def discriminator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Raise D for real images and lower it for generated ones."""
        with torch.no_grad():
            fakes = self.generator(self.z(batch, step))
        real, fake = self.discriminator(batch.x), self.discriminator(fakes)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        return loss, {"d_real": real.detach().sigmoid().mean(), "d_fake": fake.detach().sigmoid().mean()}

    def generator_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Raise D for generated images; the gradient does not vanish where D is sure that they are generated."""
        fake = self.discriminator(self.generator(self.z(batch, step)))
        return F.softplus(-fake).mean(), {"d_fake": fake.detach().sigmoid().mean()}

    def z(self, batch: Batch, step: Step) -> Tensor:
        """One code for each image of the batch."""
        return noise.normal((len(batch.x), self.config.latent_dim), step.generator, batch.x.device)

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no encoder and no density."""
        return {**NO_ENCODER, **NO_DENSITY}

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z ~ N(0, I), (n, latent_dim)."""
        return noise.randn(n, (self.config.latent_dim,), generator, next(self.parameters()).device)

    def decode(self, z: Tensor) -> Tensor:
        """G(z), (B, 3, S, S) in [-1, 1]."""
        images: Tensor = self.generator(z)
        return images

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """G(z) for z from the prior."""
        return self.decode(self.prior(n, generator))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """-D(x): a weak score, since D has only learned to tell training images from G's."""
        return {"discriminator": -self.discriminator(x)}

    def features(self, x: Tensor) -> Tensor:
        """D's last hidden layer, mean over positions."""
        return self.discriminator.features(x)
