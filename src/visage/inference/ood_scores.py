"""Scores by which a model tells faces from other images: its own, and the gradient of its likelihood."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.inference.batches import batches
from visage.maths.streams import torch_generator
from visage.models.base import GenerativeModel, ScoresOod, can


def own_scores(
    model: GenerativeModel, images: NDArray[np.uint8], *, seed: int, device: torch.device, batch_size: int
) -> dict[str, NDArray[np.float64]]:
    """Score -> (n,) of the model's own scores for (n, S, S, 3) uint8 images; empty where it has none."""
    if not (isinstance(model, ScoresOod) and can(model, ScoresOod)):
        return {}
    generator = torch_generator(seed, "own scores")
    parts = [model.ood_scores(x, generator) for x in batches(images, batch_size, device)]
    return {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}


def gradient_norm(log_likelihood: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Euclidean norm of d log p(x) / d x of each image, (B,), from one pass back for the batch, even under `no_grad`.

    Faces lie near a mode, where it is small (Grathwohl et al. 2020, arXiv:1912.03263).

    log_likelihood: x (B, ...) -> (B,), in which an image's value does not depend on the others.

    NaN where the gradient is exactly 0: log_likelihood then ignores x or rounds it, and the norm would mean nothing.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        total = log_likelihood(x).sum() + 0 * x.sum()  # one that ignores x has a gradient too, 0
        (gradient,) = torch.autograd.grad(total, x)
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norm.where(norm > 0, math.nan)
