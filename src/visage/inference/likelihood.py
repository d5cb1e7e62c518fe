"""Log-likelihoods of 8-bit images: exact up to dequantisation, bounded from below, or estimated."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.inference.batches import answers, noticing, per_image
from visage.inference.chunks import Draws
from visage.maths.units import bits_per_dim
from visage.models.base import EstimatesLogProb, GenerativeModel, HasBound, HasLogProb, ImportanceWeighted, can

NOTES = {
    "exact": "exact density, up to uniform dequantisation",
    "upper_bound": "from the variational bound (ELBO)",
    "estimate": "by the probability-flow ODE: up to its solver, random probes and uniform dequantisation",
}


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Per-image log-likelihoods in nats of the 8-bit image, (n,) each.

    nats: log P(image), or a lower bound on it.
    kind: of the bits per dimension that follow from it. "exact": the density of the dequantised image is computed, not
        bounded; what remains is uniform dequantisation, a bound itself. "upper_bound": from a lower bound on log P.
        "estimate": neither (a numerical solver and random probes stand behind it).
    parts: of a bound: "elbo", "distortion" and "rate", elbo = -distortion - rate; empty otherwise.
    random: whether random draws are part of them: of a code, of noise, or of what dequantises the image.
    """

    nats: NDArray[np.float64]
    kind: Literal["exact", "upper_bound", "estimate"]
    parts: dict[str, NDArray[np.float64]]
    random: bool

    def bits_per_dim(self, dims: int) -> NDArray[np.float64]:
        """The same, (n,), in the unit of tables; dims: D = 3 * S * S."""
        bits: NDArray[np.float64] = bits_per_dim(torch.from_numpy(self.nats), dims).numpy()
        return bits

    @property
    def note(self) -> str:
        """What the kind means, for a table."""
        return NOTES[self.kind]


def log_likelihood(
    model: GenerativeModel,
    images: NDArray[np.uint8],
    *,
    draws: int,
    seed: int,
    device: torch.device,
    batch_size: int,
) -> Likelihood | None:
    """Log-likelihoods of (n, S, S, 3) uint8 images, the mean over `draws` of the model's noise.

    Image i sees the same noise whatever the batch size, and whichever images it stands among. None where the model can
    neither compute, bound nor estimate a likelihood. The model is in eval mode, gradients are off.
    """
    streams = Draws(seed, [f"likelihood {draw}" for draw in range(draws)])

    def means(terms: Callable[[Tensor, torch.Generator], Tensor]) -> tuple[NDArray[np.float64], bool]:
        """Means over the draws, (..., n), of `terms`: images, generator -> (..., B); and whether they drew anything."""

        def ask(x: Tensor, *generators: torch.Generator) -> Tensor:
            return torch.stack([terms(x, generator) for generator in generators]).cpu().double().mean(0)

        parts, drew = zip(*answers(noticing(ask), images, batch_size, device, streams), strict=True)
        return torch.cat(parts, dim=-1).numpy(), any(drew)

    if isinstance(model, HasLogProb) and can(model, HasLogProb):
        nats, random = means(model.log_prob)
        return Likelihood(nats, "exact", {}, random)
    if isinstance(model, HasBound) and can(model, HasBound):
        bound = model.bound

        def terms(x: Tensor, generator: torch.Generator) -> Tensor:
            found = bound(x, generator)
            return torch.stack([found.elbo, found.distortion, found.rate])

        parts, random = means(terms)
        return Likelihood(
            parts[0], "upper_bound", dict(zip(("elbo", "distortion", "rate"), parts, strict=True)), random
        )
    if isinstance(model, EstimatesLogProb) and can(model, EstimatesLogProb):
        nats, random = means(model.estimate_log_prob)
        return Likelihood(nats, "estimate", {}, random)
    return None


@dataclass(frozen=True, slots=True)
class Tightened:
    """Importance-weighted log-likelihoods of n images from K draws each.

    nats: log (1/K) sum_k w_k, (n,), nats per 8-bit image: between the bound and log P.
    effective: (sum w)^2 / sum w^2, (n,) in [1, K]: how many draws really count.
    kind: that of the bits per dimension that follow.
    draws: K. what: that was drawn.
    """

    nats: NDArray[np.float64]
    effective: NDArray[np.float64]
    kind: Literal["exact", "upper_bound"]
    draws: int
    what: str

    def bits_per_dim(self, dims: int) -> NDArray[np.float64]:
        """The same, (n,), in the unit of tables; dims: D = 3 * S * S."""
        bits: NDArray[np.float64] = bits_per_dim(torch.from_numpy(self.nats), dims).numpy()
        return bits

    @property
    def note(self) -> str:
        """How it came about, and how far it can be trusted to be tight, for a table."""
        median = float(np.median(self.effective))
        loose = "; loose" if median < EFFECTIVE else ""
        return f"{self.draws} draws of {self.what} per image, {median:.1f} of them effective (median){loose}"


EFFECTIVE = 5
"""With fewer effective draws one lucky draw decides, and more draws would still tighten the bound."""


def importance_weighted(
    model: GenerativeModel,
    images: NDArray[np.uint8],
    *,
    draws: int,
    seed: int,
    device: torch.device,
    batch_size: int,
) -> Tightened | None:
    """Tighten a bound by averaging its weights before the logarithm, not after.

    Over the latent variable this is the IWAE (Burda et al. 2016, arXiv:1509.00519, eq. 8), over a flow's uniform noise
    importance-weighted dequantisation (Hoogeboom et al. 2020, arXiv:2001.11235). None where the model has neither.
    """
    kind: Literal["exact", "upper_bound"]
    if isinstance(model, HasLogProb) and can(model, HasLogProb):
        weight, kind, what = model.log_prob, "exact", "the dequantisation noise"
    elif isinstance(model, ImportanceWeighted) and can(model, ImportanceWeighted):
        weight, kind, what = model.log_weight, "upper_bound", "the latent code"
    else:
        return None
    weights = per_image(
        lambda x, *generators: torch.stack([weight(x, generator).cpu() for generator in generators]),
        images,
        batch_size,
        device,
        Draws(seed, [f"importance {draw}" for draw in range(draws)]),
    )
    nats, effective = tightened(torch.from_numpy(weights))
    return Tightened(nats.numpy(), effective.numpy(), kind, draws, what)


def tightened(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean weight, (n,), and the number of effective draws, (n,), for log w (K, n) in float64."""
    total = log_weights.logsumexp(0)
    return total - math.log(len(log_weights)), (2 * total - (2 * log_weights).logsumexp(0)).exp()
