"""Other images, made from test faces or from noise: each set differs from faces in one way that is known.

Where a score fails on one of them, one knows what it looks at. Brightness, contrast and complexity explain most of what
likelihoods do on images of another kind (Nalisnick et al. 2019, arXiv:1810.09136; Serra et al. 2020, arXiv:1909.11480).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from visage.inference.batches import numpy_generator

GRID = 8
"""Patches on a side of a shuffled face."""
SIGMA = 2 / 32
"""Of the blur, as a share of the image's side."""
TREMOR = 2.0
"""Standard deviation of the noise on the mean face, in levels."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
LOW, HIGH = 0.3, 1.5
"""Factors of the contrast around mid-grey."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a set of images is, and what it isolates: a line each, for a table."""

    title: str
    isolates: str


SUITE = {
    "constant": Kind("one random colour", "no complexity at all"),
    "blur": Kind("blurred faces", "low complexity, the face kept"),
    "mean_face": Kind("the mean face and a little noise", "low complexity at the centre of the faces"),
    "low_contrast": Kind(f"contrast times {LOW}", "little variance"),
    "high_contrast": Kind(f"contrast times {HIGH}, clipped", "much variance"),
    "gray": Kind("grey faces", "colourfulness alone"),
    "noise": Kind("uniform noise", "the highest entropy"),
    "pixel_noise": Kind("Gaussian noise, mean and deviation of each pixel", "pixels alone, without their dependence"),
    "hflip": Kind("mirrored faces", "nothing: a control, 1/2 is right where training mirrors images"),
    "vflip": Kind("faces upside down", "where things are, all values kept"),
    "inverted": Kind("negatives", "colours and brightness at equal complexity"),
    "bgr": Kind("red and blue swapped", "colours at equal brightness of the three and equal complexity"),
    "shuffled": Kind(f"{GRID} x {GRID} patches in random order", "the whole against its parts, and seams"),
}
"""The sets that `suite` makes, in its order."""
RARE = ("Wearing_Hat", "Eyeglasses")
"""Attributes of faces that are still faces, but less common."""


def suite(
    images: NDArray[np.uint8], *, train_mean: NDArray[np.float64], train_std: NDArray[np.float64], seed: int
) -> dict[str, NDArray[np.uint8]]:
    """Make every set of `SUITE` from (n, S, S, 3) uint8 test faces: name -> (n, S, S, 3) uint8.

    Image i depends on face i and the seed, not on how many there are, and a set not on the others.

    train_mean, train_std: of each pixel of the training faces, (S, S, 3), in levels, 0 to 255.

    Raises:
        ValueError: the size S is no multiple of `GRID`.
    """
    n, size, shape = len(images), images.shape[1], images.shape
    levels = np.arange(256)

    def draw(name: str) -> np.random.Generator:
        return numpy_generator(seed, f"suite {name}")

    sigma = SIGMA * size
    return {
        "constant": np.broadcast_to(draw("constant").integers(256, size=(n, 1, 1, 3), dtype=np.uint8), shape).copy(),
        "blur": _rounded(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))),
        "mean_face": _rounded(train_mean + TREMOR * draw("mean_face").standard_normal(shape, np.float32)),
        "low_contrast": _rounded(127.5 + LOW * (levels - 127.5))[images],
        "high_contrast": _rounded(127.5 + HIGH * (levels - 127.5))[images],
        "gray": np.repeat(_rounded(images @ np.array(LUMA))[..., None], 3, axis=-1),
        "noise": draw("noise").integers(256, size=shape, dtype=np.uint8),
        "pixel_noise": _rounded(train_mean + train_std * draw("pixel_noise").standard_normal(shape, np.float32)),
        "hflip": images[:, :, ::-1].copy(),
        "vflip": images[:, ::-1].copy(),
        "inverted": 255 - images,
        "bgr": images[..., ::-1].copy(),
        "shuffled": _shuffled(images, draw("shuffled")),
    }


def rare(attributes: NDArray[np.uint8], names: Sequence[str], wanted: Sequence[str] = RARE) -> NDArray[np.bool_]:
    """Which faces have any of the wanted attributes, (n,), for (n, A) in {0, 1} with their A names.

    They count as OOD, the faces that have none of them as ID.

    Raises:
        LookupError: the faces are not labelled with one of them.
    """
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise LookupError(f"faces are not labelled with {unknown[0]} (only with: {', '.join(names) or 'nothing'})")
    found: NDArray[np.bool_] = (attributes[:, [list(names).index(name) for name in wanted]] == 1).any(axis=1)
    return found


def _rounded(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Levels of any size to the nearest of the 256."""
    rounded: NDArray[np.uint8] = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def _shuffled(images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """The patches of each image in an order of its own."""
    n, size = images.shape[:2]
    if size % GRID:
        raise ValueError(f"size {size}: patches need a multiple of {GRID}")
    side = size // GRID
    patches = images.reshape(n, GRID, side, GRID, side, 3).swapaxes(2, 3).reshape(n, GRID**2, side, side, 3)
    order = generator.permuted(np.tile(np.arange(GRID**2), (n, 1)), axis=1)
    moved: NDArray[np.uint8] = patches[np.arange(n)[:, None], order]
    return moved.reshape(n, GRID, GRID, side, side, 3).swapaxes(2, 3).reshape(images.shape)
