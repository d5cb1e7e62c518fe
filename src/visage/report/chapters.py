"""The chapters of a size, such as "Sample quality": which charts of all models, and which pictures, are in each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visage.measures.table import BY_KEY
from visage.report.captions import Titles
from visage.report.charts import Line, Point, dots, rate_distortion, scatter
from visage.report.curves import validation_curves
from visage.report.denoising import over_reference
from visage.report.images import Copier
from visage.report.linear import Opponent
from visage.report.models import Model
from visage.report.plotting import PLAIN, Drawing, Look
from visage.report.score_charts import drawn_scores, roc
from visage.report.side_by_side import Absent, PictureRow, absent, picture_rows
from visage.report.table import SUSPICIOUS
from visage.results import Reference

CHAPTERS = {
    "likelihood": ("Likelihood", "Lower is better. Triangles are bounds and point to where the true value lies."),
    "reconstruction": ("Reconstruction", ""),
    "denoising": (
        "Denoising",
        "What the network of a diffusion model adds to a Wiener filter, the best linear map from a noisy image to the "
        "clean one: the same faces with the same noise. Below 1 it knows more of faces than their covariance says.",
    ),
    "samples": (
        "Sample quality",
        "Measured in features of the pipeline's own attribute network. They ignore what attributes do not need, such "
        "as noise and texture, so look at the pictures, too.",
    ),
    "ood": (
        "Out of distribution",
        "Each model's default score was fixed before any other image was seen and is never reversed: at 1 it tells the "
        "set from faces, .5 is chance, and below that it finds the set more face-like than faces.",
    ),
    "latents": ("Latent codes", ""),
    "cost": (
        "Quality and cost",
        "What a better figure costs: training in floating-point operations, sampling in time.",
    ),
    "more": ("More pictures", ""),
}
"""Key -> title and what to know, in the order of the page."""
ABOUT = {
    "likelihood": "bits_per_dim",
    "reconstruction": "recon_mse",
    "denoising": "denoise_mse_1",
    "samples": "fd_attr128",
    "ood": "auroc",
    "latents": "probe_auroc",
}
"""Key -> the figure without which a model is not in the chapter's charts."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter with its charts and the pictures of all models side by side. absent: those that are in no chart."""

    key: str
    title: str
    lead: str
    charts: Sequence[Drawing]
    absent: Sequence[Absent]
    pictures: Sequence[PictureRow]


@dataclass(frozen=True, slots=True)
class Charts:
    """Draws the charts that compare the models of one size.

    look: label -> how it is drawn. reference: None where it is missing. headline: title of the headline set.
    linear: references that are lines, or points where a chart has two measures.
    """

    size: int
    models: Sequence[Model]
    look: Mapping[str, Look]
    reference: Reference | None
    headline: str
    linear: Sequence[Opponent]

    def likelihood(self) -> list[Drawing]:
        """Bits per dimension, at the end and over training, and what they consist of."""
        return [
            *self._dots("bits_per_dim", self._linear("bits_per_dim")),
            *self._dots("iw_gain"),
            *validation_curves(self.models, self.look, self.size, self._linear("bits_per_dim")),
            *rate_distortion(self.models, self.look, self.size),
        ]

    def reconstruction(self) -> list[Drawing]:
        """Errors of reconstructions."""
        return [one for metric in ("recon_mse", "psnr", "ssim") for one in self._dots(metric, self._linear(metric))]

    def denoising(self) -> list[Drawing]:
        """Errors after noise was removed, over those of the linear reference, against the noise."""
        plain = next((one for one in self.linear if one.figure("denoise_mse_1").value is not None), None)
        return over_reference(f"denoising-{self.size}", self.models, self.look, plain) if plain else []

    def samples(self) -> list[Drawing]:
        """How far samples are from faces, how varied, and how new."""
        copies = [Line(SUSPICIOUS, "copies below"), Line(1.0, "test faces")]
        return [
            *self._dots("fd_attr128", [*self._line("fd_attr128_floor", "real faces"), *self._linear("fd_attr128")]),
            *self._dots("memorization", copies),
            *self._scatter("precision-recall", "Precision and recall", "precision", "recall"),
            *self._scatter("density-coverage", "Density and coverage", "density", "coverage"),
        ]

    def ood(self) -> list[Drawing]:
        """How well default scores tell the headline set from faces."""
        scores = {model.label: drawn_scores(model.first) for model in self.models}
        return [
            *self._dots("auroc", [Line(0.5, "chance"), *self._linear("auroc")]),
            *roc(self.models, self.look, self.size, scores, self.headline),
        ]

    def latents(self) -> list[Drawing]:
        """What codes tell of attributes."""
        return [
            *self._dots("probe_auroc", self._line("probe_pixels", "16 × 16 pixels")),
            *self._dots("mig"),
            *self._scatter("dci", "DCI", "dci_completeness", "dci_disentanglement"),
        ]

    def cost(self) -> list[Drawing]:
        """Quality against cost."""
        return [
            *self._against_cost("fd_attr128", "train_pflop", "training", "training, PFLOP"),
            *self._against_cost("bits_per_dim", "train_pflop", "training", "training, PFLOP"),
            *self._against_cost("fd_attr128", "samples_per_second", "sampling", "samples per second"),
        ]

    def absent(self, chapter: str) -> list[Absent]:
        """The models that a chapter is not about."""
        figures = [(model, model.pooled(ABOUT[chapter])) for model in self.models if chapter in ABOUT]
        return absent((model, figure.reason) for model, figure in figures if figure.value is None)

    def _points(self, y: str, x: str | None = None) -> list[Point]:
        return [
            Point(model.label, self.look[model.label], model.pooled(y), model.pooled(x) if x else None)
            for model in self.models
        ]

    def _line(self, metric: str, text: str) -> list[Line]:
        """A line at a figure that does not depend on the model."""
        record = self.reference.find(metric) if self.reference else None
        return [] if record is None or record.value is None else [Line(record.value, text)]

    def _linear(self, metric: str) -> list[Line]:
        """A line at what each linear reference reaches; one without a code speaks for all where it has the figure."""
        having = [one for one in self.linear if one.figure(metric).value is not None and not one.outside]
        chosen = [one for one in having if not one.about.numbers] or having
        return [Line(value, one.phrase) for one in chosen if (value := one.figure(metric).value) is not None]

    def _dots(self, metric: str, lines: Sequence[Line] = ()) -> list[Drawing]:
        title = BY_KEY[metric].title
        return dots(f"{metric}-{self.size}", title, _axis(metric), self._points(metric), lines)

    def _scatter(self, name: str, title: str, x: str, y: str) -> list[Drawing]:
        plain = [Point(one.title, PLAIN, one.pooled(y), one.pooled(x)) for one in self.linear]
        return scatter(f"{name}-{self.size}", title, _axis(x), _axis(y), [*self._points(y, x), *plain])

    def _against_cost(self, y: str, x: str, name: str, axis: str) -> list[Drawing]:
        title = f"{BY_KEY[y].title} against the cost of {name}"
        return scatter(
            f"{y}-{name}-{self.size}", title, axis, _axis(y), self._points(y, x), self._linear(y), log_x=True
        )


def _axis(metric: str) -> str:
    measure = BY_KEY[metric]
    better = f"{measure.better} is better" if measure.better else ""
    return ", ".join(part for part in (measure.title, measure.unit, better) if part)


def chapters(
    charts: Charts,
    histograms: Sequence[Drawing],
    titles: Titles,
    with_board: bool,
    copier: Copier,
) -> list[Chapter]:
    """The chapters that have something in them.

    histograms: of the models' default scores. titles: set of other images -> title. with_board: whether the chapter on
        other images has a board. copier: takes the pictures.
    """
    drawn: dict[str, list[Drawing]] = {
        "likelihood": charts.likelihood(),
        "reconstruction": charts.reconstruction(),
        "denoising": charts.denoising(),
        "samples": charts.samples(),
        "ood": [*charts.ood(), *histograms],
        "latents": charts.latents(),
        "cost": charts.cost(),
    }
    pictures: dict[str, list[PictureRow]] = {}
    for row in picture_rows(charts.models, titles, copier, charts.linear):
        pictures.setdefault(row.chapter, []).append(row)
    found = [
        Chapter(key, title, lead, drawn.get(key, []), charts.absent(key), pictures.get(key, []))
        for key, (title, lead) in CHAPTERS.items()
    ]
    return [one for one in found if one.charts or one.pictures or (one.key == "ood" and with_board)]
