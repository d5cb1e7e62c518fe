"""Interpolation between latent codes."""

import torch
from torch import Tensor


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Interpolate linearly: exactly a at t = 0 and exactly b at t = 1.

    a, b: (..., d). t: a number or a tensor that broadcasts against them, such as (T, 1) for T codes between a and b.
    """
    return torch.lerp(a, b, torch.as_tensor(t, dtype=a.dtype, device=a.device))


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Interpolate along the great circle: sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b, w the angle between a and b.

    Codes of N(0, I) lie near a sphere of radius sqrt(d), which a straight line leaves (White 2016, arXiv:1609.04468,
    section 2.1). Between codes of equal length the length is constant. Parallel or opposite codes, which define no
    circle, are interpolated linearly.

    a, b: (..., d), not zero. t: as in `lerp`.
    """
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    unit_a, unit_b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    # Kahan's angle: acos of the scalar product loses half of its digits where the codes are nearly parallel
    w = 2.0 * torch.atan2((unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True))
    circle = (torch.sin((1.0 - t) * w) * a + torch.sin(t * w) * b) / torch.sin(w)
    return torch.where(torch.sin(w).abs() < 1e-6, lerp(a, b, t), circle)
