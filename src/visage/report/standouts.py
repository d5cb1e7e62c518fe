"""The attributes that stand out among the faces that a model treats worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from visage.measures.comparison import q_values
from visage.report.captions import ranking
from visage.report.load import Run
from visage.report.models import Model
from visage.report.wording import plain, share, significant
from visage.results import Enrichment, Odds

DISCOVERY = 0.05
"""At most this share of all attributes that are named is expected to be chance."""
Tests = Mapping[tuple[str, str, str], float]
"""(run, measure, attribute) -> q."""


@dataclass(frozen=True, slots=True)
class Standout:
    """What stands out among the worst faces by one measure.

    title: what a sentence calls the measure. share: of all faces, in percent.
    q: attribute -> q over all tests of the page. reason: why no face is among the worst, "" where some are.
    """

    enrichment: Enrichment
    title: str
    share: int
    sentences: Sequence[str]
    q: Mapping[str, float]
    reason: str = ""


def tests_of(runs: Sequence[Run]) -> Tests:
    """The q of every test of every run: one family, as all of them are on one page."""
    p = {
        (run.name, enrichment.measure, row.attribute): row.p
        for run in runs
        for enrichment in run.results.enrichment
        for row in enrichment.rows
        if row.tested and row.p is not None
    }
    return q_values(p)


def standouts(model: Model, tests: Tests) -> list[Standout]:
    """What may be said of each measure: attributes whose q is low in the first run and whose sign is that of all."""
    found = []
    for enrichment in model.first.results.enrichment:
        title = ranking(enrichment.measure).title
        if not enrichment.worst:
            found.append(Standout(enrichment, title, 0, [], {}, _nothing_ranked(enrichment)))
            continue
        q = {
            row.attribute: tests[key]
            for row in enrichment.rows
            if (key := (model.first.name, enrichment.measure, row.attribute)) in tests
        }
        named = [
            row for row in enrichment.rows if q.get(row.attribute, 1.0) < DISCOVERY and _agreed(model, enrichment, row)
        ]
        sentences = [sentence(enrichment, row, q[row.attribute]) for row in sorted(named, key=lambda r: q[r.attribute])]
        percent = round(100 * enrichment.worst / enrichment.n)
        found.append(Standout(enrichment, title, percent, sentences, q))
    return found


def _nothing_ranked(enrichment: Enrichment) -> str:
    """Why no face is among the worst, as a sentence without its full stop."""
    if not enrichment.n:
        return "The value is not finite for any face, so no face can be called the worst"
    return f"Only {enrichment.n} faces have a finite value, too few for the worst of them to be compared with the rest"


def _agreed(model: Model, enrichment: Enrichment, row: Odds) -> bool:
    """Whether the odds ratio lies on the same side of 1 in every seed."""
    ratios = [
        other.odds_ratio
        for run in model.runs
        for found in run.results.enrichment
        if found.measure == enrichment.measure
        for other in found.rows
        if other.attribute == row.attribute
    ]
    return len(ratios) == len(model.runs) and len({ratio > 1 for ratio in ratios}) == 1


def sentence(enrichment: Enrichment, row: Odds, q: float) -> str:
    """How far an attribute's odds differ between the worst faces and the rest, and how sure that is."""
    worst, rest = enrichment.worst, enrichment.n - enrichment.worst
    low, high = (significant(edge, 2) for edge in row.ci95)
    sure = f"95 % {low}–{high}, q {f'= {share(q)}' if q >= 0.001 else '< .001'}"
    text = f"{plain(row.attribute)}: the odds are {significant(row.odds_ratio, 2)} times"
    text += f" those of the rest ({sure}); {row.worst_with} of {worst} against {row.rest_with} of {rest} faces"
    if row.adjusted_odds_ratio is not None:
        text += f"; at equal contrast and PNG size {significant(row.adjusted_odds_ratio, 2)} times"
    return text
