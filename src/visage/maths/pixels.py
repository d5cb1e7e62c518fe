"""The three scalings of an 8-bit pixel value v in {0, ..., 255}:

x11 = v / 127.5 - 1 in [-1, 1]     the inputs and outputs of every model
x01 = v / 255 in [0, 1]            the scale of reported reconstruction errors
y01 = (v + u) / 256 in [0, 1)      dequantised with u ~ U[0, 1): the scale of every density
"""

import math

import torch
from torch import Tensor

LEVELS = 256


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) to x11 (B, 3, S, S) float32, in channels_last memory order."""
    return images.permute(0, 3, 1, 2).float().mul_(2.0 / 255.0).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """x11 (B, 3, S, S) to uint8 (B, S, S, 3); values outside [-1, 1] are clamped, then rounded."""
    return levels(x.clamp(-1.0, 1.0)).to(torch.uint8).permute(0, 2, 3, 1)


def levels(x: Tensor) -> Tensor:
    """The integer values v that x11 represents, as floats; the gradient is that of 127.5 (x + 1), before rounding.

    This gives densities of dequantised values a gradient in x (straight-through, Bengio et al. 2013, arXiv:1308.3432).
    """
    values = (x + 1.0) * 127.5
    return values.round() + (values - values.detach())  # plus 0, to the bit


def dequantize(x: Tensor, u: Tensor) -> Tensor:
    """x11 and noise u in [0, 1) to y01 = (v + u) / 256 in [0, 1), same shape.

    A density of y01 bounds the probability of the 8-bit image: log P(v) >= E_u log p(y01) - D log 256 (Theis et al.
    2016, arXiv:1511.01844, section 3.1).
    """
    return (levels(x) + u) / LEVELS


def to_middle(x: Tensor) -> Tensor:
    """x11 to y01 in the middle of its bin, (v + 1/2) / 256, same shape; v, and so x, may lie between 8-bit values."""
    return ((x + 1.0) * 127.5 + 0.5) / LEVELS


def from_middle(y: Tensor) -> Tensor:
    """The x11 that `to_middle` maps to y, any real number: of the value v = 256 y - 1/2, neither rounded nor clamped.

    `to_uint8` of it is floor(256 y), the value in whose bin y lies (on the border of two, either).
    """
    return (LEVELS * y - 0.5) / 127.5 - 1.0


def quantization_nats(dims: int) -> float:
    """D log 256: what to subtract from the log-density of y01 to get nats of the 8-bit image."""
    return dims * math.log(LEVELS)
