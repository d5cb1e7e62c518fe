"""The charts of scores that tell faces from other images: ROC curves and histograms, all of the headline set."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from visage.report.load import Run
from visage.report.models import Model
from visage.report.plotting import DASHES, INK, Drawing, Look, plot
from visage.report.wording import share
from visage.results import TEST, Scores

FALSE = "share of faces flagged"


def drawn_scores(run: Run) -> list[str]:
    """The scores that were kept per image for faces and for the headline set, without NaN; the default one first."""
    faces, others = _kept(run)
    names = [name for name, values in faces.items() if _whole(values) and name in others and _whole(others[name])]
    return sorted(names, key=lambda name: name != run.results.default_score)


def _kept(run: Run) -> tuple[Scores, Scores]:
    """The scores of held-out faces, and those of the headline set."""
    scores = run.per_image.scores
    return scores.get(TEST, {}), scores.get(run.results.headline, {})


def _whole(scores: NDArray[np.float64]) -> bool:
    return len(scores) > 0 and not bool(np.isnan(scores).any())


def roc(
    models: Sequence[Model], look: Mapping[str, Look], size: int, scores: Mapping[str, Sequence[str]], others: str
) -> list[Drawing]:
    """ROC curves of all models, each by the default score of its first run.

    scores: label -> scores, the default one first. others: title of the headline set.
    """
    kept: list[Drawing] = []
    having = [model for model in models if scores[model.label]]
    if having:
        title, flagged = f"Telling {others} from faces", f"share of {others} flagged"
        with plot(kept, f"ood-roc-{size}", title, FALSE, flagged, 2.9) as axes:
            for model in having:
                score = scores[model.label][0]
                label = f"{model.label} {_named(model.first, score)}"
                _roc(axes, model.first, score, look[model.label], label)
            _square(axes)
    return kept


def roc_of_model(model: Model, look: Look, scores: Sequence[str], others: str) -> list[Drawing]:
    """ROC curves of some scores of a model's first run."""
    kept: list[Drawing] = []
    if scores:
        name, title = f"{model.label}-ood-roc", "Faces flagged, others flagged"
        with plot(kept, name, title, FALSE, f"share of {others} flagged", 2.9) as axes:
            for score, dash in zip(scores, itertools.cycle(DASHES)):
                first = score == scores[0]
                style = Look(look.color if first else INK, dash, "")
                _roc(axes, model.first, score, style, _named(model.first, score), 2.0 if first else 1.2)
            _square(axes)
    return kept


def _named(run: Run, score: str) -> str:
    """The score with its AUROC on the headline set."""
    record = run.results.find("auroc", score=score)
    return f"{score} {share(record.value)}" if record and record.value is not None else score


def _finite(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Infinite scores, which are valid, as the largest numbers there are; NaN, which is not, stays and is refused."""
    largest = np.finfo(np.float64).max
    clipped: NDArray[np.float64] = np.clip(scores, -largest, largest)
    return clipped


def _roc(axes: Axes, run: Run, score: str, look: Look, label: str, width: float = 1.6) -> None:
    inside, outside = (scores[score] for scores in _kept(run))
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    false, true, _ = roc_curve(truth, _finite(np.concatenate([inside, outside])))
    axes.plot(false, true, color=look.color, ls=look.dash, lw=width, label=label)


def _square(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=INK, lw=0.7, alpha=0.5)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def histogram(model: Model, look: Look, score: str, others: str) -> list[Drawing]:
    """The distribution of one score of the first run over faces (filled) and the other images (outlined).

    others: title of the headline set. The outermost hundredth of the scores is drawn in the outermost bins.
    """
    inside, outside = (_finite(scores[score]) for scores in _kept(model.first))
    low, high = np.quantile(np.concatenate([inside, outside]), [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = max(2, min(45, round(2 * len(inside) ** 0.5)))
    edges = np.linspace(low, high, bins + 1).tolist()
    kept: list[Drawing] = []
    heading, axis = f"{model.label}: {_named(model.first, score)}", f"{score} (higher = less like the faces)"
    with plot(kept, f"{model.label}-ood-{score}", heading, axis, "density") as axes:
        axes.hist(
            np.clip(inside, low, high),
            edges,
            density=True,
            histtype="stepfilled",
            color=look.color,
            alpha=0.75,
            label="held-out faces",
        )
        axes.hist(
            np.clip(outside, low, high),
            edges,
            density=True,
            histtype="stepfilled",
            fc="none",
            ec=INK,
            hatch="////",
            lw=1,
            label=others,
        )
        axes.grid(axis="x", visible=False)
    return kept
