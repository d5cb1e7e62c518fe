"""Reading what `preprocess` wrote. Layout of the folder, `data/processed`:

    <size>/train.npy valid.npy test.npy   (N, size, size, 3) uint8, opened read-only and memory-mapped
    <size>/ood/<name>.npy                 (M, size, size, 3) uint8, a set of images that are no faces
    labels/train.npz valid.npz test.npz   attributes (N, A) uint8 in {0, 1}, names (A,) str, image_id (N,) str,
                                          identity (N,) int32, -1 = unknown; factors (N, F) float32 and factor_names
                                          (F,) str of drawn faces, F = 0 otherwise
    card.json                             `visage.data.card.DataCard`: source, crop, filter, counts, hashes
    train/<label>.json                    the part of the card on which the trainings of a `<recipe>-<size>` depend

This module imports neither torchvision nor Pillow: training and evaluation use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visage.data.card import DataCard
from visage.errors import UserError
from visage.files import read_typed

PROCESSED = Path("data/processed")
Split = Literal["train", "valid", "test"]


@dataclass(frozen=True, slots=True)
class Faces:
    """One split at one size.

    images: (N, S, S, 3) uint8, read-only.
    attributes: (N, A) uint8 in {0, 1}; names: the A attribute names.
    image_id: (N,) file names.
    identity: (N,) int32, one number for each person in all splits, -1 where unknown: everywhere in a folder of images
        and in CelebA without `identity_CelebA.txt`, nowhere among drawn faces.
    factors: (N, F) float32 with factor_names, known for drawn faces only.
    """

    images: NDArray[np.uint8]
    attributes: NDArray[np.uint8]
    names: list[str]
    image_id: NDArray[np.str_]
    identity: NDArray[np.int32]
    factors: NDArray[np.float32]
    factor_names: list[str]

    def columns(self, names: Sequence[str]) -> NDArray[np.uint8]:
        """The attributes of these names, (N, len(names)) uint8, in this order.

        Raises:
            UserError: the images do not have one of them.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            there = ", ".join(self.names) or "none"
            raise UserError(f"the model needs the attribute {unknown[0]}, which these images lack (they have: {there})")
        index = [self.names.index(name) for name in names]
        return np.ascontiguousarray(self.attributes[:, index])


def load_faces(split: Split, size: int, folder: Path = PROCESSED) -> Faces:
    """Open one split.

    Raises:
        UserError: the arrays are missing, or images and labels do not match.
    """
    images = _open(folder / str(size) / f"{split}.npy", size)
    path = folder / "labels" / f"{split}.npz"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro preprocess`")
    with np.load(path, allow_pickle=False) as labels:
        faces = Faces(
            images=images,
            attributes=labels["attributes"],
            names=labels["names"].tolist(),
            image_id=labels["image_id"],
            identity=labels["identity"],
            factors=labels["factors"],
            factor_names=labels["factor_names"].tolist(),
        )
    if len(faces.images) != len(faces.attributes):
        raise UserError(
            f"{path} labels {len(faces.attributes)} images, {split}.npy at size {size} has {len(faces.images)}: "
            "run `dvc repro -f preprocess`"
        )
    return faces


def load_ood(size: int, name: str, folder: Path = PROCESSED) -> NDArray[np.uint8]:
    """Open a set of images that are no faces, (M, size, size, 3) uint8.

    Raises:
        UserError: the array is missing or has another shape.
    """
    return _open(folder / str(size) / "ood" / f"{name}.npy", size)


def load_card(folder: Path = PROCESSED) -> DataCard:
    """Read the protocol of the arrays.

    Raises:
        UserError: the card is missing or damaged.
    """
    return read_typed(folder / "card.json", DataCard, "run `dvc repro -f preprocess`")


def _open(path: Path, size: int) -> NDArray[np.uint8]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing: add {size} to preprocess.sizes in params.yaml, or run `dvc repro preprocess`"
        )
    images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise UserError(f"{path} holds {images.dtype} {images.shape}, expected uint8 (N, {size}, {size}, 3)")
    return images
