"""Grids of images as PNG files, enlarged pixel by pixel so that faces can be seen."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visage.files import replacing

GAP = 2
"""Pixels of white between tiles, after enlargement."""
TILE = 96
"""Images are enlarged by the whole factor that brings their side to at least this many pixels."""


def enlargement(size: int) -> int:
    """The whole factor by which images of this side are enlarged."""
    return max(1, -(-TILE // size))


def grid(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Tile (N, S, S, 3) uint8 images row by row on white, nearest-neighbour enlarged, `GAP` pixels apart."""
    n, size = images.shape[:2]
    factor = enlargement(size)
    side = size * factor
    rows = -(-n // columns)
    picture = np.full((rows * (side + GAP) - GAP, columns * (side + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side + GAP), (i % columns) * (side + GAP)
        picture[top : top + side, left : left + side] = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(picture)


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all; the same picture gives the same bytes."""
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=False)
