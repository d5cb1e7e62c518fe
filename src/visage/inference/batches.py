"""Images in batches, and what a network makes of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.maths.pixels import to_float, to_uint8

Answer = TypeVar("Answer")


def batches(images: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield (B, 3, S, S) float32 in [-1, 1] on the device, from (N, S, S, 3) uint8, in order."""
    for start in range(0, len(images), batch_size):
        chunk = np.array(images[start : start + batch_size])  # a copy: arrays on disk are read-only
        yield to_float(torch.from_numpy(chunk).to(device))


def answers(
    ask: Callable[[Tensor], Answer],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device,
    generators: Sequence[torch.Generator] = (),
) -> Iterator[Answer]:
    """Yield what a model answers to each batch of `batches`; one that does not fit into memory is tried in halves.

    generators: those that `ask` draws from, image by image; a batch that is tried again sees the same numbers.
    """
    start, size = 0, batch_size
    while start < len(images):
        states = [generator.get_state() for generator in generators]
        try:
            answer = ask(next(batches(images[start : start + size], size, device)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        else:
            yield answer
            start += size


def embedded(
    embed: Callable[[Tensor], Tensor], images: NDArray[np.uint8], batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """What a network makes of (n, S, S, 3) uint8 images, flattened: (n, F)."""
    return torch.cat(list(answers(lambda x: embed(x).flatten(1).float().cpu(), images, batch_size, device))).numpy()


def per_image(
    ask: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    batch_size: int,
    device: torch.device,
    generators: Sequence[torch.Generator] = (),
) -> NDArray[np.float64]:
    """What a model answers to (n, S, S, 3) uint8 images: (..., n), for `ask`: (B, 3, S, S) -> (..., B)."""
    found = answers(lambda x: ask(x).cpu().double(), images, batch_size, device, generators)
    return torch.cat(list(found), dim=-1).numpy()


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """(B, S, S, 3) uint8 in main memory, from (B, 3, S, S) in [-1, 1]."""
    pixels: NDArray[np.uint8] = to_uint8(x).cpu().numpy()
    return pixels
