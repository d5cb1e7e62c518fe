"""The faces that a model treats worst."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.data.arrays import Faces
from visage.files import write_json


@dataclass(frozen=True, slots=True)
class Failure:
    """One face of the gallery.

    row: of the split's arrays; value: of the gallery's measure; attributes: those that are set.
    """

    row: int
    image_id: str
    value: float
    attributes: list[str]


def worst_first(values: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Positions of the n highest finite of (N,) values, highest first; equal ones in their order."""
    order = np.argsort(-values, kind="stable")
    return order[np.isfinite(values[order])][:n]


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


def save_failures(path: Path, measure: str, unit: str, failures: Sequence[Failure]) -> None:
    """Write the gallery as JSON, in the order of its picture."""
    write_json(path, {"measure": measure, "unit": unit, "faces": [asdict(failure) for failure in failures]})
