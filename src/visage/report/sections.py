"""What stands in the parts of the page: all models of one size, and each model alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visage.report import curves, figures, table, wording
from visage.report.canvas import Drawing, Look
from visage.report.columns import BY_KEY, COLUMNS, Column
from visage.report.entries import NOT_EVALUATED, Entry, Pooled
from visage.report.failures import Shown as Gallery
from visage.report.failures import Standout, Tests, galleries, standouts
from visage.report.figures import Line, Point
from visage.report.images import Inlined, inline, over_time
from visage.report.load import Picture, Record, Run
from visage.report.ood import Images, Row, board, drawn_scores, score_rows, sets_of
from visage.report.table import Cell, Verdict

TOPICS = {
    "likelihood": ("Likelihood", "Lower is better. Triangles are bounds and point to where the true value lies."),
    "reconstruction": ("Reconstruction", ""),
    "samples": (
        "Sample quality",
        "In features of the pipeline's own attribute network, which is blind to what attributes do not need (noise, "
        "texture): look at the pictures, too.",
    ),
    "ood": (
        "Out of distribution",
        "Each model's default score, fixed before any other image was seen, never turned round: 1 tells the set from "
        "faces, .5 is chance, and below that the score finds the set more face-like than faces.",
    ),
    "latents": ("Latent codes", ""),
    "cost": (
        "Quality and cost",
        "What a better figure costs: training in floating-point operations, sampling in time.",
    ),
    "more": ("More pictures", ""),
}
"""Chapters of a size: title and what to know."""
PICTURES = {
    "reconstructions.png": "reconstruction",
    "inpainting.png": "reconstruction",
    "samples.png": "samples",
    "variants.png": "samples",
    "guidance.png": "samples",
    "wishes.png": "samples",
    "translations.png": "samples",
    "memorization.png": "samples",
    "duplicates.png": "samples",
    "ood_lowest.png": "ood",
    "least_likely.png": "ood",
    "inference.png": "ood",
    "interpolation.png": "latents",
}
"""The chapter in which a picture is compared, in this order; others come last."""
EXPLAINED_BY = {"samples.png": "Samples", "reconstructions.png": "Reconstructs", "interpolation.png": "Decodes"}
"""Pictures that every model should have, and the capability whose reason explains a missing one."""
ABILITIES = {
    "Samples": "samples",
    "SamplesGiven": "samples with attributes",
    "Translates": "translates",
    "Inpaints": "fills in",
    "Reconstructs": "reconstructs",
    "Encodes": "encodes",
    "Decodes": "interpolates",
    "HasLogProb": "density",
    "HasBound": "bound",
    "EstimatesLogProb": "estimated density",
    "ScoresOod": "own OOD score",
}
"""Capabilities in the words of the page."""
FACES_ONLY = ("recon_mse", "bits_per_dim")
"""Figures whose n counts the test faces alone."""
VERDICTS = ("tripped", "ok", "undefined")
"""Of tripwires, the one that outweighs the others first."""
HISTOGRAMS = 3
"""Scores of a model that are drawn; the table has all."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model's place among pictures of a kind. id: by which the page shows it again; reason: why there is none."""

    label: str
    id: str
    picture: Picture | None
    image: Inlined | None
    reason: str


@dataclass(frozen=True, slots=True)
class Topic:
    """A chapter of a size. pictures: (title, one entry per model) for each kind of picture."""

    key: str
    title: str
    lead: str
    charts: Sequence[Drawing]
    pictures: Sequence[tuple[str, Sequence[Comparison]]]


@dataclass(frozen=True, slots=True)
class Wire:
    """A tripwire over all seeds. verdict: tripped where any seed's is; seeds: which, "" for a single one."""

    title: str
    verdict: str
    text: str
    seeds: str


@dataclass(frozen=True, slots=True)
class Own:
    """What the page shows of one model alone.

    seeds: (run, its headline figures), empty for a single seed. scores: its board, with the figures behind each row.
    """

    entry: Entry
    look: Look
    facts: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    seeds: Sequence[tuple[Run, Sequence[Cell]]]
    wires: Sequence[Wire]
    curves: Sequence[Drawing]
    over_time: Sequence[tuple[str, Inlined]]
    pictures: Sequence[Comparison]
    histograms: Sequence[Drawing]
    roc: Sequence[Drawing]
    scores: Sequence[tuple[Row, Sequence[Pooled]]]
    more: Sequence[Record]
    galleries: Sequence[tuple[str, str, Sequence[Gallery]]]
    standouts: Sequence[Standout]

    @property
    def tripped(self) -> list[str]:
        """The tripwires that tripped, with their seeds where there are several."""
        tripped = [wire for wire in self.wires if wire.verdict == "tripped"]
        return [f"{wire.title}, {wire.seeds}" if wire.seeds else wire.title for wire in tripped]


@dataclass(frozen=True, slots=True)
class Size:
    """What the page shows of all models of one size."""

    size: int
    caption: str
    columns: Sequence[Column]
    rows: Sequence[tuple[Entry, Sequence[Cell]]]
    verdicts: Mapping[str, Mapping[str, Verdict]]
    notes: Sequence[str]
    abilities: Sequence[tuple[Entry, Sequence[str | None]]]
    sets: Sequence[Images]
    board: Sequence[Row]
    topics: Sequence[Topic]
    own: Sequence[Own]

    @property
    def drawings(self) -> list[Drawing]:
        """Every figure of the size, once."""
        own = [drawing for one in self.own for part in (one.curves, one.histograms, one.roc) for drawing in part]
        return [*(drawing for topic in self.topics for drawing in topic.charts), *own]


def size_section(
    size: int,
    shown: Sequence[Entry],
    look: Mapping[str, Look],
    other: str,
    protocol: str,
    tests: Tests,
    stages: Mapping[str, str],
) -> Size:
    """Gather one size.

    shown: its models. other: the other images' name. protocol: the images in words. stages: run -> DVC's command.
    """
    columns = table.columns_of(shown)
    verdicts = {column.key: table.verdicts(shown, column) for column in columns if column.paired}

    def cell(entry: Entry, column: Column) -> Cell:
        verdict = verdicts.get(column.key, {}).get(entry.label)
        return table.cell(entry, column, verdict.flag if verdict else "")

    rows = [(entry, [cell(entry, column) for column in columns]) for entry in shown]
    sets = sets_of(shown, other)
    own = [_own(entry, look[entry.label], other, sets, columns, tests, stages) for entry in shown]
    default = [one.histograms[0] for one in own if one.histograms]
    charts = {
        "likelihood": _likelihood(size, shown, look),
        "reconstruction": _dots(size, shown, look, "recon_mse", "psnr", "ssim"),
        "samples": _samples(size, shown, look),
        "ood": [*_ood(size, shown, look, other), *default],
        "latents": _latents(size, shown, look),
        "cost": _cost(size, shown, look),
    }
    pictures = _comparisons(shown)
    rows_of_board = board(shown, sets) if any(entry.names() for entry in shown) else []
    topics = [
        Topic(key, title, lead, charts.get(key, []), pictures.get(key, [])) for key, (title, lead) in TOPICS.items()
    ]
    return Size(
        size=size,
        caption=_caption(size, shown, protocol),
        columns=columns,
        rows=rows,
        verdicts=verdicts,
        notes=table.footnotes(columns, [cells for _, cells in rows]),
        abilities=[
            (entry, [entry.first.abilities.get(ability) for ability in ABILITIES])
            for entry in shown
            if entry.first.abilities
        ],
        sets=sets,
        board=rows_of_board,
        topics=[topic for topic in topics if topic.charts or topic.pictures or (topic.key == "ood" and rows_of_board)],
        own=own,
    )


def _caption(size: int, shown: Sequence[Entry], protocol: str) -> str:
    records = [record for entry in shown for run in entry.runs for record in run.records.values()]
    n = sorted({record.n for record in records if record.name in FACES_ONLY and record.value is not None})
    hashes = sorted({record.data_hash[:12] for record in records if record.data_hash})
    faces = " to ".join(str(count) for count in sorted({n[0], n[-1]})) if n else "no"
    which = f"data hash {', '.join(hashes)}" if hashes else "data hash unknown"
    return f"{protocol}, {size} × {size} pixels, {which}, n = {faces} test faces."


def _points(shown: Sequence[Entry], look: Mapping[str, Look], y: str, x: str | None = None) -> list[Point]:
    return [Point(entry.label, look[entry.label], entry.pooled(y), entry.pooled(x) if x else None) for entry in shown]


def _axis(key: str) -> str:
    column = BY_KEY[key]
    better = f"{column.better} is better" if column.better else ""
    return ", ".join(part for part in (column.title, column.unit, better) if part)


def _dots(
    size: int, shown: Sequence[Entry], look: Mapping[str, Look], *keys: str, lines: Sequence[Line] = ()
) -> list[Drawing]:
    return [
        drawing
        for key in keys
        for drawing in figures.dots(f"{key}-{size}", BY_KEY[key].title, _axis(key), _points(shown, look, key), lines)
    ]


def _mean(shown: Sequence[Entry], key: str, text: str) -> list[Line]:
    """A line at the mean of a figure that does not depend on the model."""
    values = [value for entry in shown for value in entry.pooled(key).values]
    return [Line(sum(values) / len(values), text)] if values else []


def _likelihood(size: int, shown: Sequence[Entry], look: Mapping[str, Look]) -> list[Drawing]:
    return [
        *_dots(size, shown, look, "bits_per_dim", "iw_gain"),
        *curves.validation_curves(shown, look, size),
        *figures.rate_distortion(shown, look, size),
    ]


def _samples(size: int, shown: Sequence[Entry], look: Mapping[str, Look]) -> list[Drawing]:
    def against(name: str, title: str, x: str, y: str) -> list[Drawing]:
        return figures.scatter(f"{name}-{size}", title, _axis(x), _axis(y), _points(shown, look, y, x))

    return [
        *_dots(size, shown, look, "fd_attr128", lines=_mean(shown, "fd_attr128_floor", "real faces")),
        *_dots(
            size, shown, look, "memorization", lines=[Line(table.SUSPICIOUS, "copies below"), Line(1.0, "test faces")]
        ),
        *against("precision-recall", "Precision and recall", "precision", "recall"),
        *against("density-coverage", "Density and coverage", "density", "coverage"),
    ]


def _ood(size: int, shown: Sequence[Entry], look: Mapping[str, Look], other: str) -> list[Drawing]:
    scores = {entry.label: drawn_scores(entry.first) for entry in shown}
    return [
        *_dots(size, shown, look, "ood_auroc", lines=[Line(0.5, "chance")]),
        *figures.roc(shown, look, size, scores, other),
    ]


def _latents(size: int, shown: Sequence[Entry], look: Mapping[str, Look]) -> list[Drawing]:
    x, y = "dci_completeness", "dci_disentanglement"
    return [
        *_dots(size, shown, look, "probe_auroc", lines=_mean(shown, "probe_pixels", "16 × 16 pixels")),
        *_dots(size, shown, look, "mig"),
        *figures.scatter(f"dci-{size}", "DCI", _axis(x), _axis(y), _points(shown, look, y, x)),
    ]


def _cost(size: int, shown: Sequence[Entry], look: Mapping[str, Look]) -> list[Drawing]:
    kept: list[Drawing] = []
    for x, name, words in (
        ("train_pflop", "training", "training, PFLOP"),
        ("sample_seconds_per_64", "sampling", "seconds for 64 samples"),
    ):
        for y in ("fd_attr128", "bits_per_dim") if x == "train_pflop" else ("fd_attr128",):
            title = f"{BY_KEY[y].title} against the cost of {name}"
            kept += figures.scatter(
                f"{y}-{name}-{size}", title, words, _axis(y), _points(shown, look, y, x), log_x=True
            )
    return kept


def _comparisons(shown: Sequence[Entry]) -> dict[str, list[tuple[str, Sequence[Comparison]]]]:
    """Chapter -> (title, one entry per model) for every picture that some model of this size has."""
    own = {entry.label: _compared(entry.first) for entry in shown}
    there = dict.fromkeys(file for files in own.values() for file in files)
    found: dict[str, list[tuple[str, Sequence[Comparison]]]] = {}
    for file in sorted(there, key=lambda file: list(PICTURES).index(file) if file in PICTURES else len(PICTURES)):
        row = [_comparison(entry, file) for entry in shown if file in EXPLAINED_BY or file in own[entry.label]]
        title = next(one.picture.title for one in row if one.picture)
        found.setdefault(PICTURES.get(file, "more"), []).append((title, row))
    return found


def _compared(run: Run) -> list[str]:
    """The pictures of a run but its galleries, which stand with their faces' names."""
    galleries = {gallery.picture for gallery in run.galleries}
    return [file for file in run.pictures if file not in galleries]


def _comparison(entry: Entry, file: str) -> Comparison:
    run = entry.first
    picture = run.pictures.get(file)
    image = inline(picture.path, run.config.size) if picture else None
    reason = "" if picture else run.abilities.get(EXPLAINED_BY[file]) or NOT_EVALUATED
    return Comparison(entry.label, f"{entry.label}-{Path(file).stem}", picture, image, reason)


def _own(
    entry: Entry,
    look: Look,
    other: str,
    sets: Sequence[Images],
    columns: Sequence[Column],
    tests: Tests,
    stages: Mapping[str, str],
) -> Own:
    run, scores = entry.first, drawn_scores(entry.first)[:HISTOGRAMS]
    headline = [column for column in columns if column.headline]
    several = entry.runs if len(entry.runs) > 1 else ()
    return Own(
        entry=entry,
        look=look,
        facts=_facts(entry, stages),
        settings=_settings(run),
        seeds=[(one, [table.cell(Entry((one,)), column) for column in headline]) for one in several],
        wires=wires(entry),
        curves=curves.training_curves(entry, look),
        over_time=[(wording.thousands(kimg), image) for kimg, image in over_time(run.snapshots, run.config.size)],
        pictures=[
            Comparison(entry.label, f"{entry.label}-{Path(file).stem}", run.pictures[file], None, "")
            for file in _compared(run)
        ],
        histograms=[drawing for score in scores for drawing in figures.histogram(entry, look, score, other)],
        roc=figures.roc_of_run(entry, look, scores, other),
        scores=score_rows(entry, sets),
        more=[record for record in run.records.values() if _is_more(record)],
        galleries=galleries(run),
        standouts=standouts(entry, tests),
    )


def wires(entry: Entry) -> list[Wire]:
    """The verdicts over all seeds, tripped ones first."""
    several = len(entry.runs) > 1
    names = dict.fromkeys(wire.name for run in entry.runs for wire in run.tripwires)
    found = []
    for name in names:
        all_seeds = [(run.config.seed, wire) for run in entry.runs for wire in run.tripwires if wire.name == name]
        verdict = min((wire.verdict for _, wire in all_seeds), key=VERDICTS.index)
        text = "; ".join(f"seed {seed}: {wire.text}" if several else wire.text for seed, wire in all_seeds)
        tripped = ", ".join(str(seed) for seed, wire in all_seeds if wire.verdict == "tripped")
        title = name.replace("_", " ").replace("non finite", "non-finite values")
        found.append(Wire(title, verdict, text, f"seed {tripped}" if several and tripped else ""))
    return sorted(found, key=lambda wire: VERDICTS.index(wire.verdict))


def _is_more(record: Record) -> bool:
    """Whether a figure that the run has stands neither in the comparison's table nor among the AUROCs."""
    shown = {column.key for column in COLUMNS}
    return record.value is not None and "/" not in record.name and record.name not in shown


def _facts(entry: Entry, stages: Mapping[str, str]) -> list[tuple[str, str]]:
    run = entry.first
    players = run.training.get("parameters", {}).get("players", {})
    shown = run.training.get("images_shown")
    facts = [
        ("Model file", f"models/{run.config.model}.py"),
        ("Parameters", ", ".join(f"{player} {wording.count(n)}" for player, n in players.items())),
        ("Training", f"{run.training['steps']:,} steps".replace(",", "\u202f") if run.training else ""),
        ("Images shown", f"{wording.thousands(shown / 1000)} thousand" if shown else ""),
        ("Weights", f"of step {run.training['selected_step']}" if run.training else ""),
        ("Chosen by", run.training.get("selected_by", "")),
        ("Took", wording.duration(run.cost["seconds"]) if "seconds" in run.cost else ""),
        ("Device", ", ".join(str(run.cost[key]) for key in ("device", "precision") if key in run.cost)),
        ("Evaluation took", wording.duration(run.sampling["seconds"]) if "seconds" in run.sampling else ""),
        ("Seeds" if len(entry.runs) > 1 else "Seed", ", ".join(str(one.config.seed) for one in entry.runs)),
        ("Code", run.config.code[:12]),
        ("DVC", stages[run.name]),
        ("MLflow run", run.name),
    ]
    return [(term, text) for term, text in facts if text]


def _settings(run: Run) -> list[tuple[str, str]]:
    values: dict[str, Any] = run.config.settings | asdict(run.config.train)
    return [(key, _clean(value)) for key, value in values.items()]


def _clean(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_clean(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_clean(item)}" for key, item in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
