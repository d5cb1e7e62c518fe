"""Moving average of a model's weights."""

import copy

import torch

from visage.models.base import GenerativeModel


class Ema:
    """A shadow of the model whose parameters follow w <- d w + (1 - d) w_model; it has the model's own buffers.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the initial weights are soon forgotten (a fixed 0.9999
    would keep 96 % of them after 400 steps). decay = 0 makes the shadow equal to the model. As buffers are shared, the
    averaged weights run with the newest statistics of batch normalisation, themselves averages over about ten steps,
    and large ones, such as principal axes, are neither held nor copied twice.
    """

    def __init__(self, model: GenerativeModel, decay: float) -> None:
        shared = {id(buffer): buffer for buffer in model.buffers()}
        self.model = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: GenerativeModel, n: int) -> None:
        """Follow the model after its n-th update, n = 0, 1, ..."""
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
