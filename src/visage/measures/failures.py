"""The faces that a model treats worst, and beside them ordinary ones and those it treats best."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from visage.data.arrays import Faces
from visage.files import write_json

Place = Literal["worst", "median", "best"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One face of a gallery.

    row: of the split's arrays; value: of the gallery's measure; attributes: those that are set.
    """

    row: int
    image_id: str
    value: float
    attributes: list[str]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Faces from one place of the ranking by one measure, high values being bad.

    measure: its key, such as recon_mse; title: in words; picture: the file that shows the faces, in this order.
    """

    measure: str
    title: str
    unit: str
    place: Place
    picture: str
    faces: list[Failure]


def extremes(values: NDArray[np.float64], n: int) -> dict[Place, NDArray[np.intp]]:
    """Positions of n of the finite ones among (N,) values, or of all of them, from each place of their ranking.

    worst: the highest, highest first; best: the lowest, lowest first; median: those around the median rank, rising.
    Equal values stand in their order. Where fewer than 3 n values are finite, places share positions.
    """
    rising = np.argsort(values, kind="stable")
    rising = rising[np.isfinite(values[rising])]
    falling = np.argsort(-values, kind="stable")  # not `rising` turned round: that would turn equal values round too
    falling = falling[np.isfinite(values[falling])]
    start = max(0, len(rising) - n) // 2
    return {"worst": falling[:n], "median": rising[start : start + n], "best": rising[:n]}


def gallery(faces: Faces, rows: NDArray[np.int64], values: NDArray[np.float64]) -> list[Failure]:
    """Describe the faces at these rows, (n,), with the values they were ranked by, (n,)."""
    return [
        Failure(
            row=int(row),
            image_id=str(faces.image_id[row]),
            value=float(value),
            attributes=[name for name, set_ in zip(faces.names, faces.attributes[row], strict=True) if set_],
        )
        for row, value in zip(rows, values, strict=True)
    ]


def save_failures(path: Path, galleries: Sequence[Gallery]) -> None:
    """Write a JSON list of galleries."""
    write_json(path, [asdict(gallery) for gallery in galleries])
