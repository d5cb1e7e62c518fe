"""Linear references beside the models: which one a model is compared with, and whether it beats it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visage.measures.comparison import ImageValues, paired_difference
from visage.measures.denoising import LEVELS
from visage.measures.table import BY_KEY, Measure
from visage.report.figures import Figure, Pooled, recorded, undefined
from visage.report.load import load_reference, load_reference_values, reference_folder
from visage.report.models import Model
from visage.report.wording import WRITE
from visage.results import JUDGED_FOLDERS, TEST, JudgedFolder, LinearReference, read

JUDGED = ("bits_per_dim", "recon_mse", *LEVELS, "fd_attr128")
"""Figures, lower is better, that are not worth a network where linear algebra has them as good: those of each task."""


@dataclass(frozen=True, slots=True)
class Opponent:
    """A linear reference of one size, as the page shows it.

    data_hash: of the images. values: measure -> its values of single faces, where they are known.
    folder: with its picture. outside: whether it is a folder of samples from elsewhere, which no model need beat.
    """

    about: LinearReference
    size: int
    data_hash: str
    values: Mapping[str, ImageValues]
    folder: Path
    outside: bool = False

    @property
    def title(self) -> str:
        """What the page calls it."""
        if self.outside:
            return self.about.name
        return f"PCA, {self.about.numbers} numbers" if self.about.numbers else "One Gaussian"

    @property
    def label(self) -> str:
        """The label of its figures."""
        return f"{self.title}, {self.size} × {self.size} pixels"

    @property
    def kind(self) -> str:
        """What it is, beside the title."""
        return "samples from elsewhere" if self.outside else "linear reference, no network"

    @property
    def phrase(self) -> str:
        """The title within a sentence."""
        return self.title if self.about.numbers or self.outside else "one Gaussian"

    @property
    def picture(self) -> Path:
        """Where its picture is, if there is one; named after the picture of a model that shows the same."""
        return self.folder / f"{self.about.name}_{'reconstructions' if self.about.numbers else 'samples'}.png"

    @property
    def caption(self) -> str:
        """What its picture shows."""
        if self.outside:
            return "Samples from elsewhere, the first ones of their folder."
        if self.about.numbers:
            return f"Test faces above; below, what the first {self.about.numbers} principal components keep of them."
        return "Drawn from one Gaussian of all pixels together: what takes no network. None was picked."

    def figure(self, metric: str) -> Figure:
        """One of its figures; undefined where it has none of the kind."""
        record = next((record for record in self.about.records if record.metric == metric), None)
        return recorded(record) if record else undefined("not measured for a linear reference")

    def pooled(self, metric: str) -> Pooled:
        """The same as a model's."""
        return Pooled([self.figure(metric)])


def opponents(size: int, root: Path, models: Sequence[Model]) -> list[Opponent]:
    """The linear references that the page shows: those without a code, and those that some model is compared with.

    root: the project's folder. There are none where the reference of this size was not computed.

    Raises:
        UserError: a file is damaged.
    """
    reference = load_reference(size, root)
    if reference is None:
        return []
    per_image, folder = load_reference_values(size, root), root / reference_folder(size)
    rows = per_image.rows.get(TEST)
    found = []
    for about in reference.linear:
        metrics = dict.fromkeys(record.metric for record in about.records)
        values = {
            metric: ImageValues(rows, array, per_image.identity)
            for metric in metrics
            if rows is not None and (array := per_image.values.get(about.key(metric))) is not None
        }
        found.append(Opponent(about, size, reference.data_hash, values, folder))
    met = [opponent_of(model, metric, found) for model in models for metric in JUDGED]
    return [*(one for one in found if not one.about.numbers or one in met), *_outside(size, root, reference.data_hash)]


def _outside(size: int, root: Path, data_hash: str) -> list[Opponent]:
    """The folders of samples that `visage evaluate --join` has judged, without those that met other test faces."""
    found = []
    for path in sorted((root / JUDGED_FOLDERS / str(size)).glob("*.json")):
        about = read(path, JudgedFolder)
        if about.data_hash == data_hash:
            plain = LinearReference(about.name, 0, about.records)
            found.append(Opponent(plain, size, data_hash, {}, path.parent, outside=True))
        else:
            print(f"left out: {path} was judged against other faces: judge the folder again, or delete the file")
    return found


def opponent_of(model: Model, metric: str, opponents: Sequence[Opponent]) -> Opponent | None:
    """The linear reference of a model's figure; where it has a code, that with the most numbers, but no more than it.

    None where the model or every such reference has no figure of the kind, or they were measured on other images.
    """
    if model.pooled(metric).value is None:
        return None
    code = model.pooled("code_numbers").value or 0
    rivals = [one for one in opponents if not one.outside and one.figure(metric).value is not None]
    rivals = [one for one in rivals if one.about.numbers <= code]
    rivals = [one for one in rivals if all(run.results.data_hash == one.data_hash for run in model.runs)]
    return max(rivals, key=lambda one: one.about.numbers, default=None)


def better(model: Model, metric: str, opponent: Opponent) -> bool | None:
    """Whether a model's figure is better than that of its linear reference; None where that cannot be told.

    Values of single faces are compared on those that both were measured on: the model is better where the 95 % interval
    of the difference is. Where there are no such values, a difference between the figures must be larger than the root
    of the sum of squares of their intervals' half widths.
    """
    pooled, figure = model.pooled(metric), opponent.figure(metric)
    mine, theirs = model.per_image(metric), opponent.values.get(metric)
    if mine is not None and theirs is not None:
        if len(np.intersect1d(mine.rows, theirs.rows)) < 2:
            return None
        return paired_difference(mine, theirs).high < 0
    if pooled.value is None or figure.value is None:
        return None
    difference = pooled.value - figure.value
    unsure = math.hypot(*(_half_width(interval) for interval in (pooled.spread, figure.ci95)))
    return difference < 0 if abs(difference) > unsure else None


def _half_width(interval: tuple[float, float] | None) -> float:
    """Of an interval, 0 where there is none."""
    return (interval[1] - interval[0]) / 2 if interval else 0.0


def beaten(model: Model, metric: str, opponents: Sequence[Opponent]) -> str:
    """A flag for a figure that linear algebra reaches too; "" for others."""
    opponent = opponent_of(model, metric, opponents) if metric in JUDGED else None
    if opponent is None or better(model, metric, opponent) is not False:
        return ""
    return f"not better than {opponent.phrase}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the models stand that have one linear reference in one measure. text: its figure, as written.

    ahead, behind, unsure: labels of the models that are better than it, that are not, and that cannot be told from it.
    """

    opponent: Opponent
    measure: Measure
    text: str
    ahead: Sequence[str]
    behind: Sequence[str]
    unsure: Sequence[str]


def comparisons(models: Sequence[Model], opponents: Sequence[Opponent]) -> list[Comparison]:
    """Every linear reference in every measure that it is one for, measure by measure."""
    found = []
    for metric in JUDGED:
        for opponent in opponents:
            sides: dict[bool | None, list[str]] = {True: [], False: [], None: []}
            for model in models:
                if opponent_of(model, metric, opponents) == opponent:
                    sides[better(model, metric, opponent)].append(model.label)
            value = opponent.figure(metric).value
            if value is not None and any(sides.values()):
                text = WRITE[BY_KEY[metric].format](value)
                found.append(Comparison(opponent, BY_KEY[metric], text, sides[True], sides[False], sides[None]))
    return found
