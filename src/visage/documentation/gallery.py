"""The strips of images that `docs/figures/gallery.py` cuts out of the default run, and the figures beside them."""

from visage.config import RunConfig
from visage.documentation.baseline import Baseline
from visage.documentation.tables import kind_mark, written
from visage.measures.table import BY_KEY
from visage.models import base

SHOWN = (
    *("fd_attr128", "coverage", "bits_per_dim", "recon_mse", "masked_mse", "translation_success_a"),
    *("translation_success_b", "probe_auroc", "auroc"),
)
"""Figures, the ones that say most about the images first: a run is shown with the first three that it has."""
STRIPS = {
    base.Samples: "The first sixteen samples, none of them picked",
    base.Inpaints: "Test faces, what the model sees of them, and what it makes of that",
    base.Translates: "Test faces, and below them their translations",
    base.Reconstructs: "Test faces, and below them their reconstructions",
}
"""What a strip shows of a model that can do this and nothing that is named before."""


def strip(baseline: Baseline, config: RunConfig, folder: str) -> str:
    """The strip of a run, and before it what it shows; folder: that of the figures, seen from the page."""
    can = next(able for able in STRIPS if base.can(baseline.models[config.name], able))
    return f"{STRIPS[can]}:\n\n![Images of {config.label}]({folder}/gallery/{config.label}.jpg)\n"


def strips(baseline: Baseline) -> str:
    """A heading, three figures and the strip of every run."""
    found = []
    for config in baseline.configs:
        figures, mark = baseline.figures(config.name), kind_mark(baseline.models[config.name])
        shown = [BY_KEY[key] for key in SHOWN if key in figures][:3]
        words = " · ".join(f"{measure.title} {written(figures, measure, mark)}" for measure in shown)
        found.append(
            f"\n## {config.label}\n\n{strip(baseline, config, 'figures')}\n"
            f"{words} · [the model](models/{config.model}.md)\n"
        )
    return "".join(found) + "\n"
