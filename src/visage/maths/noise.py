"""Random numbers: those of a whole batch, for training, and those that depend on the image, not on its batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

# --- Of a batch, drawn where the generator is, which in training is the device of the images


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draws of N(0, 1) on the generator's device, moved to `device` only if that is another one."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)


def uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draws of U[0, 1), likewise."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(device)


def integers(first: int, end: int, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draws (n,) of the integers from `first` to `end` - 1, all equally likely, likewise."""
    return torch.randint(first, end, (n,), generator=generator, device=generator.device).to(device)


# --- Of each image, always drawn on the CPU


def randn(n: int, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise for n images, (n, *shape): image i gets the same numbers whatever n is.

    Drawn on the CPU one image at a time, so that a batch of 1, a batch of 64 and a GPU all see the same noise
    (`torch.randn((n, ...))` gives other numbers for other n).
    """
    return randn_each([generator] * n, shape, device)


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
    drawn = torch.empty(len(generators), *shape)
    for image, generator in zip(drawn, generators, strict=True):
        image.normal_(generator=generator)  # in place, which takes up to half as long as a stack of draws
    return drawn.to(device)
