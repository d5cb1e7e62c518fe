"""Which images a model treats worst, which are ordinary, and which it treats best."""

import numpy as np
from numpy.typing import NDArray

from visage.results import Place


def extremes(values: NDArray[np.float64], n: int) -> dict[Place, NDArray[np.intp]]:
    """Positions of n of the finite ones among (N,) values, or of all of them, from each place of their ranking.

    worst: the highest, highest first; best: the lowest, lowest first; median: those around the median rank, rising.
    Equal values keep their order. Where fewer than 3 n values are finite, galleries share positions.
    """
    rising = np.argsort(values, kind="stable")
    rising = rising[np.isfinite(values[rising])]
    falling = np.argsort(-values, kind="stable")  # not `rising` turned round: that would turn equal values round too
    falling = falling[np.isfinite(values[falling])]
    start = max(0, len(rising) - n) // 2
    return {"worst": falling[:n], "median": rising[start : start + n], "best": rising[:n]}
