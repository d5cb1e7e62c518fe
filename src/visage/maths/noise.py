"""Random numbers that depend on the image, not on its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def randn(n: int, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise for n images, (n, *shape): image i gets the same numbers whatever n is.

    Drawn on the CPU one image at a time, so that a batch of 1, a batch of 64 and a GPU all see the same noise
    (`torch.randn((n, ...))` gives other numbers for other n).
    """
    return torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(n)]).to(device)


def rand(n: int, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Uniform noise in [0, 1) for n images, (n, *shape), with the property of `randn`."""
    return torch.stack([torch.rand(tuple(shape), generator=generator) for _ in range(n)]).to(device)


def each(n: int, generator: torch.Generator) -> list[torch.Generator]:
    """One generator for each of n images, the same for image i whatever n is, for samplers that draw at every step."""
    seeds = torch.cat([torch.randint(2**62, (1,), generator=generator) for _ in range(n)]).tolist() if n else []
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def randn_each(
    generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise, (len(generators), *shape), image i from its own generator."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]).to(device)
