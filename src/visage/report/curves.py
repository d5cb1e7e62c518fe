"""Curves over a training."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from visage.report.charts import Line, level
from visage.report.models import Model
from visage.report.plotting import DASHES, Drawing, Look, plot

POINTS = 150
"""A longer curve is averaged in blocks down to this many points."""


def thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average a long curve in blocks, so that at most POINTS are left."""
    block = -(-len(x) // POINTS)
    starts = np.arange(0, len(x), block)
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def frame_curves(axes: Axes, curves: Sequence[NDArray[np.float64]]) -> None:
    """Let the first twentieth of the training leave the frame where it would flatten all the rest, and say so."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    late = np.concatenate([curve[len(curve) // 20 :] for curve in finite])
    whole = np.concatenate(finite)
    if not len(late):
        return
    margin = 0.06 * (late.max() - late.min()) or 0.5
    low, high = late.min() - margin, late.max() + margin
    if whole.max() - whole.min() > 3 * (high - low):
        axes.set_ylim(low, high)
        axes.annotate(
            f"the start (up to {whole.max():.3g}) is off the scale",
            (0.99, 0.97),
            xycoords="axes fraction",
            ha="right",
            va="top",
            fontsize=7,
            alpha=0.75,
        )


KIMG = "images shown (thousand)"
TERMS = {
    "loss": ("Loss", "loss of each player, and of each penalty"),
    "rate": ("Rate (KL)", "nats per image"),
    "distortion": ("Distortion (reconstruction)", "nats per image"),
    "squared_error": ("Squared error", "sum per image, pixels in [0, 1]"),
    "grad_norm": ("Gradient norm", "L2 norm before clipping"),
}
"""Titles and units of the terms that every model's history has or many share; others go by their names."""


def training_curves(model: Model, look: Look) -> list[Drawing]:
    """One figure per logged term of the first run, all phases together, and the validation likelihood of every run."""
    kept: list[Drawing] = []
    run = model.first
    for term, columns in terms(run.history).items():
        title, unit = TERMS.get(term, (term.replace("_", " ").capitalize(), ""))
        with plot(kept, f"{model.label}-{term}", title, KIMG, unit) as axes:
            curves = []
            for column, dash in zip(columns, itertools.cycle(DASHES)):
                row = run.history[["kimg", column]].dropna()
                x, y = thin(row["kimg"].to_numpy(np.float64), row[column].to_numpy(np.float64))
                curves.append(y)
                axes.plot(x, y, color=look.color, ls=dash, label=column.rpartition("/")[0] or column)
            if term == "grad_norm" and all((curve > 0).all() for curve in curves):
                axes.set_yscale("log")
            else:
                frame_curves(axes, curves)
    kept += _validations(f"{model.label}-validation", "Validation", [(model, look)])
    return kept


def terms(history: pd.DataFrame) -> dict[str, list[str]]:
    """Term -> the history's columns that hold it, one per phase; loss first and gradient norms last."""
    found: dict[str, list[str]] = {}
    for column in history.columns:
        if column not in ("step", "kimg", "lr") and history[column].notna().any():
            found.setdefault(column.rpartition("/")[2], []).append(column)
    order = {"loss": 0, "squared_error": 1, "distortion": 2, "rate": 3, "grad_norm": 9}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 5)))


def validation_curves(
    models: Iterable[Model], look: Mapping[str, Look], size: int, lines: Sequence[Line]
) -> list[Drawing]:
    """Bits per dimension of the validation images over the training, all runs that have them.

    lines: to compare with.
    """
    drawn = [(model, look[model.label]) for model in models]
    return _validations(f"validation-{size}", "Validation over training", drawn, lines)


def _validations(
    name: str, title: str, drawn: Sequence[tuple[Model, Look]], lines: Sequence[Line] = ()
) -> list[Drawing]:
    """Every seed has its line; the first seed's has the marks."""
    kept: list[Drawing] = []
    having = [(model, look) for model, look in drawn if any(len(run.validation) for run in model.runs)]
    if having:
        with plot(kept, name, title, KIMG, "bits per dimension") as axes:
            for model, look in having:
                for run in model.runs:
                    x, y = run.validation["kimg"], run.validation["bits_per_dim"]
                    first = run is model.first
                    style = {"marker": look.marker, "label": model.label} if first else {"alpha": 0.5, "lw": 0.8}
                    axes.plot(x, y, color=look.color, ls=look.dash, ms=4, **style)
            level(axes, lines)
    return kept
