"""Random numbers: those of a whole batch, for training, and those that depend on the image, not on its batch."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from visage.maths import ranks

# --- Of a batch, drawn where the generator is, which in training is the device of the images, and moved to `device` if
# that is another one. Where a training has several ranks (`visage.maths.ranks`), their generators are equal: each draws
# the numbers of the whole batch and keeps those of its own images, which are the ones that one process would give them.


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draws of N(0, 1) for images of the batch; the first number of the shape is how many of them this rank holds."""
    return _drawn(torch.randn, shape, generator, device)


def uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device, *, whole: bool = False) -> Tensor:
    """Draws of U[0, 1) for images of the batch, likewise.

    whole: the shape is that of something which all ranks have in common, such as a gathered batch; they get the same.
    """
    return _drawn(torch.rand, shape, generator, device, whole=whole)


def integers(
    first: int, end: int, n: int, generator: torch.Generator, device: torch.device, *, whole: bool = False
) -> Tensor:
    """Draws (n,) of the integers from `first` to `end` - 1, all equally likely, likewise."""
    return _drawn(partial(torch.randint, first, end), (n,), generator, device, whole=whole)


def shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The rows (B, ...) of a batch in random order, whichever rank holds them; this rank's part of that."""
    every = ranks.gather(rows)
    order = torch.randperm(len(every), generator=generator, device=generator.device)
    return ranks.part(every[order.to(rows.device)])


class _Draw(Protocol):
    def __call__(self, size: tuple[int, ...], *, generator: torch.Generator, device: torch.device) -> Tensor: ...


def _drawn(
    draw: _Draw, shape: Sequence[int], generator: torch.Generator, device: torch.device, *, whole: bool = False
) -> Tensor:
    rank, (n, *rest) = ranks.ALONE if whole else ranks.now(), shape
    return rank.part(draw((rank.count * n, *rest), generator=generator, device=generator.device)).to(device)


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
