"""The figures, each drawn once and kept twice: as SVG that takes the page's own text colour, and as PNG on white.

A recipe has one colour and a size one dash and marker, everywhere.
"""

import html
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from visage.files import replacing
from visage.report.load import Record, Run, Scores
from visage.report.wording import share

INK = "#1b2430"
"""Colour of text, axes and neutral data; in the page's SVG it becomes `currentColor`."""
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#882255", "#999933", "#44aa99", "#aa4499", "#6699cc", "#cc6677"),
    *("#117733", "#ddaa33", "#7f6fc9", "#997700", "#994455", "#77aadd"),
)
"""Okabe and Ito's colours that hold on white and on black, then Paul Tol's; so many that neighbours differ most."""
DASHES = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D")
POINTS = 300
"""A longer curve is averaged in blocks down to this many points."""
WIDTH = 4.3
"""Inches; the page puts such figures side by side where there is room."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.use_mathtext": False,
    "grid.linewidth": 0.6,
    "grid.alpha": 0.14,
    "legend.frameon": False,
    "legend.handlelength": 1.9,
    "lines.linewidth": 1.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "visage",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "grid.color": INK,
    "hatch.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one run is drawn."""

    color: str
    dash: Any
    marker: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A finished figure. name: of its PNG; svg: to stand inside the page."""

    name: str
    label: str
    svg: str
    png: bytes

    def save(self, folder: Path) -> None:
        """Write `<folder>/<name>.png`."""
        with replacing(folder / f"{self.name}.png") as temporary:
            temporary.write_bytes(self.png)


def looks(runs: Sequence[Run]) -> dict[str, Look]:
    """A look per run name: colour by recipe, dash and marker by size, in the order of the runs."""
    recipes = list(dict.fromkeys(run.config.recipe for run in runs))
    sizes = sorted({run.config.size for run in runs})
    return {
        run.name: Look(
            PALETTE[recipes.index(run.config.recipe) % len(PALETTE)],
            DASHES[sizes.index(run.config.size) % len(DASHES)],
            MARKERS[sizes.index(run.config.size) % len(MARKERS)],
        )
        for run in runs
    }


@contextmanager
def canvas(
    kept: list[Drawing], name: str, title: str, x: str, y: str, height: float = 2.7, legend: bool = True
) -> Iterator[Axes]:
    """Draw on the axes it gives; when the block ends the figure is rendered and added to `kept`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        yield axes
        handles, labels = axes.get_legend_handles_labels()
        if legend and len(labels) > 1:
            rows = -(-len(labels) // 2)
            figure.set_size_inches(WIDTH, height + 0.17 * rows)
            figure.legend(handles, labels, loc="outside lower left", ncols=2, columnspacing=1.5)
        label = f"{title}; {y or 'runs'} against {x}"
        kept.append(Drawing(name, label, _svg(figure, label), _png(figure)))


def _svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element without ids of its own, addresses or dates, in the page's text colour."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out)  # type: ignore[no-untyped-call]
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    start = f'<svg viewBox="\\1" role="img" aria-label="{html.escape(label)}">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', start, text, count=1).replace(INK, "currentColor")


def _png(figure: Figure) -> bytes:
    figure.set_layout_engine("none")  # it is laid out already
    figure.patch.set_visible(True)
    figure.dpi = 150
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return out.getvalue()


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
    "loss": ("Loss", "loss of each player"),
    "rate": ("Rate (KL)", "nats per image"),
    "distortion": ("Distortion (reconstruction)", "nats per image"),
    "grad_norm": ("Gradient norm", "L2 norm before clipping"),
}
"""Titles and units of the terms that every model's history has or many share; others go by their own name."""


def training_curves(run: Run, look: Look) -> list[Drawing]:
    """One figure per logged term, all players together, and the validation likelihood."""
    kept: list[Drawing] = []
    for term, columns in terms(run.history).items():
        title, unit = TERMS.get(term, (term.replace("_", " ").capitalize(), ""))
        with canvas(kept, f"{run.name}-{term}", title, KIMG, unit) as axes:
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
    if len(run.validation):
        with canvas(kept, f"{run.name}-validation", "Validation", KIMG, "bits per dimension") as axes:
            _validation(axes, run, look)
    return kept


def terms(history: pd.DataFrame) -> dict[str, list[str]]:
    """Term -> the history's columns that hold it, one per player; loss first and gradient norms last."""
    found: dict[str, list[str]] = {}
    for column in history.columns:
        if column not in ("step", "kimg", "lr") and history[column].notna().any():
            found.setdefault(column.rpartition("/")[2], []).append(column)
    order = {"loss": 0, "distortion": 1, "rate": 2, "grad_norm": 9}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 5)))


def validation_curves(runs: Iterable[Run], look: Mapping[str, Look], size: int) -> list[Drawing]:
    """Bits per dimension of the validation images over the training, all runs that have them."""
    shown = [run for run in runs if len(run.validation)]
    kept: list[Drawing] = []
    if shown:
        with canvas(kept, f"validation-{size}", "Validation over training", KIMG, "bits per dimension") as axes:
            for run in shown:
                _validation(axes, run, look[run.name])
    return kept


def _validation(axes: Axes, run: Run, look: Look) -> None:
    x, y = run.validation["kimg"], run.validation["bits_per_dim"]
    axes.plot(x, y, color=look.color, ls=look.dash, marker=look.marker, ms=4, label=run.name)


def dots(size: int, key: str, title: str, unit: str, points: Sequence[tuple[Look, Record, str]]) -> list[Drawing]:
    """One measure of all runs: a mark and its 95 % interval each. A bound is a triangle towards the true value."""
    kept: list[Drawing] = []
    if sum(record.value is not None for _, record, _ in points) < 2:
        return kept
    with canvas(kept, f"{key}-{size}", title, unit, "", 0.8 + 0.24 * len(points), legend=False) as axes:
        for y, (look, record, _) in enumerate(points):
            if record.value is None:
                axes.text(
                    0.02, y, "not defined", transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, alpha=0.7
                )
                continue
            if record.ci95 is not None:
                axes.plot(record.ci95, [y, y], color=look.color, lw=2.2, alpha=0.55, solid_capstyle="round")
            marker = {"upper_bound": "<", "lower_bound": ">"}.get(record.kind, look.marker)
            axes.plot([record.value], [y], marker, color=look.color, ms=6.5)
        axes.set_yticks(range(len(points)), [name for _, _, name in points])
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=5)  # long numbers must not run into each other
        if key == "ood_auroc":
            axes.set_xlim(-0.02, 1.02)
            axes.axvline(0.5, color=INK, lw=0.8, ls=(0, (3, 2)))
    return kept


def rate_distortion(runs: Sequence[Run], look: Mapping[str, Look], size: int) -> list[Drawing]:
    """Rate against distortion with lines of equal ELBO (Alemi et al. 2018, "Fixing a Broken ELBO")."""
    points = []
    for run in runs:
        rate, distortion = run.records.get("rate"), run.records.get("distortion")
        if rate and distortion and rate.value is not None and distortion.value is not None:
            points.append((run, rate.value, distortion.value))
    kept: list[Drawing] = []
    if len(points) < 2:
        return kept
    with canvas(kept, f"rate-distortion-{size}", "Rate and distortion", "rate (nats)", "distortion (nats)") as axes:
        for run, x, y in points:
            axes.plot([x], [y], look[run.name].marker, color=look[run.name].color, ms=8, label=run.name)
        axes.margins(0.35)
        axes.autoscale_view()
        left, right = axes.get_xlim()
        axes.set_autoscale_on(False)
        for run, x, y in points:
            line = [x + y - left, x + y - right]
            axes.plot([left, right], line, color=look[run.name].color, lw=0.8, ls=(0, (4, 3)), alpha=0.7)
    return kept


def roc(
    runs: Sequence[Run], look: Mapping[str, Look], size: int, scores: Mapping[str, str], other: str
) -> list[Drawing]:
    """ROC curves of all runs, each by its own default score.

    scores: run name -> score. other: the other set's name.
    """
    kept: list[Drawing] = []
    shown = [run for run in runs if run.name in scores]
    if not shown:
        return kept
    with canvas(
        kept, f"ood-roc-{size}", f"Telling {other} from faces", FALSE, f"share of {other} flagged", 2.9
    ) as axes:
        for run in shown:
            paint, score = look[run.name], scores[run.name]
            _roc(axes, run.scores, score, paint, _legend(run, score, run.name))
        _square(axes)
    return kept


FALSE = "share of faces flagged"


def roc_of_run(run: Run, look: Look, scores: Sequence[str], other: str) -> list[Drawing]:
    """ROC curves of all scores of one run."""
    kept: list[Drawing] = []
    if scores:
        with canvas(kept, f"{run.name}-ood-roc", "Every score", FALSE, f"share of {other} flagged", 2.9) as axes:
            for score, dash in zip(scores, itertools.cycle(DASHES)):
                width = 2.0 if score == scores[0] else 1.2
                color = look.color if score == scores[0] else INK
                _roc(axes, run.scores, score, Look(color, dash, ""), _legend(run, score, ""), width)
            _square(axes)
    return kept


def _legend(run: Run, score: str, name: str) -> str:
    record = run.records.get(f"ood/{score}")
    value = share(record.value) if record and record.value is not None else ""
    return " ".join(part for part in (name, score, value) if part)


def drawable(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Infinite scores, which are valid, as the largest numbers there are; NaN, which is not, stays and is refused."""
    largest = np.finfo(np.float64).max
    clipped: NDArray[np.float64] = np.clip(scores, -largest, largest)
    return clipped


def _roc(axes: Axes, scores: Scores, score: str, look: Look, label: str, width: float = 1.6) -> None:
    inside, outside = scores[f"test/{score}"], scores[f"ood/{score}"]
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    false, true, _ = roc_curve(truth, drawable(np.concatenate([inside, outside])))
    axes.plot(false, true, color=look.color, ls=look.dash, lw=width, label=label)


def _square(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=INK, lw=0.7, alpha=0.5)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)


def histogram(run: Run, look: Look, score: str, other: str) -> list[Drawing]:
    """The distribution of one score over faces (filled) and the other images (outlined).

    other: the other set's name. The outermost hundredth of the scores is drawn in the outermost bins.
    """
    inside, outside = (drawable(run.scores[f"{split}/{score}"]) for split in ("test", "ood"))
    low, high = np.quantile(np.concatenate([inside, outside]), [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = min(45, round(2 * len(inside) ** 0.5))
    edges = np.linspace(low, high, bins + 1).tolist()
    kept: list[Drawing] = []
    heading = f"{run.name}: {_legend(run, score, '')}"
    with canvas(kept, f"{run.name}-ood-{score}", heading, f"{score} (higher = less like the faces)", "density") as axes:
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
