"""The page: everything that was trained and measured, side by side, in one file that opens from disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from visage.errors import UserError
from visage.files import replacing, write_text
from visage.report import figures, table, wording
from visage.report.figures import Drawing, Look
from visage.report.images import Inlined, gallery, inline, over_time
from visage.report.load import Face, Failures, Picture, Record, Run, load_card, load_run

FACES = {
    "synthetic": "drawn faces, not photographs",
    "celeba": "CelebA photographs",
    "folder": "images of a folder",
}
"""Kinds of `data.source` in words; the word alone where a source is not among them."""
OTHERS = {
    "synthetic": "drawn clothes (standing in for Fashion-MNIST)",
    "fashion_mnist": "Fashion-MNIST",
}
"""Kinds of `ood.source` in words."""
SHORT = {"synthetic": "drawn clothes"}
"""The same where a legend has little room."""
SIDE_BY_SIDE = ("samples.png", "reconstructions.png", "interpolation.png")
"""Pictures that every model should have, in this order; of others only those that are there are shown."""
EXPLAINED_BY = {"samples.png": "Samples", "reconstructions.png": "Reconstructs", "interpolation.png": "Decodes"}
"""The capability whose reason explains a missing picture."""
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
GALLERY = "failures.png"
DOTS = ("recon_mse", "psnr", "ssim", "rate", "bits_per_dim", "ood_auroc")
"""Figures that get a chart over all runs of one size."""
FACES_ONLY = ("recon_mse", "bits_per_dim")
"""Figures whose n counts the test faces alone."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One run's place in a comparison: the picture, or why there is none. id: by which the page shows it again."""

    run: str
    id: str
    picture: Picture | None
    image: Inlined | None
    reason: str


@dataclass(frozen=True, slots=True)
class Worst:
    """One run's failure gallery: (face, its picture) in order. paired: a picture shows the reconstruction as well."""

    failures: Failures
    paired: bool
    faces: Sequence[tuple[Face, Inlined]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence that the numbers allow. verdict: inverted, separated or open."""

    run: str
    verdict: str
    text: str


@dataclass(frozen=True, slots=True)
class RunSection:
    """What the page shows of one run alone."""

    run: Run
    look: Look
    facts: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    curves: Sequence[Drawing]
    over_time: Sequence[tuple[str, Inlined]]
    pictures: Sequence[Shown]
    histograms: Sequence[Drawing]
    roc: Sequence[Drawing]
    ood: Sequence[Record]
    more: Sequence[Record]
    worst: Worst | None


@dataclass(frozen=True, slots=True)
class SizeSection:
    """What the page shows of all runs of one size."""

    size: int
    rows: Sequence[tuple[Run, Sequence[table.Cell]]]
    notes: Sequence[str]
    abilities: Sequence[tuple[Run, Sequence[str | None]]]
    dots: Sequence[Drawing]
    charts: Sequence[Drawing]
    histograms: Sequence[Drawing]
    comparisons: Sequence[tuple[str, str, Sequence[Shown]]]
    runs: Sequence[RunSection]
    n: str
    data_hash: str


def build_report(names: Sequence[str], root: Path, out: Path) -> None:
    """Write the page, the tables and the plots.

    names: `<recipe>-<size>`, in the order in which they are shown.
    root: the project's folder, with configs/, runs/, metrics/ and data/processed/card.json.
    out: folder for index.html, table.csv, curves.csv and plots/.

    Raises:
        UserError: there is nothing to show, a config is missing, or a file cannot be read.
    """
    runs = [load_run(name, root) for name in names]
    if not any(run.training or run.records for run in runs):
        raise UserError(f"{root / 'runs'} has no trained run to report: run `dvc repro`, or list runs in params.yaml")
    card = load_card(root)
    look = figures.looks(runs)
    others = other_set(card)
    sizes = [_size_section(size, runs, look, others, card) for size in sorted({run.config.size for run in runs})]
    for drawing in (drawing for size in sizes for drawing in _drawings(size)):
        drawing.save(out / "plots")
    write_csv(out / "table.csv", table.frame(runs))
    write_csv(out / "curves.csv", curves(runs))
    environment = Environment(
        loader=PackageLoader("visage.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": wording.share, "significant": wording.significant}
    page = environment.get_template("page.html.j2").render(
        protocol=protocol(card),
        demo=sorted({run.config.scale for run in runs}) != ["full"],
        drawn=card.get("source") == "synthetic",
        faces=FACES.get(card.get("source", ""), card.get("source", "faces of unknown origin")),
        others=others,
        other=SHORT.get(card.get("ood_source", ""), others),
        recipes=len({run.config.recipe for run in runs}),
        findings=[finding for run in runs for finding in find(run, others)],
        sizes=sizes,
        columns=table.COLUMNS,
        abilities=ABILITIES.values(),
        words=ABILITIES,
        kinds=wording.KINDS,
        look=look,
    )
    write_text(out / "index.html", page)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table with full precision."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


def curves(runs: Sequence[Run]) -> pd.DataFrame:
    """All training curves as one tidy table: run, step, kimg, term, value."""
    parts = [pd.DataFrame({"run": [], "step": [], "kimg": [], "term": [], "value": []})]
    for run in runs:
        for source, prefix in ((run.history, ""), (run.validation, "validation/")):
            if len(source):
                tidy = source.melt(["step", "kimg"], var_name="term").dropna(subset="value")
                parts.append(tidy.assign(run=run.name, term=prefix + tidy["term"]))
    return pd.concat([part for part in parts if len(part)] or parts)[["run", "step", "kimg", "term", "value"]]


def other_set(card: Mapping[str, Any]) -> str:
    """What the out-of-distribution images are, in words."""
    source = card.get("ood_source", "")
    return OTHERS.get(source, source or "the other images")


def protocol(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The protocol card as (term, text), short enough for the head of the page."""
    if not card:
        return [("Data", "unknown: data/processed/card.json is missing, run `dvc repro preprocess`")]
    counts = card["counts"]
    split = ", ".join(f"{counts[key]:,} {key}".replace(",", "\u202f") for key in ("train", "valid", "test"))
    shown = [
        ("Faces", FACES.get(card["source"], card["source"])),
        ("Note", card["note"]),
        ("Images", split),
        ("Crop", f"{', '.join(str(edge) for edge in card['crop'])} (left, top, right, bottom in pixels)"),
        ("Resize", f"{card['filter']}, antialiased, to {' and '.join(f'{size} × {size}' for size in card['sizes'])}"),
        ("Other images", f"{counts['ood']:,} of {other_set(card)}".replace(",", "\u202f")),
        ("Data hash", ", ".join(f"{size} px: {text[:12]}" for size, text in card["data_hash"].items())),
        ("Skipped", f"{len(card['skipped'])} unreadable files" if card["skipped"] else ""),
    ]
    return [(term, text) for term, text in shown if text]


def find(run: Run, others: str) -> list[Finding]:
    """Say what the likelihood score allows to be said, and nothing more."""
    record = run.records.get("ood/nll")
    if record is None or record.value is None or record.ci95 is None:
        return []
    low, high = record.ci95
    words = {"upper_bound": "likelihood bound", "estimate": "likelihood estimate"}
    what = words.get(table.record_of(run, "bits_per_dim").kind, "likelihood")
    numbers = f"AUROC {wording.share(record.value)}, 95 % CI {wording.share(low)}–{wording.share(high)}"
    if high < 0.5:
        return [Finding(run.name, "inverted", f"gives {others} a higher {what} than held-out faces ({numbers})")]
    if low > 0.5:
        return [Finding(run.name, "separated", f"gives {others} a lower {what} than held-out faces ({numbers})")]
    return [Finding(run.name, "open", f"gives both sets so similar a {what} that nothing follows ({numbers})")]


def _size_section(
    size: int, runs: Sequence[Run], look: Mapping[str, Look], others: str, card: Mapping[str, Any]
) -> SizeSection:
    mine = [run for run in runs if run.config.size == size]
    rows = [(run, table.cells(run)) for run in mine]
    records = [record for run in mine for record in run.records.values()]
    measured = sorted({record.n for record in records if record.name in FACES_ONLY and record.value is not None})
    hashes = sorted({record.data_hash for record in records})
    default = {run.name: scores[0] for run in mine if (scores := own_scores(run))}
    other = SHORT.get(card.get("ood_source", ""), others)
    sections = [_run_section(run, look[run.name], other) for run in mine]
    return SizeSection(
        size=size,
        rows=rows,
        notes=table.footnotes([cells for _, cells in rows]),
        abilities=[(run, [run.abilities.get(ability) for ability in ABILITIES]) for run in mine if run.abilities],
        dots=[
            drawing
            for column in table.MEASURES
            if column.key in DOTS
            for drawing in figures.dots(size, column.key, column.title, _axis(column), _points(mine, look, column.key))
        ],
        charts=[
            *figures.validation_curves(mine, look, size),
            *figures.rate_distortion(mine, look, size),
            *figures.roc(mine, look, size, default, other),
        ],
        histograms=[drawing for section in sections for drawing in section.histograms[:1]],
        comparisons=_comparisons(mine),
        runs=sections,
        n=" to ".join(str(n) for n in sorted({measured[0], measured[-1]})) if measured else "",
        data_hash=", ".join(text[:12] for text in hashes) or card.get("data_hash", {}).get(str(size), "")[:12],
    )


def _points(runs: Sequence[Run], look: Mapping[str, Look], key: str) -> list[tuple[Look, Record, str]]:
    return [(look[run.name], table.record_of(run, key), run.name) for run in runs]


def _axis(column: table.Column) -> str:
    better = f"{column.better} is better" if column.better else ""
    return ", ".join(part for part in (column.title, column.unit, better) if part)


def _comparisons(runs: Sequence[Run]) -> list[tuple[str, str, Sequence[Shown]]]:
    """(title, file stem, one entry per run) for every picture that some run of this size has."""
    there = dict.fromkeys(file for run in runs for file in run.pictures)
    files = [file for file in SIDE_BY_SIDE if file in there] + [file for file in there if file not in SIDE_BY_SIDE]
    found: list[tuple[str, str, Sequence[Shown]]] = []
    for file in files:
        shown = [_shown(run, file) for run in runs if file in SIDE_BY_SIDE or file in run.pictures]
        title = next(entry.picture.title for entry in shown if entry.picture)
        found.append((title, Path(file).stem, shown))
    return found


def _shown(run: Run, file: str) -> Shown:
    picture = run.pictures.get(file)
    image = inline(picture.path, run.config.size) if picture else None
    reason = ""
    if picture is None:
        reason = run.abilities.get(EXPLAINED_BY[file]) or table.NOT_EVALUATED
    return Shown(run.name, f"{run.name}-{Path(file).stem}", picture, image, reason)


def _run_section(run: Run, look: Look, other: str) -> RunSection:
    scores = own_scores(run)
    return RunSection(
        run=run,
        look=look,
        facts=_facts(run),
        settings=_settings(run),
        curves=figures.training_curves(run, look),
        over_time=[(wording.thousands(kimg), image) for kimg, image in over_time(run.snapshots, run.config.size)],
        pictures=[
            Shown(run.name, f"{run.name}-{Path(file).stem}", picture, None, "")
            for file, picture in run.pictures.items()
            if file != GALLERY
        ],
        histograms=[drawing for score in scores for drawing in figures.histogram(run, look, score, other)],
        roc=figures.roc_of_run(run, look, scores, other),
        ood=[record for record in run.records.values() if record.name.startswith(("ood/", "ood_baseline/"))],
        more=[record for record in run.records.values() if _is_more(record)],
        worst=_worst(run),
    )


def _is_more(record: Record) -> bool:
    """Whether a figure that the run has stands neither in the comparison's table nor among the AUROCs."""
    shown = {column.key for column in table.MEASURES}
    return record.value is not None and "/" not in record.name and record.name not in shown


def own_scores(run: Run) -> list[str]:
    """The scores of the model that were kept per image for both sets, without NaN; the default one first."""
    names = [key.partition("/")[2] for key in run.scores if key.startswith("test/")]
    return [name for name in names if f"ood/{name}" in run.scores and not _broken(run, name)]


def _broken(run: Run, score: str) -> bool:
    return bool(np.isnan(run.scores[f"test/{score}"]).any() or np.isnan(run.scores[f"ood/{score}"]).any())


def _facts(run: Run) -> list[tuple[str, str]]:
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
        ("Seed", str(run.config.seed)),
        ("Code", run.config.code[:12]),
    ]
    return [(term, text) for term, text in facts if text]


def _settings(run: Run) -> list[tuple[str, str]]:
    values = run.config.settings | asdict(run.config.train)
    return [(key, _clean(value)) for key, value in values.items()]


def _clean(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_clean(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_clean(item)}" for key, item in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _worst(run: Run) -> Worst | None:
    picture = run.pictures.get(GALLERY)
    if run.failures is None or picture is None:
        return None
    images = gallery(picture.path, run.config.size, len(run.failures.faces))
    if images is None:
        return None
    paired = any(image.width > image.height for image in images)
    return Worst(run.failures, paired, list(zip(run.failures.faces, images, strict=True)))


def _drawings(size: SizeSection) -> list[Drawing]:
    own = [
        drawing
        for section in size.runs
        for part in (section.curves, section.histograms, section.roc)
        for drawing in part
    ]
    return [*size.dots, *size.charts, *own]
