"""Log-likelihoods of 8-bit images: exact up to dequantisation, bounded from below, or estimated."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.inference.batches import batches
from visage.maths.streams import torch_generator
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
    """

    nats: NDArray[np.float64]
    kind: Literal["exact", "upper_bound", "estimate"]
    parts: dict[str, NDArray[np.float64]]

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
    if isinstance(model, HasLogProb) and can(model, HasLogProb):
        log_prob = model.log_prob
        return Likelihood(
            _mean(lambda x, g: (log_prob(x, g),), images, draws, seed, device, batch_size)[0], "exact", {}
        )
    if isinstance(model, HasBound) and can(model, HasBound):
        model_bound = model.bound

        def terms(x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
            bound = model_bound(x, generator)
            return bound.elbo, bound.distortion, bound.rate

        means = _mean(terms, images, draws, seed, device, batch_size)
        return Likelihood(means[0], "upper_bound", dict(zip(("elbo", "distortion", "rate"), means, strict=True)))
    if isinstance(model, EstimatesLogProb) and can(model, EstimatesLogProb):
        estimate = model.estimate_log_prob
        means = _mean(lambda x, g: (estimate(x, g),), images, draws, seed, device, batch_size)
        return Likelihood(means[0], "estimate", {})
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
    generators = [torch_generator(seed, f"importance {draw}") for draw in range(draws)]
    columns = [
        torch.stack([weight(x, generator).cpu().double() for generator in generators])
        for x in batches(images, batch_size, device)
    ]
    nats, effective = tightened(torch.cat(columns, dim=1))
    return Tightened(nats.numpy(), effective.numpy(), kind, draws, what)


def tightened(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean weight, (n,), and the number of effective draws, (n,), for log w (K, n) in float64."""
    total = log_weights.logsumexp(0)
    return total - math.log(len(log_weights)), (2 * total - (2 * log_weights).logsumexp(0)).exp()


def _mean(
    terms: Callable[[Tensor, torch.Generator], tuple[Tensor, ...]],
    images: NDArray[np.uint8],
    draws: int,
    seed: int,
    device: torch.device,
    batch_size: int,
) -> NDArray[np.float64]:
    """Means over the draws of each of T terms, (T, n)."""
    generators = [torch_generator(seed, f"likelihood {draw}") for draw in range(draws)]
    columns = []
    for x in batches(images, batch_size, device):
        drawn = torch.stack([torch.stack(terms(x, generator)) for generator in generators])
        columns.append(drawn.cpu().double().mean(0))
    return torch.cat(columns, dim=1).numpy()
