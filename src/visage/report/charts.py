"""The charts that compare models: one measure of all of them, or two measures against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from visage.report.figures import Pooled
from visage.report.models import Model
from visage.report.plotting import INK, Drawing, Look, plot

BOUNDS = {"upper_bound": "<", "lower_bound": ">"}
"""Marks of bounds on a horizontal axis: triangles that point to where the true value lies."""
VERTICAL = {"upper_bound": "v", "lower_bound": "^"}
"""The same on a vertical one."""
TEXT = 8
"""Points from one line's text to the next one's above it."""
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
    """Label the axis with plain numbers, few enough not to run into each other."""
    decades = np.log10(max(values) / min(values))
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def dots(name: str, title: str, unit: str, points: Sequence[Point], lines: Sequence[Line] = ()) -> list[Drawing]:
    """One measure of all models that have it: a mark with its 95 % interval, or the mean and a small mark per seed."""
    kept: list[Drawing] = []
    points = [point for point in points if point.y.value is not None]
    values = [value for point in points for value in point.y.values]
    if len(points) < 2:
        return kept
    area = title.endswith("AUROC")  # between 0 and 1, however far the lowest is below the others
    with plot(kept, name, title, unit, "", 0.8 + 0.24 * len(points), legend=False) as axes:
        if wide(values) and not area:
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
            middle: Any = [pooled.value]
            axes.plot(middle, [y], BOUNDS.get(pooled.kind, point.look.marker), color=color, ms=6.5)
        axes.set_yticks(range(len(points)), [point.label for point in points])
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        if area:
            axes.set_xlim(-0.02, 1.02)
        _compare(axes, title, lines)
    return kept


def _compare(axes: Axes, title: str, lines: Sequence[Line]) -> None:
    """Draw the lines, their texts above them and the title above all; three or more texts are stacked."""
    words: Any = {"va": "bottom", "fontsize": 7, "alpha": 0.8, "textcoords": "offset points"}
    pair = len(lines) == 2
    if lines:
        axes.set_title(title, pad=15 if pair else 7 + TEXT * len(lines))
    for i, line in enumerate(sorted(lines, key=lambda line: line.value)):
        axes.axvline(line.value, color=INK, lw=0.9, ls=(0, (3, 2)))
        side = ("right", "left")[i] if pair else "center"  # away from each other
        above = (0, 0 if pair else TEXT * i)
        axes.annotate(line.text, (line.value, 1.0), above, axes.get_xaxis_transform(), ha=side, **words)


def scatter(
    name: str,
    title: str,
    x: str,
    y: str,
    points: Sequence[Point],
    lines: Sequence[Line] = (),
    log_x: bool = False,
) -> list[Drawing]:
    """Two measures of all models that have both: the means, numbered, and a small mark for every seed.

    lines: at values of y.
    """
    kept: list[Drawing] = []
    shown = [point for point in points if point.x and point.x.value is not None and point.y.value is not None]
    if len(shown) < 2:
        return kept
    with plot(kept, name, title, x, y, 2.9) as axes:
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
        level(axes, lines)
    return kept


def level(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines across a chart, each under its text, on the right."""
    words: Any = {"ha": "right", "va": "bottom", "fontsize": 7, "alpha": 0.8}
    for line in lines:
        axes.axhline(line.value, color=INK, lw=0.9, ls=(0, (3, 2)))
        axes.annotate(line.text, (1.0, line.value), xycoords=axes.get_yaxis_transform(), **words)


def rate_distortion(models: Sequence[Model], look: Mapping[str, Look], size: int) -> list[Drawing]:
    """Rate against distortion with lines of equal ELBO (Alemi et al. 2018, "Fixing a Broken ELBO")."""
    points = []
    for model in models:
        rate, distortion = (model.pooled(name).value for name in ("rate", "distortion"))
        if rate is not None and distortion is not None:
            points.append((model.label, rate, distortion))
    kept: list[Drawing] = []
    if len(points) < 2:
        return kept
    with plot(kept, f"rate-distortion-{size}", "Rate and distortion", "rate (nats)", "distortion (nats)") as axes:
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
