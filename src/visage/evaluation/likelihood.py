"""Log-likelihoods of 8-bit images, exact up to dequantisation or bounded from below."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.evaluation.batches import batches, torch_generator
from visage.maths.units import bits_per_dim
from visage.models.base import GenerativeModel, HasBound, HasLogProb, can


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Per-image log-likelihoods in nats of the 8-bit image, (n,) each.

    nats: log P(image), or a lower bound on it.
    kind: of the bits per dimension that follow from it. "exact": the density of the dequantised image is computed, not
        bounded; what remains is uniform dequantisation, a bound itself. "upper_bound": from a lower bound on log P.
    parts: of a bound: "elbo", "distortion" and "rate", elbo = -distortion - rate; empty otherwise.
    """

    nats: NDArray[np.float64]
    kind: Literal["exact", "upper_bound"]
    parts: dict[str, NDArray[np.float64]]

    def bits_per_dim(self, dims: int) -> NDArray[np.float64]:
        """The same, (n,), in the unit of tables; dims: D = 3 * S * S."""
        bits: NDArray[np.float64] = bits_per_dim(torch.from_numpy(self.nats), dims).numpy()
        return bits

    @property
    def note(self) -> str:
        """What the kind means, for a table."""
        if self.kind == "exact":
            return "exact density, up to uniform dequantisation"
        return "from the variational bound (ELBO)"


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
    neither compute nor bound a likelihood. The model is in eval mode, gradients are off.
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
    return None


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
