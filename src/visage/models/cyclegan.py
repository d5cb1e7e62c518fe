"""CycleGAN: translation between two kinds of images without pairs (Zhu et al. 2017, arXiv:1703.10593).

    G, F minimise    E_a (D_B(G(a)) - 1)^2 + E_b (D_A(F(b)) - 1)^2                    least squares in place of eq. 1
                     + lambda { E_a |F(G(a)) - a|_1 + E_b |G(F(b)) - b|_1             eq. 2, weighted as in eq. 3
                                + lambda_id ( E_b |G(b) - b|_1 + E_a |F(a) - a|_1 ) } L_identity of section 5.2
    D_B minimises    1/2 { E_b (D_B(b) - 1)^2 + E_h D_B(h)^2 },   D_A likewise        section 4 and appendix 7.1
                     h: images from G, new ones and some of earlier steps             `History`

    a, b   images of domain A (the paper's X) and of B (its Y)    first and second half of `batch.x`
    G      A to B    `to_b`       D_B (the paper's D_Y)  judge of images of B, 1 for real    `judge_b`
    F      B to A    `to_a`       D_A (the paper's D_X)  judge of images of A                `judge_a`
    |.|_1  mean over pixels and colours of the absolute difference, x11                      `l1`
    lambda, lambda_id                                                                        `cycle`, `identity`

In the authors' code D_A judges the output of G_A, which are images of B. Here a letter always names the domain.

Where we deviate:

* D follows G in an iteration, as in the authors' code, but judges what the generators make after their update, so that
  no images are passed from one phase to the next or stored in a checkpoint.
* Patches: a judge has fewer layers where the paper's patch, 70 pixels wide, would not fit into the image. With three,
  two, one halving a patch is 70, 34, 16 pixels wide, and we take the largest that is narrower than the image.
* `patch` > 1 turns squares of patch x patch pixels into channels of one position (pixel-unshuffle), with kernels of 3
  instead of 7 pixels at both ends. That doubles the generator's speed, for trainings of a minute. 1 is the paper's.
* Batches of several images (the paper: one), and no biases where instance normalisation removes the mean anyway.
* The paper's rate is constant, then falls linearly to 0 over the second half; the loop has a cosine instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn

from visage.maths import noise, ranks
from visage.models.base import (
    NO_DENSITY,
    Batch,
    Decodes,
    Encodes,
    GenerativeModel,
    Phase,
    Reconstructs,
    Samples,
    Step,
)


@dataclass(frozen=True, slots=True)
class CycleGANConfig:
    """The CycleGAN's settings."""

    domain_a: Annotated[str, MinLen(1)]  # an attribute, or "not <attribute>"; images in both domains are left out
    domain_b: Annotated[str, MinLen(1)]  # likewise
    cycle: Annotated[float, Ge(0)]  # lambda, weight of the cycle loss; the paper: 10
    identity: Annotated[float, Ge(0)]  # lambda_id, of the identity loss in units of lambda; the paper: 0 or 0.5
    history: Annotated[int, Ge(0)]  # generated images kept for each judge to see again; 0 for none; the paper: 50
    width: Annotated[int, Ge(1)]  # of a generator: channels before the first halving; the paper: 64
    halvings: Annotated[int, Ge(0)]  # of a generator: layers that halve the image and double the width; the paper: 2
    blocks: Annotated[int, Ge(1)]  # of a generator: residual blocks; the paper: 6 at 128 pixels, 9 from 256 on
    patch: Annotated[int, Ge(1)]  # of a generator: side of the squares that become channels; the paper: 1
    judge_width: Annotated[int, Ge(1)]  # of a judge: channels after the first layer; the paper: 64

    def __post_init__(self) -> None:
        """Refuse domains that are the same."""
        if self.domain_a == self.domain_b:
            raise ValueError(f"domain_a and domain_b are both {self.domain_a!r}: there is nothing to translate")


def read(domain: str) -> tuple[str, bool]:
    """The attribute that defines a domain, and whether its images have it."""
    return domain.removeprefix("not "), not domain.startswith("not ")


def initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), biases 0 (appendix 7.1)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def reflect(x: Tensor, width: int) -> Tensor:
    """Continue x (B, C, H, W) on all sides by its mirror image; PyTorch's own cannot repeat its gradient on GPUs."""
    for dim in (2, 3):
        before, after = x.narrow(dim, 1, width), x.narrow(dim, x.shape[dim] - 1 - width, width)
        x = torch.cat([before.flip(dim), x, after.flip(dim)], dim)
    return x


class Conv(nn.Conv2d):
    """A convolution that preserves the image's size, with reflection padding."""

    def __init__(self, ins: int, outs: int, kernel: int, bias: bool = False) -> None:
        super().__init__(ins, outs, kernel, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ins, s, s) to (B, outs, s, s)."""
        return super().forward(reflect(x, self.kernel_size[0] // 2))


class Residual(nn.Module):
    """Rk: two 3x3 convolutions of k channels, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = Conv(channels, channels, 3), Conv(channels, channels, 3)
        self.layers = nn.Sequential(first, nn.InstanceNorm2d(channels), nn.ReLU(), second, nn.InstanceNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, k, s, s) to the same."""
        out: Tensor = x + self.layers(x)
        return out


class Generator(nn.Module):
    """G or F, images (B, 3, S, S) in [-1, 1] to the same: c7s1-64, d128, d256, R256 ..., u128, u64, c7s1-3."""

    def __init__(self, config: CycleGANConfig, size: int) -> None:
        super().__init__()
        factor = config.patch << config.halvings
        if size % factor or size < 2 * factor:
            raise ValueError(
                f"size {size}: with patch={config.patch} and halvings={config.halvings} it must be a multiple of "
                f"{factor}, from {2 * factor} on"
            )
        channels, kernel = 3 * config.patch**2, 7 if config.patch == 1 else 3
        widths = [config.width << i for i in range(config.halvings + 1)]
        layers: list[nn.Module] = [Conv(channels, widths[0], kernel), nn.InstanceNorm2d(widths[0]), nn.ReLU()]
        for i, o in pairwise(widths):
            layers += [nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.InstanceNorm2d(o), nn.ReLU()]
        layers += [Residual(widths[-1]) for _ in range(config.blocks)]
        for i, o in pairwise(widths[::-1]):
            up = nn.ConvTranspose2d(i, o, 3, 2, 1, output_padding=1, bias=False)
            layers += [up, nn.InstanceNorm2d(o), nn.ReLU()]
        layers += [Conv(widths[0], channels, kernel, bias=True)]
        self.layers = nn.Sequential(nn.PixelUnshuffle(config.patch), *layers, nn.PixelShuffle(config.patch))
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Return images, float32."""
        return torch.tanh(self.layers(x).float())


def judge_halvings(size: int) -> int:
    """How often a judge halves the image: at most three times, so that its patches are narrower than the image."""
    fitting = [n for n in (3, 2, 1) if 9 * 2**n - 2 < size]  # two 4x4 layers see 7 pixels; halving turns r into 2 r + 2
    if not fitting:
        raise ValueError(f"size {size}: the smallest patch of a CycleGAN's discriminator is 16 pixels wide")
    return fitting[0]


class Judge(nn.Module):
    """D_A or D_B, a PatchGAN: images (B, 3, S, S) to a map (B, 1, s, s) of numbers, one for each patch, 1 for real."""

    def __init__(self, config: CycleGANConfig, size: int) -> None:
        super().__init__()
        halvings = judge_halvings(size)
        outs = [config.judge_width << i for i in range(halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, outs[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for stride, (i, o) in zip([2] * (halvings - 1) + [1], pairwise(outs), strict=True):
            layers += [nn.Conv2d(i, o, 4, stride, 1, bias=False), nn.InstanceNorm2d(o), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(outs[-1], 1, 4, 1, 1))
        self.apply(initialize)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, float32."""
        found: Tensor = self.layers(x).float()
        return found

    def features(self, x: Tensor) -> Tensor:
        """Activations before the last convolution, mean over positions, (B, channels there), float32."""
        activations: Tensor = self.layers[:-1](x).float()
        return activations.mean((2, 3))


class History(nn.Module):
    """Earlier generated images for a judge to see again (Shrivastava et al. 2017, arXiv:1612.07828, section 2.3)."""

    images: Tensor
    count: Tensor

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(length, 3, size, size))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def exchange(self, new: Tensor, generator: torch.Generator) -> Tensor:
        """Store generated images (B, 3, S, S), one after the other, and return as many, without gradients.

        Until the history is full, images are stored and returned. After that, with probability 1/2 an image replaces a
        random stored one, which is returned in its place; otherwise the image itself is returned.
        """
        if (length := len(self.images)) == 0:
            return new
        new = ranks.gather(new)
        n, device = len(new), new.device
        order = self.count + torch.arange(n, device=device)
        room = order < length  # for these images the history is not yet full
        place = torch.where(room, order, noise.integers(0, length, n, generator, device, whole=True))
        swap = noise.uniform((n,), generator, device, whole=True) < 0.5
        given = []
        # one after the other, since an image may meet one of its own batch; on the device, which nothing waits for
        for image, at, is_free, is_swapped in zip(torch.split(new, 1), torch.split(place, 1), room, swap, strict=True):
            stored = self.images.index_select(0, at)
            self.images.index_copy_(0, at, torch.where(is_free | is_swapped, image, stored))
            given.append(torch.where(is_swapped & ~is_free, stored, image))
        self.count.add_(n).clamp_(max=length)
        return ranks.part(torch.cat(given))


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference of each image, (B,)."""
    return (x - y).abs().mean((1, 2, 3))


class CycleGAN(GenerativeModel):
    """Two generators that undo each other, and a judge for each domain.

    Raises:
        ValueError: the generators cannot halve the image, or it is smaller than a patch.
    """

    paper = "Zhu et al. 2017, arXiv:1703.10593"

    def __init__(self, config: CycleGANConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.domains = (config.domain_a, config.domain_b)
        self.to_a, self.to_b = Generator(config, size), Generator(config, size)
        self.judge_a, self.judge_b = Judge(config, size), Judge(config, size)
        self.history_a, self.history_b = History(config.history, size), History(config.history, size)

    @property
    def attributes(self) -> Sequence[str]:
        """The one or two attributes that define the domains."""
        return tuple(dict.fromkeys(read(domain)[0] for domain in self.domains))

    def groups(self, y: Tensor) -> Tensor:
        """0 for images of A only, 1 for images of B only, -1 for the rest; (N,) for y (N, A)."""
        in_a, in_b = ((y[:, self.attributes.index(name)] == has) for name, has in map(read, self.domains))
        return torch.where(in_a == in_b, -1, in_b.long())

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """The generators against the judges; each pair has one optimiser."""
        return {"generators": [self.to_a, self.to_b], "discriminators": [self.judge_a, self.judge_b]}

    def phases(self) -> Sequence[Phase]:
        """One step of both generators, then one of both judges on the same images."""
        return [
            Phase("generators", self.generators_loss),
            Phase("discriminators", self.discriminators_loss, fresh=False),
        ]

    def generators_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Fool the judges, return to the input after a cycle, and leave images of the target domain unchanged."""
        a, b = batch.x.chunk(2)
        # one call for both halves: no image's output depends on another's
        fake_b, same_b = self.to_b(torch.cat([a, b])).chunk(2)
        fake_a, same_a = self.to_a(torch.cat([b, a])).chunk(2)
        fooling = (self.judge_b(fake_b) - 1).square().mean() + (self.judge_a(fake_a) - 1).square().mean()
        cycle = (l1(self.to_a(fake_b), a) + l1(self.to_b(fake_a), b)).mean()
        identity = (l1(same_b, b) + l1(same_a, a)).mean()
        loss = fooling + self.config.cycle * (cycle + self.config.identity * identity)
        return loss, {"fooling": fooling.detach(), "cycle": cycle.detach(), "identity": identity.detach()}

    def discriminators_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Move real images to 1 and generated ones to 0, in both domains."""
        a, b = batch.x.chunk(2)
        with torch.no_grad():
            fake_a = self.history_a.exchange(self.to_a(b), step.generator)
            fake_b = self.history_b.exchange(self.to_b(a), step.generator)
        real_a, false_a = self.judge_a(torch.cat([a, fake_a])).chunk(2)
        real_b, false_b = self.judge_b(torch.cat([b, fake_b])).chunk(2)
        loss_a = 0.5 * ((real_a - 1).square().mean() + false_a.square().mean())
        loss_b = 0.5 * ((real_b - 1).square().mean() + false_b.square().mean())
        real, fake = torch.cat([real_a, real_b]), torch.cat([false_a, false_b])
        return loss_a + loss_b, {"d_real": real.detach().mean(), "d_fake": fake.detach().mean()}

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no code and no prior, because every image is made from another image."""
        return {
            Samples: "makes images from images, not from noise",
            Reconstructs: "comes back by way of the other domain, not of a code",
            Encodes: "has no code for an image",
            Decodes: "has no code for an image",
            **NO_DENSITY,
        }

    def translate(self, x: Tensor, to: int) -> Tensor:
        """F(x) for to = 0, G(x) for to = 1."""
        images: Tensor = (self.to_a, self.to_b)[to](x)
        return images

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """How far from x a cycle ends (the smaller distance, as x may belong to either domain), -D_A(x) and -D_B(x).

        The judges have only learned to tell training images from generated ones, so their scores are weak.
        """
        cycles = l1(self.to_a(self.to_b(x)), x), l1(self.to_b(self.to_a(x)), x)
        scores = {"cycle": torch.minimum(*cycles)}
        for name, judge in (("discriminator_a", self.judge_a), ("discriminator_b", self.judge_b)):
            scores[name] = -judge(x).mean((1, 2, 3))
        return scores

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layers of D_A and of D_B, one after the other."""
        return torch.cat([self.judge_a.features(x), self.judge_b.features(x)], dim=1)
