"""The pictures of all models of a size, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visage.report.captions import PICTURES, Titles, caption, words_of
from visage.report.figures import NOT_EVALUATED
from visage.report.images import Inlined, inline
from visage.report.load import Run
from visage.report.models import Model


@dataclass(frozen=True, slots=True)
class Shot:
    """One model's place in a row of pictures.

    id: by which the model's page repeats it. image: None where `reason` says why there is none.
    """

    label: str
    id: str
    title: str
    caption: str
    image: Inlined | None
    reason: str


@dataclass(frozen=True, slots=True)
class PictureRow:
    """The same kind of picture of several models. chapter: a key of `chapters.CHAPTERS`."""

    chapter: str
    title: str
    shots: Sequence[Shot]


def picture_rows(models: Sequence[Model], titles: Titles) -> list[PictureRow]:
    """A row for every kind of picture that some model has. titles: set of other images -> title."""
    files = dict.fromkeys(file for model in models for file in compared(model.first))
    order = list(PICTURES)
    known = [file for file in files if Path(file).stem in order]
    unknown = [file for file in files if file not in known]
    return [_row(file, models, titles) for file in (*sorted(known, key=lambda f: order.index(Path(f).stem)), *unknown)]


def compared(run: Run) -> list[str]:
    """The pictures of a run but its galleries, which are shown face by face."""
    galleries = {gallery.picture for gallery in run.results.galleries}
    return [file for file in run.pictures if file not in galleries]


def shot_id(model: Model, file: str) -> str:
    """By which the page finds a picture."""
    return f"{model.label}-{Path(file).stem}"


def _row(file: str, models: Sequence[Model], titles: Titles) -> PictureRow:
    words = words_of(file)
    shots = [_shot(model, file, titles) for model in models if words.capability or file in compared(model.first)]
    return PictureRow(words.chapter, words.title, shots)


def _shot(model: Model, file: str, titles: Titles) -> Shot:
    run, words = model.first, words_of(file)
    picture = run.pictures.get(file)
    if picture is None:
        reason = run.results.abilities.get(words.capability) or NOT_EVALUATED
        return Shot(model.label, shot_id(model, file), words.title, "", None, reason)
    image = inline(run.folder / file, run.config.size)
    return Shot(model.label, shot_id(model, file), words.title, caption(picture, titles), image, "")
