"""Models whose figures can be worked out by hand."""

import math

import numpy as np
import torch
from torch import nn

from visage.maths import noise
from visage.maths.pixels import dequantize, levels, quantization_nats
from visage.models.base import Bound, Encodes, GenerativeModel, HasBound, HasLogProb, Phase, Reconstructs, ScoresOod

SIZE = 16
DIMS = 3 * SIZE * SIZE


def make_images(n, seed, size=SIZE):
    """Smooth colour gradients, never quite black or white."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(20, 235, (n, 2, 2, 3))
    t = np.linspace(0, 1, size)[:, None]
    rows = corners[:, 0, None] * (1 - t)[..., None] + corners[:, 1, None] * t[..., None]
    images = rows[:, :, :1] * (1 - t)[None, None] + rows[:, :, 1:] * t[None, None]
    return images.round().astype(np.uint8)


FACES = make_images(24, seed=0)
GREY = np.repeat(make_images(10, seed=1)[..., :1] // 2, 3, axis=-1)


class Small(GenerativeModel):
    paper = "none"

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def players(self):
        return {"all": [self]}

    def phases(self):
        return [Phase("all", lambda batch, step: (self.weight.sum(), {}))]


class Uniform(Small):
    """All 256 values are equally likely."""

    def log_prob(self, x, generator):
        return torch.full((len(x),), -x[0].numel() * math.log(256), dtype=torch.float64)


class FactorisedLogistic(Small):
    """Every pixel of y01 is logistic around `mean` with scale `scale`."""

    mean, scale = 0.4, 0.1

    def log_prob(self, x, generator):
        y = dequantize(x, noise.rand(len(x), x.shape[1:], generator))
        s = (y - self.mean) / self.scale
        log_density = -s - math.log(self.scale) - 2 * nn.functional.softplus(-s)
        return log_density.flatten(1).sum(1) - quantization_nats(x[0].numel())


class Undecided(Small):
    """A likelihood that is not a number for the darkest images."""

    def log_prob(self, x, generator):
        mean = x.flatten(1).mean(1)
        return torch.where(mean == mean.min(), math.nan, mean)


class Identity(Small):
    def reconstruct(self, x):
        return x


class Brighter(Small):
    """Reconstructs every value `shift` levels too high."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def reconstruct(self, x):
        return x + 2 * self.shift / 255


def log_normal(x, mean, root):
    """Log-density of rows x of N(mean, root root^T), root lower triangular; torch.distributions takes 3 s to import."""
    white = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
    return -0.5 * (white.square().sum(0) + len(root) * math.log(2 * math.pi)) - root.diagonal().log().sum()


class LinearVAE(Small):
    """y01 = 1/2 + W z + sigma e: all capabilities; with the true posterior the bound is the likelihood."""

    path = "slerp"
    sigma, codes = 0.3, 4

    def __init__(self, dims=DIMS):
        super().__init__()
        w = torch.randn(dims, self.codes, generator=torch.Generator().manual_seed(3)).double()
        self.w = nn.Parameter(0.2 * w)

    def posterior(self, y):
        """Means (B, codes), and the root of the covariance that all images share."""
        covariance = torch.linalg.inv(torch.eye(self.codes) + self.w.T @ self.w / self.sigma**2)
        return (y - 0.5) @ self.w @ covariance / self.sigma**2, torch.linalg.cholesky(covariance)

    def bound(self, x, generator):
        shape = x[0].shape
        draws = [(noise.rand(1, shape, generator), noise.randn(1, (self.codes,), generator)) for _ in x]
        u, eps = (torch.cat(part) for part in zip(*draws, strict=True))
        y = dequantize(x.double(), u.double()).flatten(1)
        mean, root = self.posterior(y)
        z = mean + eps.double() @ root.T
        square = (y - 0.5 - z @ self.w.T).square().sum(1) / self.sigma**2
        log_likelihood = -0.5 * square - y.shape[1] * math.log(self.sigma * math.sqrt(2 * math.pi))
        prior = log_normal(z, torch.zeros(self.codes), torch.eye(self.codes).double())
        return Bound(quantization_nats(y.shape[1]) - log_likelihood, log_normal(z, mean, root) - prior)

    def log_weight(self, x, generator):
        return self.bound(x, generator).elbo  # its rate is sampled, not in closed form

    def log_density(self, y):
        """The exact marginal, by another way than the bound: the covariance of y."""
        covariance = self.w @ self.w.T + self.sigma**2 * torch.eye(len(self.w))
        return log_normal(y, 0.5, torch.linalg.cholesky(covariance))

    def encode(self, x):
        return self.posterior((levels(x.double()).flatten(1) + 0.5) / 256)[0].float()

    def prior(self, n, generator):
        return noise.randn(n, (self.codes,), generator)

    def decode(self, z):
        side = math.isqrt(len(self.w) // 3)
        y = 0.5 + z @ self.w.float().T
        return (2 * y - 1).clamp(-1, 1).view(-1, 3, side, side)

    def sample(self, n, generator):
        return self.decode(self.prior(n, generator))

    def reconstruct(self, x):
        return self.decode(self.encode(x))

    def ood_scores(self, x, generator):
        return {"length": self.encode(x).norm(dim=1), "darkness": -x.flatten(1).mean(1)}

    def why_not(self):
        return {HasLogProb: "bounded, not computed"}


class OnlySamples(Small):
    """Draws noise and can do nothing else, for a reason."""

    def sample(self, n, generator):
        return noise.rand(n, (3, SIZE, SIZE), generator) * 2 - 1

    def why_not(self):
        return {
            Reconstructs: "has no encoder",
            Encodes: "has no encoder",
            HasBound: "defines no density",
            HasLogProb: "defines no density",
            ScoresOod: "scores nothing",
        }


class Normalised(Small):
    """A score behind batch normalisation, which must not see the rest of the batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean += 0.3

    def ood_scores(self, x, generator):
        return {"norm": self.norm(x).square().flatten(1).mean(1)}


class Inpainter(Small):
    """Hides the first rows of each image, 2 to 5 of them, and fills them in 6 levels too high."""

    def inpaint(self, x, generator):
        hidden = torch.zeros_like(x[:, :1])
        for i in range(len(x)):
            hidden[i, :, : int(torch.randint(2, 6, (1,), generator=generator))] = 1
        return torch.where(hidden == 1, x + 6 / 127.5, x), hidden


class Versatile(Inpainter):
    """Everything that only some models can do, with answers that can be worked out by hand."""

    domains = ("not Smiling", "Smiling")
    guidance_scales = (0.0, 2.0)
    attributes = ("Smiling", "Bald")

    def groups(self, y):
        return torch.where(y[:, 1] == 1, -1, y[:, 0].long())  # bald faces are of neither kind

    def translate(self, x, to):
        return x + (20 if to else -16) / 127.5  # there and back again: 4 levels off

    def denoise(self, x, sigma):
        return torch.full_like(x, 2 * sigma / 5 - 1)  # grey, lighter where there is more noise

    def sample_given(self, y, generator):
        return self.sample_guided(y, generator, 0.0)

    def sample_guided(self, y, generator, w):
        noise_ = noise.rand(len(y), (1, SIZE, SIZE), generator)
        colours = torch.cat([y, torch.full((len(y), 1), w / 2)], dim=1)[:, :, None, None]
        return (2 * colours - 1) * 0.5 + 0.1 * noise_

    def variants(self):
        return {
            "dark": lambda n, g: torch.full((n, 3, SIZE, SIZE), -1.0),
            "light": lambda n, g: torch.ones(n, 3, 16, 16),
        }


class Laborious(Small):
    """An estimate of a uniform likelihood that takes many network calls."""

    likelihood_calls = 4
    asked = 0

    def estimate_log_prob(self, x, generator):
        self.asked += len(x)
        return torch.full((len(x),), -x[0].numel() * math.log(256), dtype=torch.float64)
