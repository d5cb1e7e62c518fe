"""How well scores tell faces from other images: a board of all models and sets, and sentences that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from visage.measures.table import BASELINES, EXTERNAL_ISOLATES, SCORES, SETS, SetWords
from visage.report.figures import Key, Pooled, reference_figure
from visage.report.models import Model
from visage.report.table import hint, spread
from visage.report.wording import plain, share
from visage.results import ImageSet, Reference

ALIKE = 0.1
"""An interval of an AUROC that lies no further than this from 1/2 says that two sets are scored alike."""


GREY = "grey"
"""The score, without a model, of how little colour an image has."""


@dataclass(frozen=True, slots=True)
class OtherSet:
    """A set of other images. isolates: how they differ from faces as the model knows them."""

    name: str
    title: str
    isolates: str


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell of a board.

    key: by which the page finds the number's protocol. value: an AUROC, None where `hint` says why there is none.
    detail: its interval, or the range of the seeds.
    strength: how far it lies from chance, 0 to 1; side: high, low or even.
    """

    key: str
    text: str
    value: float | None
    detail: str
    hint: str
    strength: float
    side: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a board.

    label: whose numbers these are. title: the row's heading; hint: what the score is. model: whether a model gave it.
    """

    label: str
    title: str
    hint: str
    model: bool
    cells: Sequence[Heat]


def without_model(size: int) -> str:
    """The label of figures that depend on no model."""
    return f"No model, {size} × {size} pixels"


def score_words(score: str) -> str:
    """What a score is, as a phrase; "" for one that only its model explains."""
    words = SCORES[score][1] if score in SCORES else BASELINES.get(score, "")
    return words.replace("`", "")


def sets_of(reference: Reference | None, models: Sequence[Model]) -> list[OtherSet]:
    """All sets in the order of the page, the headline first; without a reference, those that are in some record."""
    return [_described(images) for images in (reference.sets if reference else _recorded(models))]


def _described(images: ImageSet) -> OtherSet:
    title = images.title or plain(images.name)
    words = SetWords(title, EXTERNAL_ISOLATES) if images.kind == "external" else SETS.get(images.name)
    return OtherSet(images.name, words.title if words else title, words.isolates if words else "")


def _recorded(models: Sequence[Model]) -> list[ImageSet]:
    results = [run.results for model in models for run in model.runs if run.evaluated]
    names = [name for found in results for name in (found.headline, *(record.images for record in found.records))]
    return [ImageSet(name, "derived" if name in SETS else "external", 0) for name in dict.fromkeys(names) if name]


def board(models: Sequence[Model], sets: Sequence[OtherSet], reference: Reference | None) -> list[Row]:
    """A row per model with the AUROC of its default score, then the statistics that need no model."""
    rows = []
    for model in models:
        score = model.first.results.default_score
        rows.append(
            Row(model.label, model.label, f"default score: {score}" if score else "", True, _cells(model, sets, score))
        )
    return [*rows, *baseline_rows(sets, reference)]


def score_rows(model: Model, sets: Sequence[OtherSet], reference: Reference | None) -> list[Row]:
    """A row per score of the model, then the statistics that need none."""
    rows = [Row(model.label, score, score_words(score), True, _cells(model, sets, score)) for score in model.scores]
    return [*rows, *baseline_rows(sets, reference)] if rows else []


def baseline_rows(sets: Sequence[OtherSet], reference: Reference | None) -> list[Row]:
    """A row per statistic that needs no model."""
    if reference is None:
        return []
    names = dict.fromkeys(record.score for record in reference.records if record.metric == "auroc")
    rows = []
    for name in names:
        keys = [Key("auroc", images.name, name) for images in sets]
        cells = [heat(key, Pooled([reference_figure(reference, key)])) for key in keys]
        rows.append(Row(without_model(reference.size), name, score_words(name), False, cells))
    return rows


def _cells(model: Model, sets: Sequence[OtherSet], score: str) -> list[Heat]:
    return [heat(Key("auroc", images.name, score), model.pooled("auroc", images.name, score)) for images in sets]


def heat(key: Key, pooled: Pooled) -> Heat:
    """The cell of a figure."""
    if pooled.value is None:
        return Heat(str(key), "–", None, "", pooled.reason, 0.0, "even")
    away = pooled.value - 0.5
    side = "high" if away > 0 else "low" if away < 0 else "even"
    words = spread(pooled, share), hint(pooled, share)
    return Heat(str(key), share(pooled.value), pooled.value, *words, 2 * abs(away), side)


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence that the numbers allow. verdict: inverted, separated, alike or open."""

    label: str
    verdict: str
    text: str


def find(model: Model, others: str, reference: Reference | None) -> list[Finding]:
    """Say what the likelihood score allows to be said, of every seed, and nothing more.

    others: title of the headline set. reference: with the AUROC of colour alone.
    """
    pooled = model.pooled("auroc", score="nll")
    intervals = [figure.ci95 for figure in pooled.figures if figure.value is not None and figure.ci95 is not None]
    if pooled.value is None or len(intervals) < len(pooled.figures):
        return []
    words = {"upper_bound": "likelihood bound", "estimate": "likelihood estimate"}
    what = words.get(model.pooled("bits_per_dim").kind, "likelihood")
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    which = "95 % CI" if len(intervals) == 1 else f"95 % CIs of {len(intervals)} seeds within"
    n = min(figure.n for figure in pooled.figures)
    numbers = f"AUROC {share(pooled.value)}, {which} {share(low)}–{share(high)}, n = {n}"
    if pooled.inverted:
        return [Finding(model.label, "inverted", f"gives {others} a higher {what} than held-out faces ({numbers})")]
    if low > 0.5:
        colour = _colour(reference)
        text = f"gives {others} a lower {what} than held-out faces ({numbers}{colour})"
        return [Finding(model.label, "separated", text)]
    if max(0.5 - low, high - 0.5) <= ALIKE:
        return [Finding(model.label, "alike", f"gives {others} about the same {what} as held-out faces ({numbers})")]
    text = f"leaves open whether {others} have a higher or a lower {what} than held-out faces ({numbers})"
    return [Finding(model.label, "open", text)]


def _colour(reference: Reference | None) -> str:
    """How well the headline set is told from faces by how grey it is, as the end of a sentence; "" where not at all.

    Sets of clothes or digits are grey, so that a separation of them may be one of colours.
    """
    record = reference.find("auroc", reference.headline, GREY) if reference else None
    if record is None or record.value is None or record.ci95 is None or record.ci95[0] <= 0.5:
        return ""
    return f"; colour alone tells them apart with an AUROC of {share(record.value)}"
