"""Batches from one array of 8-bit images: shuffled, flipped, scaled, from a position that can be stored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.errors import UserError
from visage.maths.pixels import to_float
from visage.maths.ranks import here
from visage.models.base import Batch
from visage.training.plan import group_count

DEVICE_SHARE = 0.25
"""The images live on the GPU where they take less than this share of its free memory; indexing there costs nothing."""


class Pool:
    """Rows of one group of images in an endless shuffled stream; an epoch's incomplete last part is dropped.

    rows: (n,) their row numbers; take: how many of them a batch holds.
    """

    def __init__(self, rows: Tensor, take: int, seed: int) -> None:
        self.rows, self.take, self.seed = rows, take, seed
        self.epoch, self.position = 0, 0
        self.order = self._shuffle()

    def _shuffle(self) -> Tensor:
        # a generator of its own for each epoch: (epoch, position) alone is the position of the stream
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * (self.epoch + 1))
        return self.rows[torch.randperm(len(self.rows), generator=generator)]

    def next(self) -> Tensor:
        """The next rows, (take,)."""
        if self.position + self.take > len(self.rows):
            self.epoch, self.position = self.epoch + 1, 0
            self.order = self._shuffle()
        self.position += self.take
        return self.order[self.position - self.take : self.position]

    def go_to(self, epoch: int, position: int) -> None:
        """Move to where a stream of the same rows was."""
        self.epoch, self.position = epoch, position
        self.order = self._shuffle()


class Feed:
    """An endless stream of training batches, a new order in every epoch.

    Where a training has several ranks, all follow the same stream, and each gets its part of every batch: of the images
    of each group, that is, so that its own batch is made up like the whole one.

    Args:
        images: (N, S, S, 3) uint8, may be memory-mapped.
        attributes: (N, A) uint8, those that the model is given.
        flip: mirror each image with probability 1/2.
        seed: of orders and flips. The same seed gives the same batches on every device.
        groups: of the model, (N,): batches hold equally many images of each, in order; -1 = left out. None: one kind.

    Raises:
        UserError: there are fewer images, of a group, than a batch holds; the ranks cannot share a batch equally.
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
        groups: Tensor | None = None,
    ) -> None:
        if lack := shortage(len(images), groups, batch_size):
            raise UserError(f"params.yaml: {lack}")
        self.rank = here()
        if misfit := uneven(batch_size, groups, self.rank.count):
            raise UserError(f"params.yaml: {misfit}")
        rows = [torch.arange(len(images))] if groups is None else _members(groups)
        self.pools = [Pool(members, batch_size // len(rows), seed + 7919 * i) for i, members in enumerate(rows)]
        self.attributes = torch.from_numpy(np.array(attributes)).float().to(device)
        self.images = images
        self.on_device = torch.from_numpy(np.array(images)).to(device) if _fits(images, device) else None
        self.flip, self.device = flip, device
        self.coin = torch.Generator().manual_seed(seed + 500_009)  # not the stream of the training's noise

    def next(self) -> Batch:
        """The next batch, or this rank's part of it."""
        return _joined([self._part(pool.next()) for pool in self.pools])

    def first(self, n: int) -> Batch:
        """The first n images, equally many of each group, not mirrored, the same on every rank; the stream stays."""
        return _joined([self._images(pool.order[: n // len(self.pools)]) for pool in self.pools])

    def _part(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's images of those in the rows, and their attributes; the coins are thrown for all of them."""
        mirrored = torch.rand(len(rows), generator=self.coin) < 0.5 if self.flip else None
        return self._images(self.rank.part(rows), None if mirrored is None else self.rank.part(mirrored))

    def _images(self, rows: Tensor, mirrored: Tensor | None = None) -> tuple[Tensor, Tensor]:
        there = self._move(rows)
        if self.on_device is not None:
            images = self.on_device.index_select(0, there)
        else:
            images = self._move(torch.from_numpy(np.take(self.images, rows.numpy(), axis=0)))
        if mirrored is not None:
            chosen = self._move(mirrored.nonzero().flatten())
            images = images.index_copy(0, chosen, images.index_select(0, chosen).flip(2))
        return images, self.attributes.index_select(0, there)

    def _move(self, values: Tensor) -> Tensor:
        """To the device; a copy to a GPU is queued, and the next batch is gathered while the GPU is still at work."""
        if self.device.type == "cuda":
            return values.pin_memory().to(self.device, non_blocking=True)
        return values.to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """The position of the stream."""
        positions = [{"epoch": pool.epoch, "position": pool.position} for pool in self.pools]
        return {"pools": positions, "coin": self.coin.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move to where a stream over the same images was."""
        for pool, position in zip(self.pools, state["pools"], strict=True):
            pool.go_to(**position)
        self.coin.set_state(state["coin"])


def shortage(images: int, groups: Tensor | None, batch_size: int) -> str:
    """Why the training images cannot fill a batch, as a phrase; "" where they can.

    images: their number N. groups: of the model, (N,), or None, as in `Feed`.
    """
    found = [images] if groups is None else [len(rows) for rows in _members(groups)]
    share = batch_size // len(found)
    for i, there in enumerate(found):
        if there < share:
            each, kind = ("", "") if groups is None else (f", {share} of each group", f" of group {i} of {len(found)}")
            return f"train.batch_size is {batch_size}{each}, but there are {there} training images{kind}"
    return ""


def uneven(batch_size: int, groups: Tensor | None, devices: int) -> str:
    """Why a batch cannot be shared out to so many ranks, as a phrase; "" where it can.

    Each rank gets equally many images of each group, and an even number, since some objectives take half a batch.
    """
    unit = devices * (2 if groups is None else group_count(groups))
    if devices == 1 or batch_size % unit == 0:
        return ""
    return f"train.batch_size is {batch_size}: for runtime.devices {devices} it must be a multiple of {unit}"


def _members(groups: Tensor) -> list[Tensor]:
    """The row numbers of each group."""
    return [(groups == i).nonzero().flatten() for i in range(group_count(groups))]


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    images, attributes = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
    return Batch(to_float(images), attributes)


def _fits(images: NDArray[np.uint8], device: torch.device) -> bool:
    return device.type == "cuda" and images.nbytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
