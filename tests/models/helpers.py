"""What the tests of several models share: seeded noise, small images, exact networks, and a bare training loop."""

import math
from itertools import pairwise

import torch
from torch import nn

from visage.maths import diffusion, pixels
from visage.models import base

FOUR = diffusion.alpha_bars(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
"""abar_0..abar_4 of a diffusion short enough to work out by hand."""


def generator(seed=2):
    return torch.Generator().manual_seed(seed)


def step(seed=2, index=0, total=100):
    return base.Step(index, total, generator(seed))


# --- Images


def uniform(n=16, size=16, seed=1):
    """Images of independent pixels in [-1, 1]."""
    return 2 * torch.rand(n, 3, size, size, generator=generator(seed)) - 1


def smooth(n=4, size=16, seed=1):
    """Smooth 8-bit images in [-1, 1], from which there is something to learn."""
    coarse = torch.rand(n, 3, 4, 4, generator=generator(seed))
    images = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return pixels.to_float((255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())


def gaussian(n, s, size=16, seed=1):
    """Draws of N(0, s^2 I), float64."""
    return s * torch.randn(n, 3, size, size, dtype=torch.float64, generator=generator(seed))


def rounded(x):
    """The nearest 8-bit values of x in [-1, 1]."""
    return ((x + 1) * 127.5).round() / 127.5 - 1


def portraits(n=400, axes=12, decay=0.8, size=16):
    """Images of a few strong axes and some noise, float64, with their mirror images more than they have dimensions."""
    g, dims = generator(5), 3 * size * size
    basis = torch.linalg.qr(torch.randn(dims, axes, generator=g)).Q
    codes = torch.randn(n, axes, generator=g) * 6 * decay ** torch.arange(axes)
    x = (codes @ basis.T + 0.02 * torch.randn(n, dims, generator=g)).double()
    return rounded((x - 0.1).clamp(-1, 1)).reshape(n, 3, size, size)


def unlabelled(x):
    return base.Batch(x, torch.zeros(len(x), 0))


def batch(n=16, size=16):
    return unlabelled(uniform(n, size))


# --- Training


def parameters(m, player):
    return [p for module in m.players()[player] for p in module.parameters()]


def train(m, batches, players=(), lr=2e-3, betas=(0.5, 0.999)):
    """Minimise the phases of these players (all by default), lazy ones excepted, with one batch per iteration.

    Returns player -> the terms of its last loss, and the loss itself as "loss".
    """
    optimizers = {player: torch.optim.Adam(parameters(m, player), lr, betas) for player in players or m.players()}
    g, terms = generator(0), {}
    for i, images in enumerate(batches):
        for phase in m.phases():
            if phase.player in optimizers and phase.every == 1:
                loss, named = phase.loss(images, base.Step(i, len(batches), g))
                weights = parameters(m, phase.player)
                for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                    weight.grad = gradient
                optimizers[phase.player].step()
                phase.after()
                terms[phase.player] = named | {"loss": loss.detach()}
    return terms


def inputs_of(module):
    """A list that fills with the positional inputs of every call of the module."""
    calls = []
    module.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    return calls


def outputs_of(module):
    """A list that fills with the output of every call of the module."""
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append(output))
    return calls


def missing(m):
    """The capabilities that the model lacks for a reason of its own."""
    return {c for c in base.CAPABILITIES if not base.can(m, c)} - set(base.UNLESS_SAID)


# --- Diffusion of N(0, s^2 I), of which everything is known


class ExactDenoiser(nn.Module):
    """The perfect network where images are N(0, s^2 I); remembers what it was asked.

    shift: how far its idea of the time is off.
    """

    def __init__(self, alpha_bars, prediction, s, shift=0):
        super().__init__()
        self.alpha_bars, self.prediction, self.s, self.shift, self.asked = alpha_bars, prediction, s, shift, []

    def forward(self, x, time, *condition):
        self.asked.append((x, time, *condition))
        steps = len(self.alpha_bars) - 1
        t = (time * steps / 1000).round().long() + self.shift
        abar = self.alpha_bars[t.clamp(1, steps)].to(x)[:, None, None, None]
        x0 = self.image(x, abar, *condition)
        eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
        return eps if self.prediction == "epsilon" else abar.sqrt() * eps - (1 - abar).sqrt() * x0

    def image(self, x, abar):
        return abar.sqrt() * self.s**2 / (abar * self.s**2 + 1 - abar) * x


def ddim_factor(alpha_bars, times, s):
    """What DDIM multiplies x_T by with the exact network of N(0, s^2 I), from the paper's eq. 12 at sigma = 0."""
    product = 1.0
    for t, to in pairwise(times):
        a, b = alpha_bars[t].item(), alpha_bars[to].item()
        eps = math.sqrt(1 - a) / (a * s * s + 1 - a)
        product *= math.sqrt(b) * (1 - math.sqrt(1 - a) * eps) / math.sqrt(a) + math.sqrt(1 - b) * eps
    return product


def bound_by_hand(s, sigma2):
    """Expected distortion and rate (eq. 5) in nats per dimension for N(0, s^2 I), `FOUR` and the exact network.

    sigma2: the model's variances at t = 0..4. The distortion is that of 8-bit values, 2 / 255 apart.
    """
    log, a = math.log, FOUR.tolist()
    left = [0.0] + [s * s * (1 - a[t]) / (a[t] * s * s + 1 - a[t]) for t in range(1, 5)]  # Var(x_0 | x_t)
    rate = 0.5 * (a[4] * s * s - a[4] - log(1 - a[4]))
    for t in (2, 3, 4):
        beta = 1 - a[t] / a[t - 1]
        tilde = beta * (1 - a[t - 1]) / (1 - a[t])
        weight = (math.sqrt(a[t - 1]) * beta / (1 - a[t])) ** 2
        rate += 0.5 * (log(sigma2[t] / tilde) + (tilde + weight * left[t]) / sigma2[t] - 1)
    return 0.5 * (log(2 * math.pi * sigma2[1]) + left[1] / sigma2[1]) + log(127.5), rate


def assert_mean(values, expected):
    """That the mean of independent values (N,) is the expected one, up to three standard errors."""
    assert abs(values.mean().item() - expected) < 3 * values.std().item() / math.sqrt(len(values)) + 1e-4
