"""Walks between latent codes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.maths.latents import lerp, slerp
from visage.maths.pixels import to_uint8
from visage.models.base import Decodes


def strips(model: Decodes, start: Tensor, end: Tensor, steps: int) -> NDArray[np.uint8]:
    """Images decoded at equal steps from each code of `start` to its partner in `end`, on the model's own path.

    start, end: (rows, latent_dim). Returns (rows * steps, S, S, 3) uint8, row by row, both ends included.
    """
    walk = {"lerp": lerp, "slerp": slerp}[model.path]
    codes = torch.stack([walk(start, end, t) for t in torch.linspace(0, 1, steps).tolist()], dim=1)
    images = [to_uint8(model.decode(row)).cpu() for row in codes]
    return torch.cat(images).numpy()
