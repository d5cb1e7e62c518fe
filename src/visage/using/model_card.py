"""The README.md of an exported model, as model hubs show it: a model card (Mitchell et al. 2019, arXiv:1810.03993).

Its head is YAML in the keys of Hugging Face. Figures carry their kind, as on the page of the report.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from visage.data.card import DataCard
from visage.measures.table import MEASURES, Measure
from visage.models.base import (
    Decodes,
    Encodes,
    EstimatesLogProb,
    HasBound,
    HasLogProb,
    Inpaints,
    Reconstructs,
    Samples,
    SamplesGiven,
    Translates,
    can,
    find,
    reason,
)
from visage.report.wording import KINDS, MARKS, WRITE, count, grouped
from visage.results import Record, Results, Training
from visage.using.catalogue import title
from visage.using.exported import Program
from visage.using.loaded import LoadedModel
from visage.using.programs import TOLERANCE

TEMPLATE = "model_card.md.j2"
CALLS = {
    Samples: ("samples", "images = model.sample(16, seed=0)  # (16, {size}, {size}, 3) uint8"),
    Translates: ("translations", 'images = model.translate("face.jpg")  # (1, {size}, {size}, 3) uint8'),
    Inpaints: ("completions of hidden parts", 'images, hidden = model.inpaint("face.jpg")'),
    Reconstructs: ("reconstructions", 'images = model.reconstruct("face.jpg")  # (1, {size}, {size}, 3) uint8'),
    Encodes: ("codes of images", 'codes = model.encode("face.jpg")'),
    Decodes: ("images of codes", "images = model.decode(model.prior(16))"),
    SamplesGiven: ("samples with attributes", "images = model.sample(16, attributes={{'Smiling': True}})"),
    HasLogProb: ("exact log P(image)", 'nats = model.log_prob("face.jpg")'),
    HasBound: ("bounds on log P(image)", 'nats = model.log_prob("face.jpg")'),
    EstimatesLogProb: ("estimates of log P(image)", 'nats = model.log_prob("face.jpg")'),
}
"""Capability -> what it is called, and the line of Python that asks for it; the first one that a model has is shown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the card, written out."""

    title: str
    value: str
    kind: str
    interval: str
    n: str
    explanation: str


def model_card(
    model: LoadedModel,
    training: Training,
    card: DataCard,
    results: Results | None,
    weights: str,
    programs: Sequence[Program],
) -> str:
    """The card in Markdown.

    results: None where the model was not evaluated. weights: their hash. programs: that are beside them.
    """
    environment = Environment(
        loader=PackageLoader("visage.using"),
        autoescape=False,  # this is Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"grouped": grouped, "count": count}
    config = training.config
    abilities = [(words, reason(model.model, capability)) for capability, (words, _) in CALLS.items()]
    there = [capability for capability in CALLS if can(model.model, capability)]
    kind = find(config.model)
    return environment.get_template(TEMPLATE).render(
        name=config.name,
        config=config,
        title=title(kind),
        paper=kind.paper,
        can=[CALLS[capability][0] for capability in there],
        cannot=[(words, why) for words, why in abilities if why],
        example=CALLS[there[0]][1].format(size=config.size) if there else "",
        samples=Samples in there,
        training=training,
        settings=_settings(config.settings),
        first_settings=_settings(config.first_stage.settings) if config.first_stage else "",
        optimisation=_settings(asdict(config.train)),
        data=card,
        skipped=len(card.skipped),
        headline=_headline(card, results),
        rows=[] if results is None else _rows(results),
        undefined=[] if results is None else _undefined(results),
        weights=weights,
        programs=programs,
        tolerance=f"{TOLERANCE:g}",
    )


def _rows(results: Results) -> list[Row]:
    """The figures of faces and samples, and those of the model's own score against the headline set."""
    found = [(measure, results.find(measure.key)) for measure in MEASURES]
    return [_row(measure, record) for measure, record in found if record is not None and record.value is not None]


def _row(measure: Measure, record: Record) -> Row:
    assert record.value is not None
    write = WRITE[measure.format]
    return Row(
        title=f"{measure.title}, {measure.unit}" if measure.unit else measure.title,
        value=f"{MARKS.get(record.kind, '')}{write(record.value)}",
        kind=KINDS[record.kind],
        interval=f"{write(record.ci95[0])} to {write(record.ci95[1])}" if record.ci95 else "",
        n=grouped(record.n) if record.n else "",
        explanation=measure.explanation.replace("|", "\\|"),
    )


def _undefined(results: Results) -> list[tuple[str, str]]:
    """Headline figures that the model cannot have, and why not."""
    found = [(measure.title, results.find(measure.key)) for measure in MEASURES if measure.headline]
    return [(name, record.note) for name, record in found if record is not None and record.value is None]


def _headline(card: DataCard, results: Results | None) -> str:
    """What the other images are that scores tell from faces."""
    if results is None:
        return ""
    return next((images.title for images in card.ood if images.name == results.headline), results.headline)


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, dict):
        return f"({_settings(value)})" if value else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
