"""Grey 28x28 images in the files of Fashion-MNIST's test set: IDX, packed with gzip or not, whatever its name says."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.errors import UserError

IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"
SIDE = 28
MAGIC = bytes([0, 0, 8, 3])
"""IDX: unsigned bytes in three dimensions."""
MOST_IMAGES = 1_000_000
"""In a file; Fashion-MNIST has 10,000 and 60,000."""
GZIP = b"\x1f\x8b"
FOLDERS = ("", "raw", "FashionMNIST/raw", "fashion-mnist", "fashion", "data/fashion")
"""Loose, torchvision's two, Keras', and those of the repository of the images."""
NAMES = (IMAGES, "t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte.gz", "t10k-images.idx3-ubyte")
"""As published and as torchvision unpacks it; with a point, as some tools and copies on Kaggle write it."""


def find(root: Path) -> Path:
    """The file of test images in `root`, loose or in a folder of torchvision, Keras or its repository, packed or not.

    Raises:
        UserError: it is not there.
    """
    for folder in FOLDERS:
        for name in NAMES:
            if (root / folder / name).is_file():
                return root / folder / name
    places = ", ".join(f"{folder}/" for folder in FOLDERS[1:])
    raise UserError(f"ood: {root} holds no {IMAGES}, packed or not, nor do {places} in it: put it there")


def read(path: Path) -> NDArray[np.uint8]:
    """The images of an IDX file, (N, 28, 28) uint8.

    Raises:
        UserError: it is no whole IDX file of 28x28 images.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            header = file.read(16)
            count, height, width = np.frombuffer(header[4:].ljust(12, b"\0"), ">u4").tolist()
            known = header[:4] == MAGIC and (height, width) == (SIDE, SIDE) and count <= MOST_IMAGES
            pixels = file.read(count * SIDE * SIDE + 1) if known else b""  # so that no bomb is unpacked
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): copy or download it again") from error
    if not known or len(pixels) != count * SIDE * SIDE:
        raise UserError(f"{path} is no whole IDX file of {SIDE}x{SIDE} images: copy or download it again")
    return np.frombuffer(pixels, np.uint8).reshape(count, SIDE, SIDE)
