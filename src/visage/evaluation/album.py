"""The pictures of one evaluation, with what to write under them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.files import write_json
from visage.pictures import grid, save

COLUMNS = 8


@dataclass(slots=True)
class Album:
    """Pictures in `folder`. pictures.json lists exactly those of this evaluation."""

    folder: Path
    entries: dict[str, dict[str, str | int]] = field(default_factory=dict)

    def add(self, name: str, images: NDArray[np.uint8], title: str, caption: str, columns: int = COLUMNS) -> None:
        """Save (N, S, S, 3) images as a grid, row by row."""
        columns = min(columns, len(images))
        save(grid(images, columns), self.folder / name)
        rows = -(-len(images) // columns)
        self.entries[name] = {"title": title, "caption": caption, "columns": columns, "rows": rows}

    def add_rows(self, name: str, rows: Sequence[NDArray[np.uint8]], title: str, caption: str) -> None:
        """Save rows of equally many images, (n, S, S, 3) each, one above the other."""
        self.add(name, np.concatenate(rows), title, caption, columns=len(rows[0]))

    def add_pairs(
        self, name: str, above: NDArray[np.uint8], below: NDArray[np.uint8], title: str, caption: str
    ) -> None:
        """Save a grid in which each row of `above`, (N, S, S, 3), stands over the same row of `below`.

        A last row that is not full is filled up with white.
        """
        columns = min(COLUMNS, len(above))
        white = np.full((-len(above) % columns, *above.shape[1:]), 255, np.uint8)
        rows = [np.concatenate([part, white]).reshape(-1, columns, *above.shape[1:]) for part in (above, below)]
        self.add(name, np.stack(rows, axis=1).reshape(-1, *above.shape[1:]), title, caption, columns)

    def close(self) -> None:
        """Write pictures.json."""
        write_json(self.folder / "pictures.json", self.entries)
