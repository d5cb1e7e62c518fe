"""Images in batches and random numbers by name: what makes figures independent of batch size and of each other."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.maths.pixels import to_float


def batches(images: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield (B, 3, S, S) float32 in [-1, 1] on the device, from (N, S, S, 3) uint8, in order."""
    for start in range(0, len(images), batch_size):
        chunk = np.array(images[start : start + batch_size])  # a copy: arrays on disk are read-only
        yield to_float(torch.from_numpy(chunk).to(device))


def _seeds(seed: int, stream: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, *stream.encode()])


def numpy_generator(seed: int, stream: str) -> np.random.Generator:
    """Random numbers of a named stream; streams of other names or seeds are independent of it."""
    return np.random.default_rng(_seeds(seed, stream))


def torch_generator(seed: int, stream: str) -> torch.Generator:
    """Like `numpy_generator`, on the CPU, for models."""
    return torch.Generator().manual_seed(int(_seeds(seed, stream).generate_state(1, np.uint64)[0]))


def choose_rows(available: int, wanted: int, seed: int, stream: str) -> NDArray[np.int64]:
    """Row numbers to measure on: the first `wanted` of a fixed permutation, all of it where wanted is 0.

    Fewer rows are a prefix of more rows, in the same order.
    """
    rows: NDArray[np.int64] = numpy_generator(seed, stream).permutation(available)
    return rows[: wanted or available]
