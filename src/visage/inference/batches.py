"""Images in batches, and what a network makes of them."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.inference.chunks import CHUNK, NONE, Draws, over_chunks
from visage.maths.pixels import to_float, to_uint8

Answer = TypeVar("Answer")


def batches(images: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield (B, 3, S, S) float32 in [-1, 1] on the device, from (N, S, S, 3) uint8, in order."""
    for start in range(0, len(images), batch_size):
        chunk = np.array(images[start : start + batch_size])  # a copy: arrays on disk are read-only
        yield to_float(torch.from_numpy(chunk).to(device))


def answers(
    ask: Callable[..., Answer],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device,
    draws: Draws = NONE,
) -> Iterator[Answer]:
    """Yield what a model answers to each batch of (n, S, S, 3) uint8 images, in order, whichever rank asks it.

    No batch reaches from one chunk into the next, and one that does not fit into memory is tried in halves.

    ask: (B, 3, S, S), then a generator for each of the draws -> an answer in main memory. It draws image by image, so
        that image i sees the same numbers whatever the batch size; a batch that is tried again does, too.
    """
    size = min(batch_size, CHUNK)

    def ask_chunk(chunk: slice) -> list[Answer]:
        nonlocal size
        found, start, generators = [], chunk.start, draws.generators(chunk.start)
        while start < chunk.stop:
            states = [generator.get_state() for generator in generators]
            try:
                answer = ask(next(batches(images[start : min(start + size, chunk.stop)], size, device)), *generators)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                for generator, state in zip(generators, states, strict=True):
                    generator.set_state(state)
            else:
                found.append(answer)
                start += size
        return found

    for found in over_chunks(ask_chunk, len(images)):
        yield from found


def noticing(ask: Callable[..., Answer]) -> Callable[..., tuple[Answer, bool]]:
    """The same for `answers`, but each answer comes with whether random numbers were drawn for it."""

    def both(x: Tensor, *generators: torch.Generator) -> tuple[Answer, bool]:
        before = [generator.get_state() for generator in generators]
        answer = ask(x, *generators)
        after = [generator.get_state() for generator in generators]
        return answer, not all(map(torch.equal, before, after))

    return both


def embedded(
    embed: Callable[[Tensor], Tensor], images: NDArray[np.uint8], batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """What a network makes of (n, S, S, 3) uint8 images, flattened: (n, F)."""
    return torch.cat(list(answers(lambda x: embed(x).flatten(1).float().cpu(), images, batch_size, device))).numpy()


def per_image(
    ask: Callable[..., Tensor],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device,
    draws: Draws = NONE,
) -> NDArray[np.float64]:
    """What a model answers to (n, S, S, 3) uint8 images: (..., n), for `ask`: (B, 3, S, S), generators -> (..., B)."""
    found = answers(lambda x, *generators: ask(x, *generators).cpu().double(), images, batch_size, device, draws)
    return torch.cat(list(found), dim=-1).numpy()


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """(B, S, S, 3) uint8 in main memory, from (B, 3, S, S) in [-1, 1]."""
    pixels: NDArray[np.uint8] = to_uint8(x).cpu().contiguous().numpy()  # as it is after a way through a pickle, too
    return pixels
