"""The variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114) and beta-VAE (Higgins et al. 2017, ICLR).

    minimise  E_q(z|x) [-log p(x|z)]  +  beta_t KL(q(z|x) || N(0, I))          nats per image, mean over the batch

    x  image                        `x`         z  code, z = mu + sigma * eps, eps ~ N(0, I)    `z`, `eps`
    q(z|x) = N(mu, diag sigma^2)    `Encoder`   p(x|z)  likelihood around the decoder's output  `Decoder`, likelihoods
    -log p(x|z)  distortion         KL          rate    (names of Alemi et al. 2018, arXiv:1711.00464)

At beta = 1 this is the negative ELBO (eq. 3 of the first paper, the KL term in closed form), at any other beta the
beta-VAE (eq. 4 of the second). What beta does depends on the likelihood's scale: for a fixed sigma, (beta, sigma^2) and
(1, beta * sigma^2) have the same minimisers, and a learned sigma absorbs part of beta. `bound` is the ELBO at any beta.

Where we deviate:

* Pixels are 8-bit integers. The Gaussian and the Laplace density are of y01 = (v + u) / 256 with fresh u ~ U[0, 1), and
  D log 256 nats are subtracted to bound the probability of the 8-bit image; q may condition on y01, so the encoder sees
  the same u. The discretized logistic is a distribution over the 256 values and needs neither. The Bernoulli surrogate
  of many implementations (binary cross-entropy with real targets) bounds nothing; it is included for comparison.
* Convolutions instead of the paper's perceptrons, with group normalisation. With batch normalisation an image's bound
  depends in training on the rest of its batch, so that the loss is no sum over images, and evaluation has other
  statistics than the loss had; there, it is a bound of each image alone, and as valid as any.
* Many implementations have other networks: kernels of 3, a smallest feature map of 2x2 or 8x8, batch normalisation or
  none, a sigmoid. `kernel`, `bottom`, `norm`, `slope`, `ending` and `output` lead there. Their sum of squared errors is
  a Gaussian's distortion with sigma^2 = 1/2, up to a constant: -log N(y; m, 1/2) = (y - m)^2 + log(pi) / 2.
* beta_t rises from 0 to beta over the first share `kl_warmup` of the training, so that codes do not remain unused.
* If `linear` is on, each network is a linear map plus convolutions that start at 0: mu(x) = V (x - m) + conv(x) and
  decoder(z) = W z + m + conv(z). With the convolutions at 0 this is probabilistic PCA (Tipping & Bishop 1999, J. R.
  Stat. Soc. B 61), the best linear VAE (Lucas et al. 2019, arXiv:1911.02469), which takes a second to find and which
  a short training of convolutions alone does not reach; they learn what it cannot do. With noise variance s and beta,
  images and their mirror images of mean m, principal axes U and variances L along them:

      W = U (L - beta s)^1/2        V = L^-1 W^T        sigma^2 = beta s / L

  and W = 0, sigma = 1 for axes along which images vary less than beta s: there, a code costs more than it is worth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le, Lt, MultipleOf
from torch import Tensor, nn

from visage.maths import noise, pixels
from visage.maths.likelihoods import (
    bernoulli_surrogate,
    discretized_logistic_log_prob,
    gaussian_log_density,
    laplace_log_density,
    sampled_standard_normal_kl,
    standard_normal_kl,
)
from visage.maths.principal import principal_axes
from visage.models.base import (
    LINEAR_IMAGES,
    Batch,
    Bound,
    GenerativeModel,
    HasBound,
    HasLogProb,
    ImportanceWeighted,
    Phase,
    Step,
)
from visage.nn.affine import Affine


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """The VAE's settings."""

    beta: Annotated[float, Ge(0)]  # weight of the KL divergence: 1 is the VAE, more the beta-VAE
    likelihood: Literal["gaussian", "laplace", "discretized_logistic", "bernoulli"]  # p(x|z)
    sigma: Annotated[float, Ge(0), Le(1)]  # scale of the Gaussian or Laplace density in y01; 0: one learned number
    latent_dim: Annotated[int, Ge(1)]  # dimensions of z
    width: Annotated[int, Ge(8), MultipleOf(8)]  # channels at half the image size; doubled at every halving
    max_width: Annotated[int, Ge(8), MultipleOf(8)]  # the limit of that doubling
    dropout: Annotated[float, Ge(0), Lt(1)]  # share of the activations zeroed after each block, in training
    activation: Literal["silu", "leaky_relu"]
    slope: Annotated[float, Ge(0), Lt(1)]  # of leaky_relu below 0
    norm: Literal["group", "batch", "none"]  # after each convolution of stride 2; group: 8 groups of channels
    kernel: Literal[3, 4]  # side of the kernels of convolutions of stride 2
    bottom: Literal[2, 4, 8]  # side of the smallest feature maps in pixels
    ending: Literal["convolution", "transposed", "cropped"]  # of the decoder: see there
    output: Literal["linear", "sigmoid"]  # how the decoder's last layer becomes the mean of a density of y01
    kl_warmup: Annotated[float, Ge(0), Le(1)]  # share of the training over which beta_t rises from 0; 0: it is beta
    linear: bool  # add fixed linear maps, those of principal components, to encoder and decoder

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        if self.sigma and self.likelihood in ("discretized_logistic", "bernoulli"):
            raise ValueError(f"sigma={self.sigma} has no meaning for likelihood={self.likelihood}: set sigma to 0")
        if 0 < self.sigma < SIGMA_MIN:
            raise ValueError(f"sigma={self.sigma} is finer than one of 256 levels: set it to 0 or {SIGMA_MIN} or more")
        if self.linear and self.likelihood != "gaussian":
            raise ValueError(
                f"linear=true has no meaning for likelihood={self.likelihood}, as principal components suit Gaussian "
                "noise: set linear to false"
            )
        if self.output == "sigmoid" and self.likelihood not in ("gaussian", "laplace"):
            raise ValueError(
                f"output=sigmoid has no meaning for likelihood={self.likelihood}, whose means are made from the "
                "decoder's output in its own way: set output to linear"
            )
        if self.output == "sigmoid" and self.linear:
            raise ValueError("output=sigmoid bends what linear=true adds to the decoder's output: set one of them off")
        if self.ending == "cropped" and self.kernel != 3:
            raise ValueError(f"ending=cropped leaves nothing to crop for kernel={self.kernel}: set kernel to 3")
        if self.max_width < self.width:
            raise ValueError(f"max_width={self.max_width} < width={self.width}: set it to {self.width} or more")


SIGMA_MIN = 1 / 256
"""The finest scale in y01: a density could otherwise grow without bound at pixels that are always the same."""
SIGMA_START = 0.1
"""The initial value of a learned sigma."""
SIGMA_SPEED = 10.0
"""How fast log sigma learns relative to a weight: Adam moves both by about lr per step, but it moves further."""
LOGVAR = (-10.0, 10.0)
"""The bounds of log sigma^2 of q."""
REGRET_STEPS, REGRET_RATE = 30, 0.1
"""The number of Adam steps that fit q(z|x) to one image, and their learning rate."""


# --- Likelihoods: the form in which q and p(x|z) see an image, its likelihood given the decoder's output h, the mean


class Density(nn.Module):
    """A density of y01 around (h + 1) / 2, with one scale for all pixels."""

    channels = 3
    shift: Tensor

    def __init__(self, log_density: Callable[[Tensor, Tensor, Tensor], Tensor], sigma: float) -> None:
        super().__init__()
        self.log_density = log_density
        self.start = math.log(sigma or SIGMA_START)
        if sigma:
            self.register_buffer("shift", torch.zeros(()))
        else:
            self.shift = nn.Parameter(torch.zeros(()))

    def log_sigma(self) -> Tensor:
        """Log of the current scale, a scalar."""
        return (self.start + SIGMA_SPEED * self.shift).clamp(min=math.log(SIGMA_MIN))

    def variance(self) -> Tensor:
        """The square of the current scale, a scalar, in the unit of h."""
        return (2 * self.log_sigma().exp()).square()

    def set_variance(self, variance: Tensor) -> None:
        """Make a learned scale the root of this variance, in the unit of h, or the smallest one that is allowed."""
        log_sigma = (0.5 * variance.log() - math.log(2)).clamp(min=math.log(SIGMA_MIN))
        self.shift.fill_((log_sigma - self.start) / SIGMA_SPEED)

    def squared_error(self, distortion: Tensor, dims: int) -> Tensor:
        """The sum of squared errors in y01 that a Gaussian's distortion of so many dimensions stands for."""
        nats = distortion - pixels.quantization_nats(dims) - dims * (self.log_sigma() + 0.5 * math.log(2 * math.pi))
        return 2 * (2 * self.log_sigma()).exp() * nats

    def observe(self, x: Tensor, u: Tensor) -> Tensor:
        """y01, stretched to [-1, 1) for the encoder, of x in [-1, 1] and u in [0, 1), all (B, 3, S, S)."""
        return 2 * pixels.dequantize(x, u) - 1

    def log_prob(self, seen: Tensor, h: Tensor) -> Tensor:
        """Bound on log P(8-bit image | z), (B,), for `seen` as `observe` gives it and h (B, 3, S, S)."""
        log_density = self.log_density((seen + 1) / 2, (h + 1) / 2, self.log_sigma())
        return log_density.sum((1, 2, 3)) - pixels.quantization_nats(h[0].numel())

    def mean(self, h: Tensor) -> Tensor:
        """x11 of the value v = 256 y01 - 1/2 whose dequantised values have the decoder's mean, clamped to [-1, 1]."""
        return pixels.from_middle((h + 1) / 2).clamp(-1, 1)


class DiscretizedLogistic(nn.Module):
    """A probability for each of the 256 values; h holds mean and log scale of every pixel in x11."""

    channels = 6

    def observe(self, x: Tensor, u: Tensor) -> Tensor:
        """The 8-bit image itself."""
        return x

    def log_prob(self, seen: Tensor, h: Tensor) -> Tensor:
        """Log P(8-bit image | z), (B,), for h (B, 6, S, S)."""
        mean, log_scale = h.chunk(2, dim=1)
        return discretized_logistic_log_prob(seen, mean, log_scale.clamp(-7, 2)).sum((1, 2, 3))

    def mean(self, h: Tensor) -> Tensor:
        """The logistic's mean, clamped to [-1, 1]."""
        return h[:, :3].clamp(-1, 1)


class BernoulliSurrogate(DiscretizedLogistic):
    """Cross-entropy between x01 and sigmoid(h), which is not a likelihood of real-valued pixels."""

    channels = 3

    def log_prob(self, seen: Tensor, h: Tensor) -> Tensor:
        """Minus the cross-entropy, (B,), in place of log p(x | z), for h (B, 3, S, S)."""
        return bernoulli_surrogate((seen + 1) / 2, h).sum((1, 2, 3))

    def mean(self, h: Tensor) -> Tensor:
        """The expected pixel in [-1, 1]."""
        return 2 * torch.sigmoid(h) - 1


def likelihood(config: VAEConfig) -> Density | DiscretizedLogistic:
    """p(x|z) as configured."""
    match config.likelihood:
        case "gaussian":
            return Density(gaussian_log_density, config.sigma)
        case "laplace":
            return Density(laplace_log_density, config.sigma)
        case "discretized_logistic":
            return DiscretizedLogistic()
        case "bernoulli":
            return BernoulliSurrogate()


# --- Networks


def widths(config: VAEConfig, size: int) -> list[int]:
    """Channels after each halving, from size / 2 down to `bottom` pixels."""
    bottom = config.bottom
    if size < 4 * bottom or size & (size - 1):
        raise ValueError(
            f"size {size}: the VAE halves images down to {bottom} pixels, choose a power of two from {4 * bottom} on"
        )
    return [min(config.width << i, config.max_width) for i in range(size.bit_length() - bottom.bit_length())]


def block(conv: nn.Conv2d | nn.ConvTranspose2d, config: VAEConfig) -> nn.Sequential:
    """Convolution, normalisation, activation, dropout."""
    match config.norm:
        case "group":
            norm: nn.Module = nn.GroupNorm(8, conv.out_channels)
        case "batch":
            norm = nn.BatchNorm2d(conv.out_channels)
        case "none":
            norm = nn.Identity()
    activation = nn.SiLU() if config.activation == "silu" else nn.LeakyReLU(config.slope)
    return nn.Sequential(conv, norm, activation, nn.Dropout(config.dropout))


class Encoder(nn.Module):
    """q(z|x): (B, 3, S, S) to mu and log sigma^2, each (B, latent_dim)."""

    def __init__(self, config: VAEConfig, size: int) -> None:
        super().__init__()
        outs = widths(config, size)
        ins = [3, *outs[:-1]]
        bias = config.norm == "none"  # a normalisation would subtract it again
        convs = [nn.Conv2d(i, o, config.kernel, 2, 1, bias=bias) for i, o in zip(ins, outs, strict=True)]
        self.down = nn.Sequential(*(block(conv, config) for conv in convs))
        self.head = nn.Linear(outs[-1] * config.bottom**2, 2 * config.latent_dim)
        self.linear = Affine(3 * size * size, config.latent_dim) if config.linear else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and log sigma^2 in float32."""
        mu, logvar = self.head(self.down(x).flatten(1)).float().chunk(2, dim=1)
        if self.linear is not None:
            mu = mu + self.linear(x.flatten(1))
        return mu, logvar.clamp(*LOGVAR)


def doubling(ins: int, outs: int, config: VAEConfig, *, first: bool = False, bias: bool = False) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles sides; `first`: those of the smallest feature maps."""
    cropped = config.ending == "cropped"
    return nn.ConvTranspose2d(
        ins,
        outs,
        config.kernel,
        stride=2,
        padding=0 if cropped and first else 1,
        output_padding=1 if config.kernel == 3 and not cropped else 0,
        bias=bias or config.norm == "none",
    )


class Decoder(nn.Module):
    """(B, latent_dim) to the likelihood's parameters h, (B, channels, S, S).

    Transposed convolutions double the side, in blocks like the encoder's. What comes last, without normalisation and
    activation, is a convolution at the image's size, or else (`transposed`, `cropped`) the last of the transposed ones.
    To make 2 n of n, one with a kernel of 3 has one more row and column at the end. With `cropped` none has: the first
    one, without padding, makes 2 n + 1 of n, the others 2 n - 1, which is 8, 17, 33, 65, 129 for images of 128 pixels,
    and the last row and column are cut off.
    """

    def __init__(self, config: VAEConfig, size: int, channels: int) -> None:
        super().__init__()
        self.size, self.sigmoid = size, config.output == "sigmoid"
        ins = widths(config, size)[::-1]
        self.stem = nn.Linear(config.latent_dim, ins[0] * config.bottom**2)
        convs = [doubling(i, o, config, first=k == 0) for k, (i, o) in enumerate(pairwise(ins))]
        if config.ending == "convolution":
            convs.append(doubling(ins[-1], config.width, config))
            end: nn.Module = nn.Conv2d(config.width, channels, 3, padding=1)
        else:
            end = doubling(ins[-1], channels, config, bias=True)
        self.up = nn.Sequential(
            nn.Unflatten(1, (ins[0], config.bottom, config.bottom)), *(block(conv, config) for conv in convs), end
        )
        self.linear = Affine(config.latent_dim, channels * size * size) if config.linear else None

    def forward(self, z: Tensor) -> Tensor:
        """Return h in float32."""
        h: Tensor = self.up(self.stem(z)).float()[..., : self.size, : self.size]
        if self.sigmoid:
            h = 2 * torch.sigmoid(h) - 1
        return h if self.linear is None else h + self.linear(z).view_as(h)


# --- The model


class VAE(GenerativeModel):
    """The VAE, or the beta-VAE if beta is not 1.

    Raises:
        ValueError: size is not a power of two, or less than 16.
    """

    paper = "Kingma & Welling 2014, arXiv:1312.6114; beta: Higgins et al. 2017, ICLR"
    slow_ood_calls = 3 * (REGRET_STEPS + 1)  # each step runs the decoder, half of the network, with two codes
    path: ClassVar[Literal["lerp", "slerp"]] = "lerp"  # means of q lie inside the sphere of the prior's draws

    def __init__(self, config: VAEConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.likelihood = likelihood(config)
        if config.linear:
            self.initial_images = LINEAR_IMAGES
        self.encoder = Encoder(config, size)
        self.decoder = Decoder(config, size, self.likelihood.channels)

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Set the linear maps, if there are any, from the principal components of the images, and all else to match.

        A learned sigma^2 becomes the mean variance along the axes that z leaves out, where the likelihood is highest.
        """
        if not isinstance(self.likelihood, Density) or self.encoder.linear is None or self.decoder.linear is None:
            return
        seen = self.likelihood.observe(batch.x, torch.full_like(batch.x, 0.5))
        found = principal_axes(seen, self.config.latent_dim)
        if not self.config.sigma:
            self.likelihood.set_variance(found.rest)
        s = self.config.beta * self.likelihood.variance()
        variances = found.variances.maximum(s).clamp(min=torch.finfo(s.dtype).tiny)  # without beta, s is 0
        W = found.axes * (variances - s).sqrt()
        V = (W / variances).T
        self.encoder.linear.set(V, -V @ found.mean)
        self.decoder.linear.set(W, found.mean)
        for parameter in (*self.encoder.head.parameters(), *self.decoder.up[-1].parameters()):
            parameter.zero_()
        self.encoder.head.bias[self.config.latent_dim :] = (s / variances).log().clamp(min=LOGVAR[0])

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """One player, since nothing here competes."""
        return {"autoencoder": [self.encoder, self.decoder, self.likelihood]}

    def phases(self) -> Sequence[Phase]:
        """One step on the (weighted) negative ELBO."""
        return [Phase("autoencoder", self.loss)]

    def beta(self, step: Step) -> float:
        """beta_t, which depends only on the step, so that a resumed training continues it."""
        ramp = self.config.kl_warmup * step.total
        return self.config.beta * (min(1.0, step.index / ramp) if ramp else 1.0)

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion + beta_t rate, summed over dimensions, mean over the batch."""
        x, beta = batch.x, self.beta(step)
        u = noise.uniform(x.shape, step.generator, x.device)
        eps = noise.normal((len(x), self.config.latent_dim), step.generator, x.device)
        parts = self.parts(x, u, eps)
        distortion, rate = parts.distortion.mean(), parts.rate.mean()
        terms = {"distortion": distortion, "rate": rate, "beta": torch.full_like(rate, beta)}
        if HasBound not in self.why_not():
            terms["elbo"] = -distortion - rate
        if isinstance(self.likelihood, Density):
            terms["sigma"] = self.likelihood.log_sigma().exp()
            if self.config.likelihood == "gaussian" and self.config.sigma:
                terms["squared_error"] = self.likelihood.squared_error(distortion, x[0].numel())
        return distortion + beta * rate, {name: term.detach() for name, term in terms.items()}

    def parts(self, x: Tensor, u: Tensor, eps: Tensor) -> Bound:
        """Distortion and rate of each image, for u (B, 3, S, S) in [0, 1) and eps (B, latent_dim) from N(0, I)."""
        seen = self.likelihood.observe(x, u)
        mu, logvar = self.encoder(seen)
        return self.around(seen, mu, logvar, eps)

    def around(self, seen: Tensor, mu: Tensor, logvar: Tensor, eps: Tensor) -> Bound:
        """The same for any q = N(mu, exp(logvar)), (B, latent_dim) each, and images as p(x|z) observes them."""
        z = mu + torch.exp(0.5 * logvar) * eps
        distortion = -self.likelihood.log_prob(seen, self.decoder(z))
        return Bound(distortion, standard_normal_kl(mu, logvar).sum(1))

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no exact likelihood, and with the Bernoulli surrogate no bound either."""
        reasons: dict[type, str] = {HasLogProb: "a VAE bounds log p(x), it does not compute it"}
        if self.config.likelihood == "bernoulli":
            nothing = "the Bernoulli surrogate is no density on real-valued pixels, so it bounds nothing"
            reasons |= {HasBound: nothing, ImportanceWeighted: nothing}
        return reasons

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Codes z ~ N(0, I), (n, latent_dim)."""
        return noise.randn(n, (self.config.latent_dim,), generator, self.decoder.stem.weight.device)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x|z)."""
        return self.likelihood.mean(self.decoder(z))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Means of p(x|z), without the decoder's noise, for z from the prior."""
        return self.decode(self.prior(n, generator))

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(z|x), where a density's u is its mean, 1/2."""
        mu: Tensor = self.encoder(self.likelihood.observe(x, torch.full_like(x, 0.5)))[0]
        return mu

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) at the mean of q(z|x)."""
        return self.decode(self.encode(x))

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """The ELBO of the 8-bit images from one draw of u and z, at beta = 1 whatever beta the training uses."""
        return self.parts(x, *self.draws(x, generator))

    def draws(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw u (B, 3, S, S) from U[0, 1) and eps (B, latent_dim) from N(0, I), image by image."""
        code = (self.config.latent_dim,)
        draws = [(noise.rand(1, x.shape[1:], generator), noise.randn(1, code, generator)) for _ in x]
        u, eps = (torch.cat(part).to(x.device) for part in zip(*draws, strict=True))
        return u, eps

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """-distortion - log q(z|x) / p(z) at one z; the bound has the expectation of the second term instead."""
        u, eps = self.draws(x, generator)
        seen = self.likelihood.observe(x, u)
        mu, logvar = self.encoder(seen)
        rate = sampled_standard_normal_kl(mu, logvar, eps).sum(1)
        return -self.around(seen, mu, logvar, eps).distortion - rate

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The rate, preceded by the cross-entropy where there is no bound to compare."""
        if HasBound in self.why_not():
            parts = self.bound(x, generator)
            return {"bce": parts.distortion, "kl": parts.rate}
        u = noise.rand(len(x), x.shape[1:], generator, x.device)
        return {"kl": standard_normal_kl(*self.encoder(self.likelihood.observe(x, u))).sum(1)}

    def slow_ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Likelihood regret (Xiao et al. 2020, arXiv:2003.02977) in its variant LR_z, in nats, at least 0.

        This is how much the ELBO rises when q(z|x) is fitted to one image with the decoder fixed: the highest ELBO
        along the way minus that of the encoder's q. Both use the same u and the same noise in z, random signs and their
        opposites, which have the mean and variances of N(0, I). Normal draws would let q exploit values of eps near 0.
        """
        u, eps = self.draws(x, generator)
        signs, seen = eps.sign(), self.likelihood.observe(x, u)
        mu, logvar = (part.detach().requires_grad_() for part in self.encoder(seen))
        adam, elbos = torch.optim.Adam([mu, logvar], REGRET_RATE), []
        with torch.enable_grad():
            for _ in range(REGRET_STEPS + 1):
                elbo = 0.5 * (self.around(seen, mu, logvar, signs).elbo + self.around(seen, mu, logvar, -signs).elbo)
                elbos.append(elbo.detach())
                mu.grad, logvar.grad = torch.autograd.grad(-elbo.sum(), (mu, logvar))  # parameters get none
                adam.step()
        return {"regret": torch.stack(elbos).amax(0) - elbos[0]}
