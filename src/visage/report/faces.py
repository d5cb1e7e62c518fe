"""The first screen of the page: some faces of every model, beside its name and three of its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from visage.measures.table import Measure
from visage.report.captions import words_of
from visage.report.images import Copier, Shown
from visage.report.models import Model
from visage.report.table import Cell

SAMPLES = "samples.png"
ROWS = {SAMPLES: 0, "translations.png": 1, "inpainting.png": 2, "reconstructions.png": 1}
"""What shows best what a model makes -> the row of it that the model made."""
FACES = 6
"""How many of its images."""
FIGURES = 3


@dataclass(frozen=True, slots=True)
class Faces:
    """Some images that a model made. title: what they are, "" for samples. image: None where there are none yet."""

    model: Model
    image: Shown | None
    title: str
    figures: Sequence[tuple[Measure, Cell]]


def faces_of(model: Model, columns: Sequence[Measure], cells: Sequence[Cell], copier: Copier) -> Faces:
    """The first images of a model, and the first of the most important figures that it has. cells: one per column."""
    run = model.first
    known = [(column, cell) for column, cell in zip(columns, cells, strict=True) if cell.value is not None]
    figures = [(column, cell) for column, cell in known if column.headline and column.group != "cost"][:FIGURES]
    file = next((file for file in ROWS if file in run.pictures), None)
    if file is None:
        return Faces(model, None, "", figures)
    image = copier.part_of_row(run.folder / file, run.config.size, f"{run.name}/first", ROWS[file], FACES)
    return Faces(model, image, "" if file == SAMPLES else words_of(file).title, figures)
