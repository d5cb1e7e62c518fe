"""How charts are drawn: once, and rendered twice: as SVG in the text colour of the page, and as PNG on white.

A recipe has one colour and a size one dash and marker, everywhere.
"""

import html
import io
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from visage.files import replacing
from visage.report.models import Model

INK = "#1b2430"
"""Colour of text, axes and neutral data; in the page's SVG it becomes `currentColor`."""
PALETTE = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#882255", "#999933", "#44aa99", "#aa4499", "#6699cc", "#cc6677"),
    *("#117733", "#ddaa33", "#7f6fc9", "#997700", "#994455", "#77aadd"),
)
"""Okabe and Ito's colours that can be seen on white and on black, then Paul Tol's; neighbours differ most."""
DASHES = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "D")
FEW = 8
"""Charts that a process renders."""
MOST_PROCESSES = 8
"""That render charts: more would wait for the one that draws them."""
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
    """How a model of one size is drawn."""

    color: str
    dash: Any
    marker: str


PLAIN = Look("#8a94a3", "-", "o")
"""How the Gaussian is drawn."""


class Rendered(NamedTuple):
    """A chart as the element of the page and as the file."""

    svg: str
    png: bytes


@dataclass(slots=True)
class Drawing:
    """A chart.

    name: of its PNG; label: what it is, for screen readers. figure: None once it is rendered.
    """

    name: str
    label: str
    figure: Figure | None
    rendered: Rendered | None = None

    @property
    def svg(self) -> str:
        """The element for the page."""
        return self._look().svg

    @property
    def png(self) -> bytes:
        """The file, of at most a few hundred KB."""
        return self._look().png

    def _look(self) -> Rendered:
        if self.rendered is None:
            assert self.figure is not None
            self.rendered, self.figure = _render(self.figure, self.label), None
        return self.rendered

    def save(self, folder: Path) -> None:
        """Write `<folder>/<name>.png`."""
        with replacing(folder / f"{self.name}.png") as temporary:
            temporary.write_bytes(self.png)


def looks(models: Sequence[Model]) -> dict[str, Look]:
    """A look per label: colour by recipe, dash and marker by size, in their order."""
    recipes = list(dict.fromkeys(model.config.recipe for model in models))
    sizes = sorted({model.config.size for model in models})
    return {
        model.label: Look(
            PALETTE[recipes.index(model.config.recipe) % len(PALETTE)],
            DASHES[sizes.index(model.config.size) % len(DASHES)],
            MARKERS[sizes.index(model.config.size) % len(MARKERS)],
        )
        for model in models
    }


@contextmanager
def plot(
    kept: list[Drawing], name: str, title: str, x: str, y: str, height: float = 2.7, legend: bool = True
) -> Iterator[Axes]:
    """Draw on the axes that it gives; when the block ends well the chart is added to `kept`, and must not change."""
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
        drawing = Drawing(name, f"{title}; {y or 'runs'} against {x}", figure)
        kept.append(drawing)
        if (renderers := _renderers.get()) is not None:
            renderers.add(drawing)


@contextmanager
def rendering(processes: int) -> Iterator[None]:
    """Inside, charts are rendered by other processes while the next ones are drawn; afterwards, all of these are.

    To render a chart takes several times as long as to draw it. The other processes are forks, on Linux alone: a figure
    that is pickled on its way to another process may lay out its ticks wrongly there, as the transforms in it know
    each other by addresses of this process.
    """
    if processes < 2 or sys.platform != "linux":
        yield
        return
    with TemporaryDirectory() as folder:
        renderers = _Renderers(min(processes, MOST_PROCESSES), Path(folder))
        before = _renderers.set(renderers)
        try:
            yield
        finally:
            _renderers.reset(before)
            renderers.finish()


class _Renderers:
    """Forks that render a few charts each, and leave them in a folder; so many forks at once."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder
        self.waiting: list[Drawing] = []
        self.running: list[tuple[BaseProcess, list[Drawing]]] = []

    def add(self, drawing: Drawing) -> None:
        """Have it rendered, together with the next ones."""
        self.waiting.append(drawing)
        if len(self.waiting) == FEW:
            self._start()

    def finish(self) -> None:
        """Wait for all that are not rendered yet."""
        self._start()
        while self.running:
            self._collect()

    def _start(self) -> None:
        if len(self.running) == self.count:
            self._collect()
        drawings, self.waiting = self.waiting, []
        process = multiprocessing.get_context("fork").Process(target=_render_files, args=(drawings, self.folder))
        process.start()
        self.running.append((process, drawings))

    def _collect(self) -> None:
        process, drawings = self.running.pop(0)
        process.join()
        if process.exitcode:
            return  # they are rendered here when they are looked at, and the error is found there
        for i, drawing in enumerate(drawings):
            svg, png = _files(self.folder, process.pid, i)
            drawing.rendered, drawing.figure = Rendered(svg.read_text(encoding="utf-8"), png.read_bytes()), None


def _render_files(drawings: Sequence[Drawing], folder: Path) -> None:
    for i, drawing in enumerate(drawings):
        svg, png = _files(folder, os.getpid(), i)
        svg.write_text(drawing.svg, encoding="utf-8")
        png.write_bytes(drawing.png)


def _files(folder: Path, pid: int | None, i: int) -> tuple[Path, Path]:
    return folder / f"{pid}-{i}.svg", folder / f"{pid}-{i}.png"


_renderers: ContextVar[_Renderers | None] = ContextVar("renderers", default=None)


def _render(figure: Figure, label: str) -> Rendered:
    with mpl.rc_context(STYLE):
        return Rendered(_svg(figure, label), _png(figure))


def _svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element without ids, addresses or dates, in the text colour of the page."""
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
