"""Many images, asked about or drawn in chunks, which the ranks of an evaluation share out.

What is random about a chunk is its own, so that no number depends on how many ranks there are, or on which of them
has a chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from visage.maths.ranks import ALONE, Rank, here
from visage.maths.streams import torch_generator

Answer = TypeVar("Answer")

CHUNK = 256
"""Images of a chunk: enough to fill a GPU, and few enough that a thousand images keep four of them busy."""
_sharing: ContextVar[Rank] = ContextVar("_sharing", default=ALONE)


@dataclass(frozen=True, slots=True)
class Draws:
    """Named streams of random numbers, which are others for every chunk."""

    seed: int
    names: Sequence[str]

    def generators(self, start: int) -> list[torch.Generator]:
        """A generator of each stream at its beginning, for the chunk whose first image is the `start`-th."""
        return [torch_generator(self.seed, f"{name} {start}") for name in self.names]


NONE = Draws(0, ())
"""For what draws nothing."""


@contextmanager
def shared_out() -> Iterator[None]:
    """While the block runs, the ranks share all chunks out, and all of them run it.

    Outside of it a process goes through all chunks itself: a validation, by the first rank alone, must not wait for the
    others.
    """
    token = _sharing.set(here())
    try:
        yield
    finally:
        _sharing.reset(token)


def over_chunks(work: Callable[[slice], Answer], n: int) -> Iterator[Answer]:
    """Yield what `work` makes of each chunk of n images, in order, to every rank that has a share in it.

    Rank r of R works on every R-th chunk from the r-th on, and gets the answers to the others after each round. These
    are pickled, so they must be in main memory.
    """
    rank = _sharing.get()
    for first in range(0, n, rank.count * CHUNK):
        start = first + rank.index * CHUNK
        yield from _of_all_ranks(rank, [work(slice(start, min(start + CHUNK, n)))] if start < n else [])


def _of_all_ranks(rank: Rank, own: list[Answer]) -> list[Answer]:
    """The answers of this round, in the order of the ranks."""
    if rank == ALONE:
        return own
    found: list[list[Answer]] = [[]] * rank.count
    dist.all_gather_object(found, own)  # through gloo, beside NCCL too
    return [answer for answers in found for answer in answers]
