"""The page: everything that was trained and measured, side by side, in one file that opens from disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from visage.errors import UserError
from visage.files import replacing, write_text
from visage.report import table, wording
from visage.report.canvas import looks
from visage.report.columns import GROUPS
from visage.report.entries import entries
from visage.report.failures import discoveries
from visage.report.images import LEVELS
from visage.report.load import Run, load_card, load_run
from visage.report.numbers import numbers
from visage.report.ood import find
from visage.report.sections import ABILITIES, Size, size_section

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


def build_report(names: Sequence[str], root: Path, out: Path) -> None:
    """Write the page, the tables and the plots.

    names: `<recipe>-<size>-<seed>`, in the order in which they are shown; the seeds of a label become one row.
    root: the project's folder, with configs/, runs/, metrics/ and data/processed/card.json.
    out: folder for index.html, table.csv, curves.csv and plots/.

    Raises:
        UserError: there is nothing to show, a config is missing, or a file cannot be read.
    """
    runs = [load_run(name, root) for name in names]
    if not any(run.training or run.records for run in runs):
        raise UserError(f"{root / 'runs'} has no trained run to report: run `dvc repro`, or list runs in params.yaml")
    card, shown = load_card(root), entries(runs)
    look, commands, tests = looks(shown), stages(runs), discoveries(runs)
    faces, others = face_set(card), other_set(card)
    other = SHORT.get(card.get("ood_source", ""), others)
    words = f"{faces[:1].upper()}{faces[1:]}, {crop(card)}"
    sizes = [
        size_section(size, [e for e in shown if e.config.size == size], look, other, words, tests, commands)
        for size in sorted({entry.config.size for entry in shown})
    ]
    for drawing in (drawing for size in sizes for drawing in size.drawings):
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
        faces=faces,
        others=others,
        other=other,
        recipes=len({run.config.recipe for run in runs}),
        watched=any(run.tripwires for run in runs),
        tripped=[(own.entry.label, own.tripped) for size in sizes for own in size.own if own.tripped],
        tests=len(tests),
        findings=[finding for entry in shown for finding in find(entry, other)],
        sizes=sizes,
        groups=GROUPS,
        abilities=ABILITIES.values(),
        words=ABILITIES,
        kinds=wording.KINDS,
        look=look,
        levels=LEVELS,
        stages=commands,
        numbers=_numbers(sizes, commands),
    )
    write_text(out / "index.html", page)


def _numbers(sizes: Sequence[Size], commands: Mapping[str, str]) -> dict[str, Any]:
    """The protocol of every number of the page."""
    own = [one for size in sizes for one in size.own]
    return numbers(
        [one.entry for one in own],
        {
            key: {label: verdict for size in sizes for label, verdict in size.verdicts.get(key, {}).items()}
            for key in {key for size in sizes for key in size.verdicts}
        },
        {
            one.entry.label: {figure.records[0].name: figure for _, figures in one.scores for figure in figures}
            for one in own
        },
        [images for size in sizes for images in size.sets],
        commands,
    )


def stages(runs: Sequence[Run]) -> dict[str, str]:
    """Run -> the command that measures it. The two stages of latent diffusion have a stage of their own in dvc.yaml."""
    first = {run.config.first_stage.name for run in runs if run.config.first_stage}
    two = {run.name: run.config.first_stage is not None or run.name in first for run in runs}
    return {name: f"dvc repro evaluate{'_two_stages' * in_two}@{name}" for name, in_two in two.items()}


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


def face_set(card: Mapping[str, Any]) -> str:
    """What the faces are, in words."""
    source: str = card.get("source", "faces of unknown origin")
    return FACES.get(source, source)


def other_set(card: Mapping[str, Any]) -> str:
    """What the out-of-distribution images are, in words."""
    source = card.get("ood_source", "")
    return OTHERS.get(source, source or "the other images")


def crop(card: Mapping[str, Any]) -> str:
    """How a face became an array, in words."""
    if not card:
        return "crop unknown"
    return f"crop box ({', '.join(str(edge) for edge in card['crop'])}), resized by {card['filter']}"


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
