"""How straight a walk between two codes looks."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]


def smoothness(features: Floats) -> NDArray[np.float64]:
    """How much rougher each of P paths is in features (P, T, F) than an even walk straight to its end.

    The mean squared step of the features per squared step of the path, T >= 2 points at equal distances from 0 to 1,
    over the squared distance of the features at its ends:

        (T - 1) * sum_t |f[t + 1] - f[t]|^2 / |f[T - 1] - f[0]|^2

    By Cauchy-Schwarz at least 1, and 1 exactly where the features move on a straight line in equal steps; one jump
    among points that stand still gives T - 1. This is the perceptual path length of Karras et al. 2019
    (arXiv:1812.04948, section 4.1) with steps of finite length, and over the ends' distance, so that it has no unit and
    does not favour paths whose ends look alike.

    Returns (P,), lower is smoother; inf where the features come back to where they began, NaN where they never move.
    """
    f = features.astype(np.float64)
    steps = (np.diff(f, axis=1) ** 2).sum((1, 2))
    straight = ((f[:, -1] - f[:, 0]) ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = (f.shape[1] - 1) * steps / straight
    return ratio
