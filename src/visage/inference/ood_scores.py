"""Scores by which a model tells faces from other images: its own, and the gradient of its likelihood."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.inference.batches import answers, noticing
from visage.inference.chunks import Draws
from visage.models.base import GenerativeModel, ScoresOod, can


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model answers about n images: name -> (n,). random: whether random draws are part of it."""

    scores: Mapping[str, NDArray[np.float64]]
    random: bool = False


def ask_scores(
    score: Callable[[Tensor, torch.Generator], Mapping[str, Tensor]],
    images: NDArray[np.uint8],
    *,
    stream: str,
    seed: int,
    device: torch.device,
    batch_size: int,
) -> Asked:
    """Ask for scores of (n, S, S, 3) uint8 images, n >= 1.

    score: (B, 3, S, S), generator -> name -> (B,). stream: the name of the random numbers that it draws.
    """

    def ask(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: values.cpu().double() for name, values in score(x, generator).items()}

    parts, drew = zip(*answers(noticing(ask), images, batch_size, device, Draws(seed, [stream])), strict=True)
    return Asked({name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}, any(drew))


def own_scores(
    model: GenerativeModel, images: NDArray[np.uint8], *, seed: int, device: torch.device, batch_size: int
) -> Asked:
    """The model's own scores of (n, S, S, 3) uint8 images; none where it has none."""
    if not (isinstance(model, ScoresOod) and can(model, ScoresOod)):
        return Asked({})
    return ask_scores(model.ood_scores, images, stream="own scores", seed=seed, device=device, batch_size=batch_size)


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
