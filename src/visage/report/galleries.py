"""Galleries: the faces that a model treats worst beside ordinary ones and those it treats best."""

from collections.abc import Sequence
from dataclasses import dataclass

from visage.report.captions import GALLERIES, gallery_words, ranking
from visage.report.images import Sheet, sheet
from visage.report.load import Run
from visage.results import Face


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A gallery with its picture. faces: each with its place on the sheet."""

    title: str
    caption: str
    sheet: Sheet
    faces: Sequence[tuple[Face, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Galleries:
    """The galleries of one measure. title: what a sentence calls the measure; unit: "" where that says it."""

    title: str
    unit: str
    places: Sequence[LaidOut]


def galleries(run: Run) -> list[Galleries]:
    """The galleries measure by measure, worst faces first, but those without a picture."""
    found: dict[str, list[LaidOut]] = {}
    for gallery in sorted(run.results.galleries, key=lambda one: list(GALLERIES).index(one.place)):
        there = gallery.picture in run.pictures
        laid_out = sheet(run.folder / gallery.picture, run.config.size, len(gallery.faces)) if there else None
        if laid_out:
            faces = list(zip(gallery.faces, laid_out.places, strict=True))
            found.setdefault(gallery.measure, []).append(LaidOut(*gallery_words(gallery), laid_out, faces))
    return [Galleries(ranking(measure).title, ranking(measure).unit, places) for measure, places in found.items()]
