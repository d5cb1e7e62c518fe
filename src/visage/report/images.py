"""Pictures made small enough to live inside the page: one image pixel per stored pixel, the browser enlarges them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visage.pictures import GAP, enlargement

Tiles = NDArray[np.uint8]
LEVELS = 64
"""Of each channel of an inlined picture: what no eye tells from 256, at two thirds of the bytes."""
SEAM = 1
"""Transparent pixels between tiles, before the browser enlarges them."""


@dataclass(frozen=True, slots=True)
class Inlined:
    """An image as a data address, with its own width and height in pixels."""

    uri: str
    width: int
    height: int


def cut(path: Path, size: int) -> Tiles | None:
    """Cut a grid of `visage.pictures` into (rows, columns, size, size, 3); None where the file is something else."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
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
    canvas = np.zeros((rows, size + SEAM, columns, size + SEAM, 4), np.uint8)
    canvas[:, :size, :, :size, :3] = tiles.transpose(0, 2, 1, 3, 4)
    canvas[:, :size, :, :size, 3] = 255
    return _inline(canvas.reshape(rows * (size + SEAM), columns * (size + SEAM), 4)[:-SEAM, :-SEAM])


def inline(path: Path, size: int) -> Inlined:
    """Inline a picture: a grid close together, anything else as it is."""
    tiles = cut(path, size)
    if tiles is not None:
        return join(tiles)
    with Image.open(path) as picture:
        return _inline(np.asarray(picture.convert("RGBA")))


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

    size: side of a face in pixels; high: images on top of each other, 2 where a reconstruction stands below the face.
    places: (x, y) of each face in percent, as CSS positions a background.
    """

    image: Inlined
    size: int
    high: int
    places: Sequence[tuple[float, float]]


def sheet(path: Path, size: int, faces: int) -> Sheet | None:
    """Lay out the picture of a gallery; None where it is no grid of so many faces."""
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


def _inline(pixels: NDArray[np.uint8]) -> Inlined:
    out = io.BytesIO()
    rounded = np.round(pixels / 255 * (LEVELS - 1)) * (255 / (LEVELS - 1))
    Image.fromarray(rounded.round().astype(np.uint8)).save(out, format="WEBP", lossless=True, quality=60)
    return Inlined(
        "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii"), pixels.shape[1], pixels.shape[0]
    )
