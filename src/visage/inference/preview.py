"""What a model makes of fixed noise, or of fixed faces: looked at over the training, it shows the training."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.data.arrays import Faces
from visage.maths.pixels import to_float, to_uint8
from visage.models.base import GenerativeModel, Inpaints, Reconstructs, Samples, Translates, can

IMAGES, COLUMNS = 32, 8
"""Images of a grid, and of its rows."""


@torch.no_grad()
def preview(model: GenerativeModel, faces: Faces, seed: int, device: torch.device) -> NDArray[np.uint8] | None:
    """A grid of 8 columns, (32, S, S, 3) uint8, from the same noise or faces at every call.

    Samples where the model draws any; else faces in a row above what it makes of them: translations, completions or
    reconstructions, fewer where there are fewer faces. None where it does none of these, or there are too few
    faces to fill a row. The model is in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, Samples) and can(model, Samples):
        return _pixels(model.sample(IMAGES, generator))
    if isinstance(model, Translates) and can(model, Translates):
        group = model.groups(torch.from_numpy(faces.columns(model.attributes)).float())
        assert group is not None  # a model that translates knows its two kinds of images
        kinds = [_faces(faces, (group == i).numpy(), device) for i in (0, 1)]
        if not all(len(x) for x in kinds):
            return None
        return _pixels(torch.cat([_pairs(x, model.translate(x, 1 - i)) for i, x in enumerate(kinds)]))
    x = _faces(faces, np.ones(len(faces.images), bool), device, IMAGES // 2)
    if not len(x):
        return None
    if isinstance(model, Inpaints) and can(model, Inpaints):
        return _pixels(_pairs(x, model.inpaint(x, generator)[0]))
    if isinstance(model, Reconstructs) and can(model, Reconstructs):
        return _pixels(_pairs(x, model.reconstruct(x)))
    return None


def _faces(faces: Faces, which: NDArray[np.bool_], device: torch.device, n: int = IMAGES // 4) -> Tensor:
    rows = np.flatnonzero(which)[:n]
    rows = rows[: len(rows) // COLUMNS * COLUMNS]  # whole rows of the grid
    return to_float(torch.from_numpy(np.array(faces.images[rows])).to(device))


def _pairs(above: Tensor, below: Tensor) -> Tensor:
    """Rows of `COLUMNS` images, each row of `above` over its row of `below`."""
    starts = range(0, len(above), COLUMNS)
    return torch.cat([part[start : start + COLUMNS] for start in starts for part in (above, below)])


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_uint8(x).cpu().numpy()
    return pixels
