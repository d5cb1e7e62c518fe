"""Grey 28x28 images in the files of Fashion-MNIST's test set: IDX, packed with gzip or not."""

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
FOLDERS = ("", "raw", "FashionMNIST/raw")


def find(root: Path) -> Path:
    """The file of test images in `root`, in torchvision's folders or loose, packed or not.

    Raises:
        UserError: it is not there.
    """
    for folder in FOLDERS:
        for name in (IMAGES, IMAGES.removesuffix(".gz")):
            if (root / folder / name).is_file():
                return root / folder / name
    raise UserError(f"ood: {root} holds no {IMAGES}, nor do raw/ or FashionMNIST/raw/ in it: put it there")


def read(path: Path) -> NDArray[np.uint8]:
    """The images of an IDX file, (N, 28, 28) uint8.

    Raises:
        UserError: it is no whole IDX file of 28x28 images.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): copy or download it again") from error
    count, height, width = np.frombuffer(content[4:16].ljust(12, b"\0"), ">u4").tolist()
    if content[:4] != MAGIC or (height, width) != (SIDE, SIDE) or len(content) != 16 + count * SIDE * SIDE:
        raise UserError(f"{path} is no whole IDX file of {SIDE}x{SIDE} images: copy or download it again")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, SIDE, SIDE)
