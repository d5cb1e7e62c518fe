"""The charts that compare models, and those of one model's scores."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from visage.report.canvas import DASHES, INK, Drawing, Look, canvas
from visage.report.entries import Entry, Pooled
from visage.report.load import Run
from visage.report.wording import share

BOUNDS = {"upper_bound": "<", "lower_bound": ">"}
"""Marks of bounds on a horizontal axis: triangles that point to where the true value lies."""
VERTICAL = {"upper_bound": "v", "lower_bound": "^"}
"""The same on a vertical one."""
WIDE = 40.0
"""Positive values that differ by a larger factor are drawn on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Point:
    """One model's place in a chart. x: None where the chart has one axis."""

    label: str
    look: Look
    y: Pooled
    x: Pooled | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A value to compare with, and what it is."""

    value: float
    text: str


def wide(values: Sequence[float]) -> bool:
    """Whether only a logarithmic scale shows all of them."""
    return min(values) > 0 and max(values) > WIDE * min(values)


def logarithmic(axis: Axis, values: Sequence[float]) -> None:
    """Plain numbers, so few that they do not run into each other."""
    decades = np.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def dots(name: str, title: str, unit: str, points: Sequence[Point], lines: Sequence[Line] = ()) -> list[Drawing]:
    """One measure of all models: a mark with its 95 % interval, or the mean with a small mark for every seed."""
    kept: list[Drawing] = []
    values = [value for point in points for value in point.y.values]
    if sum(point.y.value is not None for point in points) < 2:
        return kept
    with canvas(kept, name, title, unit, "", 0.8 + 0.24 * len(points), legend=False) as axes:
        if wide(values):
            axes.set_xscale("log")
            logarithmic(axes.xaxis, values)
        else:
            axes.locator_params(axis="x", nbins=5)  # long numbers must not run into each other
        for y, point in enumerate(points):
            color, pooled = point.look.color, point.y
            if len(pooled.values) > 1:
                axes.plot(pooled.values, [y] * len(pooled.values), "|", color=color, ms=8, mew=1.2)
            elif pooled.spread:
                axes.plot(pooled.spread, [y, y], color=color, lw=2.2, alpha=0.55, solid_capstyle="round")
            if pooled.value is not None:
                axes.plot([pooled.value], [y], BOUNDS.get(pooled.kind, point.look.marker), color=color, ms=6.5)
        axes.set_yticks(range(len(points)), [point.label for point in points])
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        if title.endswith("AUROC"):
            axes.set_xlim(-0.02, 1.02)
        _compare(axes, title, lines)
        # where no line is
        right = (
            not lines or axes.transAxes.inverted().transform(axes.transData.transform((lines[-1].value, 0)))[0] < 0.7
        )
        words: Any = {"ha": "right" if right else "left", "va": "center", "fontsize": 7.5, "alpha": 0.7}
        for y, point in enumerate(points):
            if point.y.value is None:
                axes.text(0.99 if right else 0.01, y, "not defined", transform=axes.get_yaxis_transform(), **words)
    return kept


def _compare(axes: Axes, title: str, lines: Sequence[Line]) -> None:
    """Draw the one or two lines, rising, their words above them and the title above both."""
    words: Any = {"va": "bottom", "fontsize": 7, "alpha": 0.8}
    sides = ["center"] if len(lines) == 1 else ["right", "left"]  # away from each other
    if lines:
        axes.set_title(title, pad=15)
    for line, side in zip(lines, sides, strict=False):
        axes.axvline(line.value, color=INK, lw=0.9, ls=(0, (3, 2)))
        axes.annotate(line.text, (line.value, 1.0), xycoords=axes.get_xaxis_transform(), ha=side, **words)


def scatter(name: str, title: str, x: str, y: str, points: Sequence[Point], log_x: bool = False) -> list[Drawing]:
    """Two measures of all models that have both: the means, numbered, and a small mark for every seed."""
    kept: list[Drawing] = []
    shown = [point for point in points if point.x and point.x.value is not None and point.y.value is not None]
    if len(shown) < 2:
        return kept
    with canvas(kept, name, title, x, y, 2.9) as axes:
        lengths = [value for point in shown if point.x for value in point.x.values]
        heights = [value for point in shown for value in point.y.values]
        if log_x and min(lengths) > 0:
            axes.set_xscale("log")
            logarithmic(axes.xaxis, lengths)
        if wide(heights):
            axes.set_yscale("log")
            logarithmic(axes.yaxis, heights)
        for number, point in enumerate(shown, 1):
            assert point.x is not None
            if len(point.y.values) == len(point.x.values) > 1:
                axes.plot(point.x.values, point.y.values, ".", color=point.look.color, ms=3.5, alpha=0.8)
            marker = VERTICAL.get(point.y.kind, point.look.marker)
            middle: Any = (point.x.value, point.y.value)
            label = f"{number}  {point.label}"
            axes.plot(*[[end] for end in middle], marker, color=point.look.color, ms=7, alpha=0.9, ls="", label=label)
            axes.annotate(str(number), middle, xytext=(4.5, 3), textcoords="offset points", fontsize=7)
        axes.margins(0.12)
    return kept


def rate_distortion(shown: Sequence[Entry], look: Mapping[str, Look], size: int) -> list[Drawing]:
    """Rate against distortion with lines of equal ELBO (Alemi et al. 2018, "Fixing a Broken ELBO")."""
    points = []
    for entry in shown:
        rate, distortion = (entry.pooled(name).value for name in ("rate", "distortion"))
        if rate is not None and distortion is not None:
            points.append((entry.label, rate, distortion))
    kept: list[Drawing] = []
    if len(points) < 2:
        return kept
    with canvas(kept, f"rate-distortion-{size}", "Rate and distortion", "rate (nats)", "distortion (nats)") as axes:
        for label, x, y in points:
            axes.plot([x], [y], look[label].marker, color=look[label].color, ms=8, label=label)
        axes.margins(0.35)
        axes.autoscale_view()
        left, right = axes.get_xlim()
        axes.set_autoscale_on(False)
        for label, x, y in points:
            line = [x + y - left, x + y - right]
            axes.plot([left, right], line, color=look[label].color, lw=0.8, ls=(0, (4, 3)), alpha=0.7)
    return kept


FALSE = "share of faces flagged"


def roc(
    shown: Sequence[Entry], look: Mapping[str, Look], size: int, scores: Mapping[str, Sequence[str]], other: str
) -> list[Drawing]:
    """ROC curves of all models, each by the default score of its first run.

    scores: label -> scores, the default one first. other: the other set's name.
    """
    kept: list[Drawing] = []
    having = [entry for entry in shown if scores[entry.label]]
    if having:
        title, flagged = f"Telling {other} from faces", f"share of {other} flagged"
        with canvas(kept, f"ood-roc-{size}", title, FALSE, flagged, 2.9) as axes:
            for entry in having:
                score = scores[entry.label][0]
                label = f"{entry.label} {_named(entry.first, score)}"
                _roc(axes, entry.first, score, look[entry.label], label)
            _square(axes)
    return kept


def roc_of_run(entry: Entry, look: Look, scores: Sequence[str], other: str) -> list[Drawing]:
    """ROC curves of some scores of a model's first run."""
    kept: list[Drawing] = []
    if scores:
        name, title = f"{entry.label}-ood-roc", "Faces flagged, others flagged"
        with canvas(kept, name, title, FALSE, f"share of {other} flagged", 2.9) as axes:
            for score, dash in zip(scores, itertools.cycle(DASHES)):
                first = score == scores[0]
                paint = Look(look.color if first else INK, dash, "")
                _roc(axes, entry.first, score, paint, _named(entry.first, score), 2.0 if first else 1.2)
            _square(axes)
    return kept


def _named(run: Run, score: str) -> str:
    """The score with its AUROC."""
    record = run.records.get(f"ood/{score}")
    return f"{score} {share(record.value)}" if record and record.value is not None else score


def drawable(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Infinite scores, which are valid, as the largest numbers there are; NaN, which is not, stays and is refused."""
    largest = np.finfo(np.float64).max
    clipped: NDArray[np.float64] = np.clip(scores, -largest, largest)
    return clipped


def _roc(axes: Axes, run: Run, score: str, look: Look, label: str, width: float = 1.6) -> None:
    inside, outside = run.scores[f"test/{score}"], run.scores[f"ood/{score}"]
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    false, true, _ = roc_curve(truth, drawable(np.concatenate([inside, outside])))
    axes.plot(false, true, color=look.color, ls=look.dash, lw=width, label=label)


def _square(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=INK, lw=0.7, alpha=0.5)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def histogram(entry: Entry, look: Look, score: str, other: str) -> list[Drawing]:
    """The distribution of one score of the first run over faces (filled) and the other images (outlined).

    other: the other set's name. The outermost hundredth of the scores is drawn in the outermost bins.
    """
    inside, outside = (drawable(entry.first.scores[f"{split}/{score}"]) for split in ("test", "ood"))
    low, high = np.quantile(np.concatenate([inside, outside]), [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = max(2, min(45, round(2 * len(inside) ** 0.5)))
    edges = np.linspace(low, high, bins + 1).tolist()
    kept: list[Drawing] = []
    heading, axis = f"{entry.label}: {_named(entry.first, score)}", f"{score} (higher = less like the faces)"
    with canvas(kept, f"{entry.label}-ood-{score}", heading, axis, "density") as axes:
        axes.hist(np.clip(inside, low, high), edges, density=True, color=look.color, alpha=0.75, label="held-out faces")
        axes.hist(
            np.clip(outside, low, high),
            edges,
            density=True,
            histtype="stepfilled",
            fc="none",
            ec=INK,
            hatch="////",
            lw=1,
            label=other,
        )
        axes.grid(axis="x", visible=False)
    return kept
