"""The pictures of the page: copies beside it, one pixel in the file for each pixel of an image.

They are lossless. The browser enlarges them, and loads them when they are looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visage.errors import UserError
from visage.files import replacing
from visage.pictures import GAP, enlargement
from visage.results import AGAIN

Tiles = NDArray[np.uint8]
FOLDER = "images"
"""Where the copies are, in the folder of the page."""
SEAM = 1
"""Transparent pixels between tiles, before the browser enlarges them."""
LONGEST = 16_383
"""Pixels on a side of a WebP file, at most."""
WEBP: dict[str, Any] = {"format": "WEBP", "lossless": True, "quality": 0, "method": 2}
"""Grids of faces take 20 % less than as PNG, in half the time; more effort gains 5 % in three times the time."""


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


def join(tiles: Tiles) -> NDArray[np.uint8]:
    """Lay (rows, columns, H, W, 3) tiles out again, `SEAM` pixels apart: (height, width, 4)."""
    rows, columns, height, width = tiles.shape[:4]
    grid = np.zeros((rows, height + SEAM, columns, width + SEAM, 4), np.uint8)
    grid[:, :height, :, :width, :3] = tiles.transpose(0, 2, 1, 3, 4)
    grid[:, :height, :, :width, 3] = 255
    return grid.reshape(rows * (height + SEAM), columns * (width + SEAM), 4)[:-SEAM, :-SEAM]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of the page. file: relative to the page; width, height: in pixels."""

    file: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Strip:
    """The faces of a gallery in one row without gaps, of which the page shows one at a time.

    size: side of a face in pixels; high: pixels from top to bottom, of two images where a reconstruction is below the
    face. places: of each face, in percent, as CSS positions an object.
    """

    image: Shown
    size: int
    high: int
    places: Sequence[float]


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies pictures to `images/`. folder: of the page.

    Every method takes the picture's file, the side of its images in pixels, and the name of the copy, such as
    "vae-32-0/samples".

    Raises:
        UserError: (from every method) the file is damaged.
    """

    folder: Path

    def copy(self, path: Path, size: int, name: str) -> Shown:
        """Copy a picture: a grid close together, anything else as it is."""
        tiles = cut(path, size)
        return self._save(_pixels(path) if tiles is None else join(tiles), name)

    def first_row(self, path: Path, size: int, name: str) -> Shown:
        """Copy the first row of a grid, or all of anything else."""
        tiles = cut(path, size)
        return self._save(_pixels(path) if tiles is None else join(tiles[:1]), name)

    def part_of_row(self, path: Path, size: int, name: str, row: int, images: int) -> Shown | None:
        """Copy the first images of a row of a grid; None where the picture is no grid, or has no such row."""
        tiles = cut(path, size)
        if tiles is None or row >= len(tiles):
            return None
        return self._save(join(tiles[row : row + 1, :images]), name)

    def strip(self, path: Path, size: int, faces: int, name: str) -> Strip | None:
        """Lay the faces of a gallery out in a row; None where the picture is no grid of that many faces."""
        tiles = cut(path, size)
        if tiles is None:
            return None
        rows, columns = tiles.shape[:2]
        images = 2 if rows * columns >= 2 * faces else 1
        if rows % images or (rows // images) * columns < faces:
            return None
        pairs = tiles.reshape(-1, images, columns, size, size, 3).swapaxes(1, 2).reshape(-1, images, size, size, 3)
        columned = [join(pair[:, None]) for pair in pairs[:faces]]
        image = self._save(np.concatenate(columned, axis=1), name)
        return Strip(image, size, image.height, [100 * i / max(1, faces - 1) for i in range(faces)])

    def _save(self, pixels: NDArray[np.uint8], name: str) -> Shown:
        """Write (H, W, 4) pixels, as PNG where they are too many for WebP."""
        height, width = pixels.shape[:2]
        kind = WEBP if max(height, width) <= LONGEST else {"format": "PNG"}
        file = f"{FOLDER}/{name}.{kind['format'].lower()}"
        with replacing(self.folder / file) as temporary:
            Image.fromarray(pixels).save(temporary, **kind)
        return Shown(file, width, height)


def evenly(snapshots: Sequence[tuple[float, Path]], most: int = 7) -> list[tuple[float, Path]]:
    """Some grids of a training, evenly spaced from the first to the last."""
    chosen = sorted({round(i) for i in np.linspace(0, len(snapshots) - 1, min(most, len(snapshots)))})
    return [snapshots[i] for i in chosen]


def _pixels(path: Path) -> NDArray[np.uint8]:
    """The (H, W, 4) pixels of a picture."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA"))
    except (OSError, SyntaxError) as error:  # Pillow finds some broken PNG files to be bad syntax
        raise UserError(f"{path} is no picture ({error}): delete it and {AGAIN}") from error
