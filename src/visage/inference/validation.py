"""The measure by which training chooses the weights to keep."""

import numpy as np
import torch
from numpy.typing import NDArray

from visage.inference.likelihood import log_likelihood
from visage.models.base import GenerativeModel


@torch.no_grad()
def validation_bits_per_dim(
    model: GenerativeModel, images: NDArray[np.uint8], seed: int, device: torch.device, batch_size: int = 64
) -> float | None:
    """Mean bits per dimension of (N, S, S, 3) uint8 images from one draw of noise, the same at every call.

    None where the model has no likelihood and no bound, one that takes too many network calls to be asked for during
    training, or one that its weights should not be chosen by. The model is in eval mode.
    """
    if model.likelihood_calls > 1 or not model.chosen_by_likelihood:
        return None
    likelihood = log_likelihood(model, images, draws=1, seed=seed, device=device, batch_size=batch_size)
    if likelihood is None:
        return None
    return float(likelihood.bits_per_dim(images[0].size).mean())
