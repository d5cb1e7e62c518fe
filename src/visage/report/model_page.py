"""One model alone: "Run by run" on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from visage.config import RunConfig
from visage.measures.table import Measure
from visage.report.captions import words_of
from visage.report.curves import training_curves
from visage.report.figures import Key, figure_of
from visage.report.galleries import Galleries, galleries
from visage.report.images import Copier, Shown, evenly
from visage.report.load import Run
from visage.report.models import Model
from visage.report.ood import OtherSet, Row, score_rows
from visage.report.plotting import Drawing, Look
from visage.report.provenance import command
from visage.report.score_charts import drawn_scores, histogram, roc_of_model
from visage.report.side_by_side import compared, shot_id
from visage.report.standouts import Standout, Tests, standouts
from visage.report.table import Cell, cell
from visage.report.wording import count, duration, grouped, plain, thousands
from visage.results import Reference

ABILITIES = {
    "Samples": "samples",
    "SamplesGiven": "samples with attributes",
    "Translates": "translates",
    "Inpaints": "fills in",
    "Denoises": "removes noise",
    "Reconstructs": "reconstructs",
    "Encodes": "encodes",
    "Decodes": "interpolates",
    "HasLogProb": "density",
    "HasBound": "bound",
    "EstimatesLogProb": "estimated density",
    "ScoresOod": "own OOD score",
}
"""Capability -> what the page calls it."""
VERDICTS = ("tripped", "ok", "undefined")
"""Verdicts on a training, the one that outweighs the others first."""
HISTOGRAMS = 3
"""Scores of a model that are drawn; the board has all."""


@dataclass(frozen=True, slots=True)
class Check:
    """A tripwire over all seeds. verdict: tripped where any seed's is; seeds: which, "" for a single one."""

    title: str
    verdict: str
    text: str
    seeds: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Samples after some thousands of images shown."""

    kimg: str
    image: Shown


@dataclass(frozen=True, slots=True)
class ModelPage:
    """The content of a model's part of the page.

    abilities: (capability, why the model does not have it). settings: with those of a first stage.
    seeds: (run, its headline figures), empty for a single seed. pictures: (id, title) of those further up.
    scores: a board of all its scores.
    """

    model: Model
    look: Look
    facts: Sequence[tuple[str, str]]
    abilities: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    seeds: Sequence[tuple[Run, Sequence[Cell]]]
    checks: Sequence[Check]
    curves: Sequence[Drawing]
    over_time: Sequence[Moment]
    pictures: Sequence[tuple[str, str]]
    histograms: Sequence[Drawing]
    roc: Sequence[Drawing]
    scores: Sequence[Row]
    galleries: Sequence[Galleries]
    standouts: Sequence[Standout]

    @property
    def tripped(self) -> list[str]:
        """The tripwires that tripped, with their seeds where there are several."""
        tripped = [check for check in self.checks if check.verdict == "tripped"]
        return [f"{check.title}, {check.seeds}" if check.seeds else check.title for check in tripped]

    @property
    def drawings(self) -> list[Drawing]:
        """Every chart of the model alone."""
        return [*self.curves, *self.histograms, *self.roc]


def model_page(
    model: Model,
    look: Look,
    sets: Sequence[OtherSet],
    reference: Reference | None,
    columns: Sequence[Measure],
    tests: Tests,
    copier: Copier,
) -> ModelPage:
    """Gather what is shown of one model.

    sets: of the board, the headline first. columns: of the comparison table. copier: takes the pictures.
    """
    run, scores = model.first, drawn_scores(model.first)[:HISTOGRAMS]
    others = sets[0].title if sets else ""
    several = model.runs if len(model.runs) > 1 else ()
    abilities = run.results.abilities
    return ModelPage(
        model=model,
        look=look,
        facts=_facts(model),
        abilities=[(ABILITIES.get(name, name), reason) for name, reason in abilities.items()],
        settings=_settings(run.config),
        seeds=[(one, [cell(Model((one,)), column) for column in columns if column.headline]) for one in several],
        checks=checks(model),
        curves=training_curves(model, look),
        over_time=_over_time(run, copier),
        pictures=[(shot_id(model, file), words_of(file).title) for file in compared(run)],
        histograms=[drawing for score in scores for drawing in histogram(model, look, score, others)],
        roc=roc_of_model(model, look, scores, others),
        scores=score_rows(model, sets, reference),
        galleries=galleries(run, copier),
        standouts=standouts(model, tests),
    )


def _over_time(run: Run, copier: Copier) -> list[Moment]:
    """The first row of some grids: the same noise, or the same faces, at different moments."""
    return [
        Moment(thousands(kimg), copier.first_row(path, run.config.size, f"{run.name}/samples/{path.stem}"))
        for kimg, path in evenly(run.snapshots)
    ]


def checks(model: Model) -> list[Check]:
    """The tripwires over all seeds, tripped ones first."""
    several = len(model.runs) > 1
    tripwires = [(run.config.seed, tripwire) for run in model.runs for tripwire in run.results.tripwires]
    found = []
    for name in dict.fromkeys(tripwire.name for _, tripwire in tripwires):
        all_seeds = [(seed, tripwire) for seed, tripwire in tripwires if tripwire.name == name]
        verdict = min((tripwire.verdict for _, tripwire in all_seeds), key=VERDICTS.index)
        text = "; ".join(f"seed {seed}: {one.text}" if several else one.text for seed, one in all_seeds)
        tripped = ", ".join(str(seed) for seed, one in all_seeds if one.verdict == "tripped")
        title = plain(name).replace("non finite", "non-finite values")
        found.append(Check(title, verdict, text, f"seed {tripped}" if several and tripped else ""))
    return sorted(found, key=lambda check: VERDICTS.index(check.verdict))


def _facts(model: Model) -> list[tuple[str, str]]:
    run = model.first
    seeds = ", ".join(str(one.config.seed) for one in model.runs)
    facts = [
        ("Model file", f"models/{run.config.model}.py"),
        *_training_facts(run),
        ("Evaluation took", duration(run.evaluation_cost.seconds) if run.evaluation_cost else ""),
        ("Seeds" if len(model.runs) > 1 else "Seed", seeds),
        ("Code", run.config.code[:12]),
        ("DVC", command(run)),
        ("MLflow run", run.name),
    ]
    return [(term, text) for term, text in facts if text]


def _training_facts(run: Run) -> list[tuple[str, str]]:
    facts = []
    if training := run.training:
        players = ", ".join(f"{player} {count(n)}" for player, n in training.parameters.players.items())
        facts += [
            ("Parameters", players),
            ("Training", f"{grouped(training.steps)} steps"),
            ("Images shown", f"{thousands(training.images_shown / 1000)} thousand"),
            ("Weights", f"of step {training.selected_step}"),
            ("Chosen by", training.selected_by),
        ]
    if cost := run.training_cost:
        seconds = figure_of(run, Key("seconds"))
        facts += [
            ("Took", f"{duration(seconds.value or 0.0)} {seconds.note}"),
            ("Device", f"{cost.footprint.device}, {cost.footprint.precision}"),
        ]
    return facts


def _settings(config: RunConfig, prefix: str = "") -> list[tuple[str, str]]:
    values: Mapping[str, object] = config.settings | asdict(config.train)
    found = [(prefix + key, _text(value)) for key, value in values.items()]
    return [*found, *(_settings(config.first_stage, f"first stage: {prefix}") if config.first_stage else [])]


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
