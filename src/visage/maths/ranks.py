"""One training in several processes, its ranks: what an objective says once that couples the images of a batch.

Rank r of n holds the r-th of n equal parts of every batch, and the gradients of their losses are averaged: a loss that
is a mean over images needs nothing from here. Whatever else looks at the whole batch, as a variance does, asks for all
of it (`gather`) or for means over it (`mean`). In one process, and outside of `sharing`, these return their argument.

All ranks must call them in the same order. What flows back through them belongs to the mean of all ranks' losses, and
can be differentiated again, as penalties need it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rank:
    """One of `count` processes that train together. index: 0 is the first, which alone writes files and messages."""

    index: int
    count: int

    @property
    def first(self) -> bool:
        """Whether it is the first one, or the only one."""
        return self.index == 0

    def part(self, x: Tensor) -> Tensor:
        """This rank's rows of all the rows x (N, ...); n divides N."""
        each = len(x) // self.count
        return x[self.index * each : (self.index + 1) * each]


ALONE = Rank(0, 1)
_sharing: ContextVar[Rank] = ContextVar("_sharing", default=ALONE)


def here() -> Rank:
    """Which rank this process is; `ALONE` where it trains by itself."""
    if dist.is_available() and dist.is_initialized():
        return Rank(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextmanager
def sharing() -> Iterator[None]:
    """While the block runs, batches are shared out to the ranks, and all of them run it.

    Outside of it a process asks a model by itself: a validation, by the first rank alone, must not wait for the others.
    """
    token = _sharing.set(here())
    try:
        yield
    finally:
        _sharing.reset(token)


def now() -> Rank:
    """The rank whose part of a batch is at work; `ALONE` outside of `sharing`."""
    return _sharing.get()


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks, (n B, ...), in their order, for this rank's rows x (B, ...); numbers of any type."""
    rank = now()
    if rank == ALONE:
        return x
    before, after = (x.new_zeros(len(x) * others, *x.shape[1:]) for others in (rank.index, rank.count - 1 - rank.index))
    return _sum(torch.cat([before, x, after]))  # to add zeros is exact


def part(x: Tensor) -> Tensor:
    """This rank's rows (N / n, ...) of those of the whole batch, x (N, ...)."""
    return now().part(x)


def mean(x: Tensor) -> Tensor:
    """The mean over all ranks of x, of the same shape on each: a mean over the batch from those over its parts."""
    return x if now() == ALONE else _sum(x) / now().count


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)
    return total


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Every rank's result depends on every rank's x, so that gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return _sum(gradient)
