"""Galleries of the worst faces beside ordinary ones, and the attributes that stand out among the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import false_discovery_control

from visage.report.entries import Entry
from visage.report.images import Sheet, sheet
from visage.report.load import Enrichment, Face, Gallery, Odds, Run
from visage.report.wording import share, significant

PLACES = {"worst": "Worst", "median": "Around the median", "best": "Best"}
DISCOVERY = 0.05
"""At most this share of all that are named is expected to be chance."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A gallery with its picture. faces: each with its place on the sheet."""

    gallery: Gallery
    title: str
    sheet: Sheet
    faces: Sequence[tuple[Face, tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Standout:
    """What stands out among the worst faces by one measure. q: attribute -> q over all tests of the page."""

    enrichment: Enrichment
    share: int
    sentences: Sequence[str]
    q: Mapping[str, float]


def galleries(run: Run) -> list[tuple[str, str, Sequence[Shown]]]:
    """(title of the measure, unit, galleries) by measure, worst first."""
    found: dict[tuple[str, str], list[Shown]] = {}
    for gallery in sorted(run.galleries, key=lambda g: list(PLACES).index(g.place)):
        picture = run.pictures.get(gallery.picture)
        laid_out = sheet(picture.path, run.config.size, len(gallery.faces)) if picture else None
        if laid_out:
            faces = list(zip(gallery.faces, laid_out.places, strict=True))
            shown = Shown(gallery, PLACES[gallery.place], laid_out, faces)
            found.setdefault((gallery.title, gallery.unit), []).append(shown)
    return [(title, unit, shown) for (title, unit), shown in found.items()]


Tests = Mapping[tuple[str, str, str], float]
"""(run, measure, attribute) -> q."""


def discoveries(runs: Sequence[Run]) -> Tests:
    """The q of every test of every run (Benjamini & Hochberg 1995): who looks at many models finds much by chance."""
    p = {
        (run.name, enrichment.measure, row.attribute): row.p
        for run in runs
        for enrichment in run.enrichment
        for row in enrichment.rows
        if row.tested and row.p is not None
    }
    return dict(zip(p, false_discovery_control(list(p.values())).tolist(), strict=True)) if p else {}


def standouts(entry: Entry, tests: Tests) -> list[Standout]:
    """What may be said of each measure: attributes whose q is low in the first run and whose sign is that of all."""
    found = []
    for enrichment in entry.first.enrichment:
        q = {
            row.attribute: tests[key]
            for row in enrichment.rows
            if (key := (entry.first.name, enrichment.measure, row.attribute)) in tests
        }
        named = [
            row for row in enrichment.rows if q.get(row.attribute, 1.0) < DISCOVERY and _agreed(entry, enrichment, row)
        ]
        sentences = [sentence(enrichment, row, q[row.attribute]) for row in sorted(named, key=lambda r: q[r.attribute])]
        found.append(Standout(enrichment, round(100 * enrichment.worst / enrichment.n), sentences, q))
    return found


def _agreed(entry: Entry, enrichment: Enrichment, row: Odds) -> bool:
    """Whether the odds ratio lies on the same side of 1 in every seed."""
    ratios = [
        other.odds_ratio
        for run in entry.runs
        for found in run.enrichment
        if found.measure == enrichment.measure
        for other in found.rows
        if other.attribute == row.attribute
    ]
    return len(ratios) == len(entry.runs) and len({ratio > 1 for ratio in ratios}) == 1


def sentence(enrichment: Enrichment, row: Odds, q: float) -> str:
    """An attribute in words: how far its odds differ between the worst faces and the rest, and how sure that is."""
    worst, rest = enrichment.worst, enrichment.n - enrichment.worst
    low, high = (significant(edge, 2) for edge in row.ci95)
    sure = f"95 % {low}–{high}, q {f'= {share(q)}' if q >= 0.001 else '< .001'}"
    text = f"{row.attribute.replace('_', ' ')}: the odds are {significant(row.odds_ratio, 2)} times"
    text += f" those of the rest ({sure}); {row.worst_with} of {worst} against {row.rest_with} of {rest} faces"
    if row.adjusted_odds_ratio is not None:
        text += f"; at equal contrast and PNG size {significant(row.adjusted_odds_ratio, 2)} times"
    return text
