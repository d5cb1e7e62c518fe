"""What MLflow shows above a run's figures: a summary in words and a small table."""

from visage.measures.table import BY_KEY
from visage.metrics import SUMMARIZED
from visage.results import Record, Results

KINDS = {"exact": "", "upper_bound": "≤ ", "lower_bound": "≥ ", "estimate": "≈ ", "undefined": ""}
"""The marks of the page."""
ARROWS = {"lower": " ↓", "higher": " ↑", "": ""}


def note(results: Results) -> str:
    """The figures by which runs are compared, with their intervals, and what went wrong, in Markdown."""
    rows = [row for name in SUMMARIZED if (row := _row(results, name))]
    tripped = [wire for wire in results.tripwires if wire.verdict == "tripped"]
    parts = [
        f"**{results.run}**, measured on held-out faces and on {results.headline.replace('_', ' ')}. "
        "The page shows it in full: `report/index.html`.",
        "\n".join(["| figure | value | 95 % interval |", "|---|---|---|", *rows]) if rows else "",
        "".join(f"Tripped: {wire.name}, {wire.text}.\n" for wire in tripped) or "No tripwire is tripped.",
    ]
    return "\n\n".join(part for part in parts if part)


def _row(results: Results, name: str) -> str:
    record = results.find(name.removeprefix("ood_"))
    if record is None or record.value is None:
        return ""
    measure = BY_KEY[record.metric]
    unit = f" ({measure.unit})" if measure.unit else ""
    return (
        f"| {measure.title}{unit}{ARROWS[measure.better]} | {KINDS[record.kind]}{record.value:.4g} | {_span(record)} |"
    )


def _span(record: Record) -> str:
    return "" if record.ci95 is None else f"{record.ci95[0]:.4g} to {record.ci95[1]:.4g}"
