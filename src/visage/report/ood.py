"""How well scores tell faces from other images: a board of all models and sets, and sentences that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from visage.report.entries import Entry, Pooled, record_of
from visage.report.figures import drawable
from visage.report.load import Record, Run
from visage.report.table import hint, spread
from visage.report.wording import share

OTHERS = "ood"
"""Of all sets the one that is no made one."""
COMPUTED = "computed for this page from scores.npz: all measured test faces against the set; no interval"


@dataclass(frozen=True, slots=True)
class Images:
    """A set of images that are no faces as the model knows them. isolates: in what they differ."""

    key: str
    title: str
    isolates: str


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell of a board.

    name: by which the page finds the number's protocol. value: an AUROC, None where `reason` says why there is none.
    strength: how far it lies from chance, 0 to 1; side: high, low or even.
    """

    name: str
    text: str
    value: float | None
    detail: str
    hint: str
    strength: float
    side: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a board. label: whose numbers these are; title: what is shown; model: whether it is one."""

    label: str
    title: str
    model: bool
    cells: Sequence[Heat]


def sets_of(shown: Sequence[Entry], other: str) -> list[Images]:
    """All sets that some run was asked about: the real one first, then the made ones in their order.

    other: the real one's name.
    """
    made = {name: about for entry in shown for name, about in entry.first.suite.items()}
    names = dict.fromkeys([*made, *(n.split("/")[1] for e in shown for n in e.names() if n.startswith("suite/"))])
    asked = {name for entry in shown for name in entry.names()}
    titles = {name: name.replace("_", " ") for name in names} | {name: about.title for name, about in made.items()}
    found = [Images(OTHERS, other, "everything at once: other content, other colours, another complexity")]
    found += [Images(n, titles[n], made[n].isolates if n in made else "") for n in names if f"suite/{n}" in asked]
    return found


def board(shown: Sequence[Entry], sets: Sequence[Images]) -> list[Row]:
    """A row per model with the AUROC of its default score, then the statistics that need no model."""
    rows = []
    for entry in shown:
        names = ["ood_auroc" if images.key == OTHERS else f"suite/{images.key}" for images in sets]
        rows.append(Row(entry.label, entry.label, True, [heat(name, entry.pooled(name)) for name in names]))
    having = next((entry for entry in shown if baselines(entry)), None)
    return [*rows, *(_baseline_rows(having, sets) if having else [])]


def score_rows(entry: Entry, sets: Sequence[Images]) -> list[tuple[Row, Sequence[Pooled]]]:
    """A row per score of the model, then the statistics that need none; beside each row its figures."""
    scores = [name.removeprefix("ood/") for name in entry.names() if name.startswith("ood/")]
    rows = []
    for score in scores:
        pooled = [Pooled([auroc(run, score, images.key) for run in entry.runs]) for images in sets]
        cells = [heat(figure.records[0].name, figure) for figure in pooled]
        rows.append((Row(entry.label, score, True, cells), pooled))
    return [*rows, *((row, []) for row in _baseline_rows(entry, sets))]


def baselines(entry: Entry) -> list[str]:
    """The statistics that need no model."""
    return [name.removeprefix("ood_baseline/") for name in entry.names() if name.startswith("ood_baseline/")]


def _baseline_rows(entry: Entry, sets: Sequence[Images]) -> list[Row]:
    """They stand on the images alone, so those of one model are those of all."""
    rows = []
    for name in baselines(entry):
        figures = [
            entry.pooled(f"ood_baseline/{name}")
            if images.key == OTHERS
            else Pooled([auroc(entry.first, name, images.key, "_baseline")])
            for images in sets
        ]
        rows.append(Row(entry.label, name, False, [heat(figure.records[0].name, figure) for figure in figures]))
    return rows


def auroc(run: Run, score: str, key: str, kind: str = "") -> Record:
    """The AUROC of one score against one set: as recorded, else from the scores that were kept per image.

    kind: "_baseline" for a statistic that needs no model.
    """
    default = next((name.partition("/")[2] for name in run.scores if name.startswith("test/")), None)
    if key == OTHERS:
        return record_of(run, f"ood{kind}/{score}")
    if score == default and not kind and f"suite/{key}" in run.records:
        return run.records[f"suite/{key}"]
    inside, outside = run.scores.get(f"test{kind}/{score}"), run.scores.get(f"suite.{key}{kind}/{score}")
    known = next(iter(run.records.values()), None)
    name, hashes = f"suite{kind}/{key}/{score}", (known.data_hash, known.model_hash) if known else ("", "")
    if inside is None or outside is None or not len(inside) or not len(outside):
        return Record(name, None, "AUROC", "undefined", 0, None, "this score was not measured on this set", *hashes)
    values = np.concatenate([inside, outside])
    if np.isnan(values).any():
        return Record(name, None, "AUROC", "undefined", 0, None, "the score is NaN for some images", *hashes)
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    return Record(
        name, float(roc_auc_score(truth, drawable(values))), "AUROC", "exact", len(values), None, COMPUTED, *hashes
    )


def heat(name: str, pooled: Pooled) -> Heat:
    """The cell of a figure."""
    if pooled.value is None:
        return Heat(name, "–", None, "", pooled.reason, 0.0, "even")
    away = pooled.value - 0.5
    side = "high" if away > 0 else "low" if away < 0 else "even"
    return Heat(
        name, share(pooled.value), pooled.value, spread(pooled, share), hint(pooled, share), 2 * abs(away), side
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence that the numbers allow. verdict: inverted, separated or open."""

    label: str
    verdict: str
    text: str


def find(entry: Entry, others: str) -> list[Finding]:
    """Say what the likelihood score allows to be said, of every seed, and nothing more.

    others: the other set's name.
    """
    pooled = entry.pooled("ood/nll")
    intervals = [record.ci95 for record in pooled.records if record.value is not None and record.ci95 is not None]
    if pooled.value is None or len(intervals) < len(pooled.records):
        return []
    words = {"upper_bound": "likelihood bound", "estimate": "likelihood estimate"}
    what = words.get(entry.pooled("bits_per_dim").kind, "likelihood")
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    which = "95 % CI" if len(intervals) == 1 else f"95 % CIs of {len(intervals)} seeds within"
    numbers = f"AUROC {share(pooled.value)}, {which} {share(low)}–{share(high)}"
    if pooled.inverted:
        return [Finding(entry.label, "inverted", f"gives {others} a higher {what} than held-out faces ({numbers})")]
    if low > 0.5:
        return [Finding(entry.label, "separated", f"gives {others} a lower {what} than held-out faces ({numbers})")]
    return [Finding(entry.label, "open", f"gives both sets so similar a {what} that nothing follows ({numbers})")]


def drawn_scores(run: Run) -> list[str]:
    """The scores of the model that were kept per image for both sets, without NaN; the default one first."""
    names = [key.partition("/")[2] for key in run.scores if key.startswith("test/")]
    return [name for name in names if _whole(run.scores.get(f"test/{name}")) and _whole(run.scores.get(f"ood/{name}"))]


def _whole(scores: NDArray[np.float64] | None) -> bool:
    return scores is not None and len(scores) > 0 and not bool(np.isnan(scores).any())
