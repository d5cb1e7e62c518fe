"""Random numbers by name: what makes figures independent of batch sizes and of each other."""

import numpy as np
import torch
from numpy.typing import NDArray


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
