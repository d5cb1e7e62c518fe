"""What is compared: models of one size. Runs that differ in their seed alone are one model."""

from collections.abc import Sequence
from dataclasses import dataclass

from visage.config import RunConfig
from visage.measures.comparison import ImageValues, mean_of_seeds
from visage.report.figures import Key, Pooled, figure_of
from visage.report.load import Run
from visage.results import TEST


@dataclass(frozen=True, slots=True)
class Model:
    """A row of the table, and a colour in the charts.

    runs: one per seed. The first one's pictures and curves are on the page, whatever the others look like.
    """

    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """`<recipe>-<size>`."""
        return self.config.label

    @property
    def config(self) -> RunConfig:
        """The first run's."""
        return self.first.config

    @property
    def first(self) -> Run:
        """The run whose pictures and curves are on the page."""
        return self.runs[0]

    @property
    def metrics(self) -> list[str]:
        """All measures of which some run has a record, in their order."""
        return list(dict.fromkeys(record.metric for run in self.runs for record in run.results.records))

    @property
    def scores(self) -> list[str]:
        """All scores that tell faces from other images in some run, in their order."""
        records = [record for run in self.runs for record in run.results.records]
        return list(dict.fromkeys(record.score for record in records if record.metric == "auroc" and record.score))

    def pooled(self, metric: str, images: str = "", score: str = "") -> Pooled:
        """A figure, seed by seed."""
        return Pooled([figure_of(run, Key(metric, images, score)) for run in self.runs])

    def per_image(self, metric: str) -> ImageValues | None:
        """The measure of each image, mean over the seeds; None where some seed did not keep it or is not finite."""
        kept = [_per_image(run, metric) for run in self.runs]
        seeds = [values for values in kept if values is not None]
        return mean_of_seeds(seeds) if len(seeds) == len(kept) else None


def _per_image(run: Run, metric: str) -> ImageValues | None:
    values, rows = run.per_image.values.get(metric), run.per_image.rows.get(TEST)
    if values is None or rows is None:
        return None
    n = len(values)
    return ImageValues(rows[:n], values, run.per_image.identity[:n])


def models_of(runs: Sequence[Run]) -> list[Model]:
    """The runs by label, in the order in which a label comes first."""
    labels: dict[str, list[Run]] = {}
    for run in runs:
        labels.setdefault(run.config.label, []).append(run)
    return [Model(tuple(seeds)) for seeds in labels.values()]
