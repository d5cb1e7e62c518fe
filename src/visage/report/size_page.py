"""All models of one size: their table, their board and the chapters that compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visage.measures.table import BY_KEY, MEASURES, Measure
from visage.report.chapters import Chapter, Charts, chapters
from visage.report.faces import Faces, faces_of
from visage.report.figures import Key, Pooled, reference_figure
from visage.report.images import Copier
from visage.report.linear import Comparison, Opponent, comparisons
from visage.report.load import reference_file
from visage.report.model_page import ABILITIES, ModelPage, model_page
from visage.report.models import Model
from visage.report.ood import OtherSet, Row, board, sets_of, without_model
from visage.report.plotting import Drawing, Look
from visage.report.standouts import Tests
from visage.report.table import Cell, Verdict, cell, columns_of, footnotes, hint, linear_cells, verdicts
from visage.report.wording import WRITE
from visage.results import Reference

FACES_ONLY = ("recon_mse", "bits_per_dim")
"""Measures whose n counts test faces alone."""
REFERENCES = {
    "fd_attr128_floor": "Real faces in place of samples: FD attr",
    "probe_pixels": "16 × 16 pixels in place of codes: probe AUROC",
}
"""Measures that depend on no model -> the words before the figure in the note under the table."""


@dataclass(frozen=True, slots=True)
class ReferenceNote:
    """A figure to compare a column with. label, key: by which the page finds its protocol."""

    words: str
    label: str
    key: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class SizePage:
    """The content of a size's part of the page.

    faces: some of each model's. rows: (model, its cells). linear: (linear reference, its cells).
    comparisons: of the models with these references.
    verdicts: measure -> label -> comparison with the best. notes: reasons for dashes.
    abilities: (model, why it does not have each of ABILITIES; None where that is not known).
    missing: files of the reference that are not there. reference: None where it is one of them.
    """

    size: int
    caption: str
    columns: Sequence[Measure]
    faces: Sequence[Faces]
    rows: Sequence[tuple[Model, Sequence[Cell]]]
    linear: Sequence[tuple[Opponent, Sequence[Cell]]]
    comparisons: Sequence[Comparison]
    verdicts: Mapping[str, Mapping[str, Verdict]]
    notes: Sequence[str]
    references: Sequence[ReferenceNote]
    abilities: Sequence[tuple[Model, Sequence[str | None]]]
    sets: Sequence[OtherSet]
    board: Sequence[Row]
    chapters: Sequence[Chapter]
    model_pages: Sequence[ModelPage]
    missing: Sequence[str]
    reference: Reference | None

    @property
    def headline(self) -> str:
        """Title of the headline set; "" where there is none."""
        return self.sets[0].title if self.sets else ""

    @property
    def drawings(self) -> list[Drawing]:
        """Every chart of the size, once."""
        parts = [*(chapter.charts for chapter in self.chapters), *(page.drawings for page in self.model_pages)]
        return list({drawing.name: drawing for part in parts for drawing in part}.values())


def size_page(
    size: int,
    models: Sequence[Model],
    reference: Reference | None,
    look: Mapping[str, Look],
    protocol: str,
    tests: Tests,
    copier: Copier,
    linear: Sequence[Opponent],
) -> SizePage:
    """Gather what is shown of one size.

    protocol: what the images are, as a phrase. copier: takes the pictures. linear: references beside the models.
    """
    columns = columns_of(models)
    compared = {column.key: verdicts(models, column) for column in columns if column.paired}

    def cell_of(model: Model, column: Measure) -> Cell:
        verdict = compared.get(column.key, {}).get(model.label)
        return cell(model, column, verdict.flag if verdict else "", linear)

    rows = [(model, [cell_of(model, column) for column in columns]) for model in models]
    sets = sets_of(reference, models)
    pages = [model_page(model, look[model.label], sets, reference, columns, tests, copier) for model in models]
    heats = board(models, sets, reference) if any(model.scores for model in models) else []
    charts = Charts(size, models, look, reference, sets[0].title if sets else "", linear)
    histograms = [page.histograms[0] for page in pages if page.histograms]
    titles = {images.name: images.title for images in sets}
    return SizePage(
        size=size,
        caption=_caption(size, models, protocol),
        columns=columns,
        faces=[faces_of(model, columns, cells, copier) for model, cells in rows],
        rows=rows,
        linear=[(one, linear_cells(one, columns)) for one in linear],
        comparisons=comparisons(models, linear),
        verdicts=compared,
        notes=footnotes(columns, [cells for _, cells in rows]),
        references=_reference_notes(reference) if reference else [],
        abilities=[
            (model, [model.first.results.abilities.get(ability) for ability in ABILITIES])
            for model in models
            if model.first.results.abilities
        ],
        sets=sets,
        board=heats,
        chapters=chapters(charts, histograms, titles, with_board=bool(heats), copier=copier),
        model_pages=pages,
        missing=[] if reference else [reference_file(size)],
        reference=reference,
    )


def _caption(size: int, models: Sequence[Model], protocol: str) -> str:
    results = [run.results for model in models for run in model.runs if run.evaluated]
    records = [record for found in results for record in found.records]
    n = sorted({record.n for record in records if record.metric in FACES_ONLY and record.value is not None})
    hashes = sorted({found.data_hash[:12] for found in results})
    faces = f", n = {' to '.join(str(count) for count in sorted({n[0], n[-1]}))} test faces" if n else ""
    which = f"data hash {', '.join(hashes)}" if hashes else "data hash unknown"
    return f"{protocol}, {size} × {size} pixels, {which}{faces}."


def _reference_notes(reference: Reference) -> list[ReferenceNote]:
    notes = []
    for metric in (measure.key for measure in MEASURES if measure.reference):
        pooled, write = Pooled([reference_figure(reference, Key(metric))]), WRITE[BY_KEY[metric].format]
        text = "–" if pooled.value is None else write(pooled.value)
        why = pooled.reason or hint(pooled, write)
        notes.append(ReferenceNote(REFERENCES[metric], without_model(reference.size), metric, text, why))
    return notes
