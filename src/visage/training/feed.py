"""Batches from one array of 8-bit images: shuffled, flipped, scaled, and always able to say where it stands."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.errors import UserError
from visage.maths.pixels import to_float
from visage.models.base import Batch

DEVICE_SHARE = 0.25
"""The images live on the GPU where they take less than this share of its free memory; indexing there costs nothing."""


class Feed:
    """An endless stream of training batches, a new order in every epoch; an epoch's incomplete last batch is dropped.

    Args:
        images: (N, S, S, 3) uint8, may be memory-mapped.
        attributes: (N, A) uint8.
        flip: mirror each image with probability 1/2.
        seed: of orders and flips. The same seed gives the same batches on every device.

    Raises:
        UserError: there are fewer images than one batch.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        attributes: NDArray[np.uint8],
        *,
        batch_size: int,
        flip: bool,
        seed: int,
        device: torch.device,
    ) -> None:
        if len(images) < batch_size:
            raise UserError(
                f"params.yaml: train.batch_size is {batch_size}, but there are {len(images)} training images"
            )
        self.attributes = torch.from_numpy(np.array(attributes)).float().to(device)
        self.images = images
        self.on_device = torch.from_numpy(np.array(images)).to(device) if _fits(images, device) else None
        self.batch_size, self.flip, self.seed, self.device = batch_size, flip, seed, device
        self.epoch, self.position = 0, 0
        self.order = self._shuffle()
        self.coin = torch.Generator().manual_seed(seed)

    def _shuffle(self) -> Tensor:
        # a generator of its own for each epoch: (epoch, position) alone says where the stream stands
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (self.epoch + 1))
        return torch.randperm(len(self.images), generator=generator)

    def next(self) -> Batch:
        """The next batch."""
        if self.position + self.batch_size > len(self.images):
            self.epoch, self.position = self.epoch + 1, 0
            self.order = self._shuffle()
        index = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        # the order in a batch is random: mirroring its first k ~ Binomial(B, 1/2) images mirrors each with chance 1/2
        mirrored = int((torch.rand(self.batch_size, generator=self.coin) < 0.5).sum()) if self.flip else 0
        return self._take(index, mirrored)

    def first(self, n: int) -> Batch:
        """The first n images of the first epoch's order, not mirrored; leaves the stream where it stands."""
        return self._take(self.order[:n], mirrored=0)

    def _take(self, index: Tensor, mirrored: int) -> Batch:
        if self.on_device is not None:
            images = self.on_device.index_select(0, index.to(self.device))
        else:
            images = torch.from_numpy(np.take(self.images, index.numpy(), axis=0)).to(self.device)
        if mirrored:
            images = torch.cat([images[:mirrored].flip(2), images[mirrored:]])
        return Batch(to_float(images), self.attributes.index_select(0, index.to(self.device)))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return {"epoch": self.epoch, "position": self.position, "coin": self.coin.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a stream over the same images stood."""
        self.epoch, self.position = state["epoch"], state["position"]
        self.order = self._shuffle()
        self.coin.set_state(state["coin"])


def _fits(images: NDArray[np.uint8], device: torch.device) -> bool:
    return device.type == "cuda" and images.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
