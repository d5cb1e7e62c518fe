"""Images in batches, and what a network makes of them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.maths.pixels import to_float, to_uint8


def batches(images: NDArray[np.uint8], batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield (B, 3, S, S) float32 in [-1, 1] on the device, from (N, S, S, 3) uint8, in order."""
    for start in range(0, len(images), batch_size):
        chunk = np.array(images[start : start + batch_size])  # a copy: arrays on disk are read-only
        yield to_float(torch.from_numpy(chunk).to(device))


def embedded(
    embed: Callable[[Tensor], Tensor], images: NDArray[np.uint8], batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """What a network makes of (n, S, S, 3) uint8 images, flattened: (n, F)."""
    rows = [embed(x).flatten(1).float().cpu() for x in batches(images, batch_size, device)]
    return torch.cat(rows).numpy()


def to_pixels(x: Tensor) -> NDArray[np.uint8]:
    """(B, S, S, 3) uint8 in main memory, from (B, 3, S, S) in [-1, 1]."""
    pixels: NDArray[np.uint8] = to_uint8(x).cpu().numpy()
    return pixels
