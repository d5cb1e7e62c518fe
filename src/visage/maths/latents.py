"""Ways from one latent code to another."""

import torch
from torch import Tensor


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The straight way: a at t = 0, b at t = 1, both exactly.

    a, b: (..., d). t: a number or a tensor that broadcasts against them, such as (T, 1) for T codes between two.
    """
    return torch.lerp(a, b, torch.as_tensor(t, dtype=a.dtype, device=a.device))


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The way along the great circle: sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b, w the angle between a and b.

    Codes of N(0, I) lie near a sphere of radius sqrt(d), which the straight way leaves (White 2016, arXiv:1609.04468,
    section 2.1). Codes of the same length keep it; parallel or opposite ones, which define no circle, go straight.

    a, b: (..., d), not zero. t: as in `lerp`.
    """
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    unit_a, unit_b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    # Kahan's angle: acos of the scalar product loses half of its digits where the codes are nearly parallel
    w = 2.0 * torch.atan2((unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True))
    circle = (torch.sin((1.0 - t) * w) * a + torch.sin(t * w) * b) / torch.sin(w)
    return torch.where(torch.sin(w).abs() < 1e-6, lerp(a, b, t), circle)
