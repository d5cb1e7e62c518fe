"""The page: everything that was trained and measured, side by side, in a folder that opens from disk."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from visage.data.card import DataCard
from visage.errors import UserError
from visage.files import write_text
from visage.report.csv_files import curves_frame, figures_frame, write_csv
from visage.report.images import FOLDER, Copier
from visage.report.linear import opponents
from visage.report.load import CARD, load_card, load_reference, load_run
from visage.report.model_page import ABILITIES
from visage.report.models import models_of
from visage.report.ood import find
from visage.report.plotting import PLAIN, looks, rendering
from visage.report.provenance import Provenance, command, unit_of
from visage.report.size_page import SizePage, size_page
from visage.report.standouts import tests_of
from visage.report.table import VIEWS, views
from visage.report.wording import KINDS, grouped, plain, share, significant
from visage.results import Reference


def build_report(names: Sequence[str], root: Path, out: Path, processes: int = 1) -> None:
    """Write the page with its pictures, the tables and the plots.

    names: `<recipe>-<size>-<seed>`, in the order of the page; the seeds of a label become one row.
    root: the project's folder, with configs/, runs/, metrics/, data/processed/card.json and data/reference/.
    out: folder for index.html, images/, table.csv, curves.csv and plots/; nothing in it refers to anything outside.
    processes: that render charts.

    Raises:
        UserError: there is nothing to report, a config is missing, or a file cannot be read.
    """
    runs = [load_run(name, root) for name in names]
    if not any(run.training or run.evaluated for run in runs):
        raise UserError(f"{root / 'runs'} has no trained run to report: run `dvc repro`, or list runs in params.yaml")
    card, models = load_card(root), models_of(runs)
    look, tests = looks(models), tests_of(runs)
    pages, provenance, copier = [], Provenance(), Copier(out)
    with rendering(processes):
        for size in sorted({model.config.size for model in models}):
            reference, of_size = load_reference(size, root), [model for model in models if model.config.size == size]
            against = opponents(size, root, of_size)
            page = size_page(size, of_size, reference, look, _images(card), tests, copier, against)
            _trace(provenance, page, reference)
            pages.append(page)
    linear = [one for page in pages for one, _ in page.linear]
    for drawing in (drawing for page in pages for drawing in page.drawings):
        drawing.save(out / "plots")
    write_csv(out / "table.csv", figures_frame(runs, linear))
    write_csv(out / "curves.csv", curves_frame(runs))
    text = (
        _environment()
        .get_template("page.html.j2")
        .render(
            protocol=_protocol(card),
            demo=sorted({run.config.scale for run in runs}) != ["full"],
            faces=_faces(card),
            drawn="not photographs" in _faces(card),
            others=", ".join(images.title for images in card.ood) if card else "unknown",
            recipes=len({run.config.recipe for run in runs}),
            checked=any(run.results.tripwires for run in runs),
            tripped=[(page.model.label, page.tripped) for size in pages for page in size.model_pages if page.tripped],
            tests=len(tests),
            findings=[
                finding
                for size in pages
                for page in size.model_pages
                for finding in find(page.model, size.headline, size.reference)
            ],
            sizes=pages,
            views=VIEWS,
            abilities=ABILITIES.values(),
            kinds=KINDS,
            look=look | {one.label: PLAIN for one in linear},
            folder=FOLDER,
            provenance=provenance.data(),
        )
    )
    write_text(out / "index.html", text)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("visage.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "significant": significant, "plain": plain}
    environment.filters |= {"command": command, "unit": unit_of, "views": views}
    return environment


def _trace(provenance: Provenance, page: SizePage, reference: Reference | None) -> None:
    """Add the figures of a size to those that the dialog explains."""
    for model, _ in page.rows:
        provenance.add_model(model, page.sets)
    if reference:
        provenance.add_reference(reference, page.sets)
    for opponent, _ in page.linear:
        provenance.add_linear(opponent, page.sets)
    for metric, found in page.verdicts.items():
        provenance.add_verdicts(metric, found)


def _faces(card: DataCard | None) -> str:
    return card.title if card else "faces of unknown origin"


def _images(card: DataCard | None) -> str:
    """What the images are and how they became arrays, as the beginning of a sentence."""
    faces = _faces(card)
    cut = f"{_crop(card)}, resized by {card.filter}" if card else "crop unknown"
    return f"{faces[:1].upper()}{faces[1:]}, {cut}"


def _crop(card: DataCard) -> str:
    return f"crop box ({', '.join(str(edge) for edge in card.crop)})" if card.crop else "centred square"


def _protocol(card: DataCard | None) -> list[tuple[str, str]]:
    """The protocol of the data as (term, text), short enough for the head of the page."""
    if card is None:
        return [("Data", f"unknown: {CARD} is missing, run `dvc repro preprocess`")]
    split = ", ".join(f"{grouped(card.counts[key])} {key}" for key in ("train", "valid", "test"))
    box = f"{', '.join(str(edge) for edge in card.crop)} (left, top, right, bottom in pixels)"
    terms = [
        ("Faces", card.title),
        ("Note", card.note),
        ("Images", split),
        ("Crop", box if card.crop else "centred square"),
        ("Resize", f"{card.filter}, antialiased, to {' and '.join(f'{size} × {size}' for size in card.sizes)}"),
        ("Other images", ", ".join(f"{grouped(images.count)} of {images.title}" for images in card.ood)),
        ("Data hash", ", ".join(f"{size} px: {text[:12]}" for size, text in card.data_hash.items())),
        ("Skipped", f"{len(card.skipped)} unreadable files" if card.skipped else ""),
    ]
    return [(term, text) for term, text in terms if text]
