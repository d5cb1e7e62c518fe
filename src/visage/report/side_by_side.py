"""The pictures of all models of a size, side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from visage.report.captions import PICTURES, Titles, caption, words_of
from visage.report.figures import NOT_EVALUATED
from visage.report.images import Copier, Shown
from visage.report.linear import Opponent
from visage.report.load import Run
from visage.report.models import Model


@dataclass(frozen=True, slots=True)
class Shot:
    """One model's place in a row of pictures. id: by which the model's page repeats it."""

    label: str
    id: str
    title: str
    caption: str
    image: Shown


@dataclass(frozen=True, slots=True)
class PictureRow:
    """The same kind of picture of several models. chapter: a key of `chapters.CHAPTERS`.

    absent: the models that should have one, too, and have none.
    """

    chapter: str
    title: str
    shots: Sequence[Shot]
    absent: Sequence["Absent"]


@dataclass(frozen=True, slots=True)
class Absent:
    """Models that have nothing to show. reason: why, as a phrase."""

    reason: str
    labels: Sequence[str]


def picture_rows(
    models: Sequence[Model], titles: Titles, copier: Copier, linear: Sequence[Opponent]
) -> list[PictureRow]:
    """A row for every kind of picture that some model has.

    titles: set of other images -> title. copier: takes the pictures. linear: references with pictures of their own.
    """
    files = dict.fromkeys(file for model in models for file in compared(model.first))
    order = list(PICTURES)
    known = [file for file in files if Path(file).stem in order]
    unknown = [file for file in files if file not in known]
    rising = sorted(known, key=lambda file: order.index(Path(file).stem))
    return [_row(file, models, titles, copier, linear) for file in (*rising, *unknown)]


def compared(run: Run) -> list[str]:
    """The pictures of a run but its galleries, which are shown face by face."""
    galleries = {gallery.picture for gallery in run.results.galleries}
    return [file for file in run.pictures if file not in galleries]


def shot_id(model: Model, file: str) -> str:
    """By which the page finds a picture."""
    return f"{model.label}-{Path(file).stem}"


def absent(reasons: Iterable[tuple[Model, str]]) -> list[Absent]:
    """The models by the reason why they have nothing to show."""
    found: dict[str, list[str]] = {}
    for model, reason in reasons:
        found.setdefault(reason, []).append(model.label)
    return [Absent(reason, labels) for reason, labels in found.items()]


def _row(file: str, models: Sequence[Model], titles: Titles, copier: Copier, linear: Sequence[Opponent]) -> PictureRow:
    words = words_of(file)
    shots = [_shot(model, file, titles, copier) for model in models if file in compared(model.first)]
    alike = [one for one in linear if one.picture.name.endswith(f"_{file}") and one.picture.is_file()]
    without = [model for model in models if words.capability and file not in compared(model.first)]
    reasons = [(model, model.first.results.abilities.get(words.capability) or NOT_EVALUATED) for model in without]
    shown = [*shots, *(_linear_shot(one, file, copier) for one in alike)]
    return PictureRow(words.chapter, words.title, shown, absent(reasons))


def _linear_shot(opponent: Opponent, file: str, copier: Copier) -> Shot:
    """The same kind of picture of a linear reference."""
    name, stem = f"{opponent.about.name}-{opponent.size}", Path(file).stem
    image = copier.copy(opponent.picture, opponent.size, f"{name}/{stem}")
    return Shot(opponent.label, f"{name}-{stem}", words_of(file).title, opponent.caption, image)


def _shot(model: Model, file: str, titles: Titles, copier: Copier) -> Shot:
    run = model.first
    image = copier.copy(run.folder / file, run.config.size, f"{run.name}/{Path(file).stem}")
    return Shot(model.label, shot_id(model, file), words_of(file).title, caption(run.pictures[file], titles), image)
