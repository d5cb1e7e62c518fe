"""Pictures inside the page: one pixel in the file for each pixel of an image, which the browser enlarges."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visage.errors import UserError
from visage.pictures import GAP, enlargement
from visage.results import AGAIN

Tiles = NDArray[np.uint8]
LEVELS = 64
"""Levels of each channel of an inlined picture: no eye tells them from 256, and they take two thirds of the bytes."""
SEAM = 1
"""Transparent pixels between tiles, before the browser enlarges them."""


@dataclass(frozen=True, slots=True)
class Inlined:
    """An image as a data address, with its width and height in pixels."""

    uri: str
    width: int
    height: int


def cut(path: Path, size: int) -> Tiles | None:
    """Cut a grid of `visage.pictures` into (rows, columns, size, size, 3); None where the file is something else.

    Raises:
        UserError: the file is damaged.
    """
    pixels = _pixels(path)[..., :3]
    side = size * enlargement(size)
    if any((length + GAP) % (side + GAP) for length in pixels.shape[:2]):
        return None
    rows, columns = ((length + GAP) // (side + GAP) for length in pixels.shape[:2])
    padded = np.pad(pixels, ((0, GAP), (0, GAP), (0, 0)))
    grid = padded.reshape(rows, side + GAP, columns, side + GAP, 3)[:, :side, :, :side]
    step = enlargement(size)
    return np.ascontiguousarray(grid[:, ::step, :, ::step].transpose(0, 2, 1, 3, 4))


def join(tiles: Tiles) -> Inlined:
    """Lay (rows, columns, S, S, 3) tiles out again, close together, and inline them without loss."""
    rows, columns, size = tiles.shape[:3]
    grid = np.zeros((rows, size + SEAM, columns, size + SEAM, 4), np.uint8)
    grid[:, :size, :, :size, :3] = tiles.transpose(0, 2, 1, 3, 4)
    grid[:, :size, :, :size, 3] = 255
    return _inline(grid.reshape(rows * (size + SEAM), columns * (size + SEAM), 4)[:-SEAM, :-SEAM])


def inline(path: Path, size: int) -> Inlined:
    """Inline a picture: a grid close together, anything else as it is.

    Raises:
        UserError: the file is damaged.
    """
    tiles = cut(path, size)
    return _inline(_pixels(path)) if tiles is None else join(tiles)


def over_time(snapshots: Sequence[tuple[float, Path]], size: int, most: int = 7) -> list[tuple[float, Inlined]]:
    """The first row of some grids, evenly spaced from the first to the last: the same noise at different moments."""
    chosen = sorted({round(i) for i in np.linspace(0, len(snapshots) - 1, min(most, len(snapshots)))})
    strips = []
    for kimg, path in (snapshots[i] for i in chosen):
        tiles = cut(path, size)
        strips.append((kimg, inline(path, size) if tiles is None else join(tiles[:1])))
    return strips


@dataclass(frozen=True, slots=True)
class Sheet:
    """A gallery's picture, of which the page shows one face at a time.

    size: side of a face in pixels; high: images on top of each other, 2 where a reconstruction is below the face.
    places: (x, y) of each face in percent, as CSS positions a background.
    """

    image: Inlined
    size: int
    high: int
    places: Sequence[tuple[float, float]]


def sheet(path: Path, size: int, faces: int) -> Sheet | None:
    """Lay out the picture of a gallery; None where it is no grid of that many faces."""
    tiles = cut(path, size)
    if tiles is None:
        return None
    rows, columns = tiles.shape[:2]
    high = 2 if rows * columns >= 2 * faces else 1
    if rows % high or (rows // high) * columns < faces:
        return None
    right, down = max(columns - 1, 1) / 100, max(rows // high - 1, 1) / 100
    places = [(i % columns / right, i // columns / down) for i in range(faces)]
    return Sheet(join(tiles), size, high, places)


def _pixels(path: Path) -> NDArray[np.uint8]:
    """The (H, W, 4) pixels of a picture."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError) as error:  # Pillow finds some broken PNG files to be bad syntax
        raise UserError(f"{path} is no picture ({error}): delete it and {AGAIN}") from error


def _inline(pixels: NDArray[np.uint8]) -> Inlined:
    out = io.BytesIO()
    rounded = np.round(pixels / 255 * (LEVELS - 1)) * (255 / (LEVELS - 1))
    Image.fromarray(rounded.round().astype(np.uint8)).save(out, format="WEBP", lossless=True, quality=60)
    return Inlined(
        "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii"), pixels.shape[1], pixels.shape[0]
    )
