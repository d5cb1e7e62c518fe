"""How well models remove noise, beside the linear filter."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from visage.measures.comparison import on_common_images, paired_difference
from visage.measures.denoising import LEVELS
from visage.report.charts import Line, level, logarithmic
from visage.report.linear import Opponent
from visage.report.models import Model
from visage.report.plotting import Drawing, Look, plot


class Ratio(NamedTuple):
    """An error over the filter's, with its 95 % interval, at one sigma."""

    sigma: float
    value: float
    low: float
    high: float


def ratios(model: Model, reference: Opponent) -> list[Ratio]:
    """A model's squared errors over those of the filter, on the faces that both have, at each of `LEVELS`."""
    found = []
    for metric, sigma in LEVELS.items():
        mine, theirs = model.per_image(metric), reference.values.get(metric)
        if mine is None or theirs is None or any(run.results.data_hash != reference.data_hash for run in model.runs):
            continue
        alone = on_common_images([theirs, mine])[0].values
        if len(alone) > 1:
            difference = paired_difference(mine, theirs)
            found.append(Ratio(sigma, *(1 + part / alone.mean() for part in difference[:3])))
    return found


def over_reference(name: str, models: Sequence[Model], look: Mapping[str, Look], reference: Opponent) -> list[Drawing]:
    """The ratios of all models that have them, against the noise."""
    kept: list[Drawing] = []
    shown = [(model, found) for model in models if (found := ratios(model, reference))]
    if not shown:
        return kept
    noise = "standard deviation of the noise, pixels in [−1, 1]"
    with plot(kept, name, "Squared error over that of a Wiener filter", noise, "ratio, lower is better", 2.9) as axes:
        axes.set_xscale("log")
        logarithmic(axes.xaxis, list(LEVELS.values()))
        for model, found in shown:
            style = look[model.label]
            sigma, value, low, high = zip(*found, strict=True)
            axes.plot(sigma, value, style.marker, color=style.color, ls=style.dash, ms=4, label=model.label)
            axes.fill_between(sigma, low, high, color=style.color, alpha=0.15, lw=0)
        level(axes, [Line(1.0, "the filter alone")])
    return kept
