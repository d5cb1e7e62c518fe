"""Galleries: the faces that a model treats worst beside ordinary ones and those it treats best."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visage.report.captions import GALLERIES, gallery_words, ranking
from visage.report.images import Copier, Strip
from visage.report.load import Run
from visage.results import Face


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A gallery with its picture. faces: each with its place in the strip."""

    title: str
    caption: str
    strip: Strip
    faces: Sequence[tuple[Face, float]]


@dataclass(frozen=True, slots=True)
class Galleries:
    """The galleries of one measure. title: what a sentence calls the measure; unit: "" where that says it."""

    title: str
    unit: str
    places: Sequence[LaidOut]


def galleries(run: Run, copier: Copier) -> list[Galleries]:
    """The galleries measure by measure, worst faces first, but those without a picture, which `copier` takes."""
    found: dict[str, list[LaidOut]] = {}
    for gallery in sorted(run.results.galleries, key=lambda one: list(GALLERIES).index(one.place)):
        if gallery.picture not in run.pictures:
            continue
        path, name = run.folder / gallery.picture, f"{run.name}/{Path(gallery.picture).stem}"
        if strip := copier.strip(path, run.config.size, len(gallery.faces), name):
            faces = list(zip(gallery.faces, strip.places, strict=True))
            found.setdefault(gallery.measure, []).append(LaidOut(*gallery_words(gallery), strip, faces))
    return [Galleries(ranking(measure).title, ranking(measure).unit, places) for measure, places in found.items()]
