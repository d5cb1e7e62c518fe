"""Sets of images derived from test faces or from noise: each differs from faces in one way that is known.

Where a score fails on one of them, the set says what the score looks at. Brightness, contrast and complexity explain
most of what likelihoods do on images of another kind (Nalisnick et al. 2019, arXiv:1810.09136; Serra et al. 2020,
arXiv:1909.11480).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from visage.maths.streams import numpy_generator

GRID = 8
"""Patches on a side of a shuffled face."""
SIGMA = 2 / 32
"""Standard deviation of the blur, as a share of the image's side."""
TREMOR = 2.0
"""Standard deviation of the noise on the mean face, in levels."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
LOW, HIGH = 0.3, 1.5
"""Factors of the contrast around mid-grey."""
FROM_NOISE = ("constant", "mean_face", "noise", "pixel_noise")
"""Sets that show no test face."""
MIRRORED = "hflip"
"""The control: which way a face looks is nothing that a model knows whose training mirrors images."""
RARE = ("Wearing_Hat", "Eyeglasses")
"""Attributes of faces that are still faces, but less common."""


def derive(
    images: NDArray[np.uint8], *, train_mean: NDArray[np.float64], train_std: NDArray[np.float64], seed: int
) -> dict[str, NDArray[np.uint8]]:
    """Derive every set from (n, S, S, 3) uint8 test faces: name -> (n, S, S, 3) uint8, in the order of the page.

    Image i depends on face i and the seed, not on how many there are, and no set depends on the others.
    `visage.measures.table.SETS` describes each set.

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
        MIRRORED: images[:, :, ::-1].copy(),
        "vflip": images[:, ::-1].copy(),
        "inverted": 255 - images,
        "bgr": images[..., ::-1].copy(),
        "shuffled": _shuffled(images, draw("shuffled")),
    }


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
