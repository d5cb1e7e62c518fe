"""Where every number of the page comes from, as data for a dialog: its value, kind, images, hashes and command."""

from collections.abc import Mapping, Sequence
from typing import Any

from visage.measures.table import BY_KEY, MEASURES
from visage.report.figures import COSTS, Figure, Key, figure_of, reference_figure
from visage.report.linear import Opponent
from visage.report.load import Run
from visage.report.models import Model
from visage.report.ood import OtherSet, score_words, without_model
from visage.report.table import Verdict
from visage.report.wording import KINDS
from visage.results import Reference

REFERENCE_COMMAND = "dvc repro reference"
"""The command that measures what depends on no model."""


def command(run: Run) -> str:
    """The command that measures a run."""
    return f"dvc repro evaluate@{run.name}"


def unit_of(metric: str) -> str:
    """The unit of a figure's full value; "" for a measure that the table of measures no longer has."""
    measure = BY_KEY.get(metric)
    if measure is None:
        return ""
    return "seconds" if measure.format == "duration" else measure.unit


class Provenance:
    """Gathers the figures of the page; strings that many of them share are stored once."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._figures: dict[str, dict[str, list[list[Any]]]] = {}
        self._runs: dict[str, tuple[int | None, str, str]] = {}
        self._about: dict[str, tuple[str, str]] = {}
        self._verdicts: dict[str, dict[str, str]] = {}

    def add_model(self, model: Model, sets: Sequence[OtherSet]) -> None:
        """Add every figure of a model, undefined ones included. sets: of the boards."""
        scores = dict.fromkeys((*model.scores, model.first.results.default_score))
        keys = [Key(measure.key) for measure in MEASURES if not measure.reference]
        keys += [Key("auroc", images.name, score) for images in sets for score in scores]
        rows: dict[Key, list[list[Any]]] = {key: [] for key in keys}
        for run in model.runs:
            self._runs[run.name] = (run.config.seed, command(run), run.name)
            for key in keys:
                rows[key].append(self._row(run.name, key, figure_of(run, key), *_hashes(run, key)))
        self._add(model.label, rows, sets)

    def add_reference(self, reference: Reference, sets: Sequence[OtherSet]) -> None:
        """Add every figure that depends on no model. sets: of the boards."""
        label = without_model(reference.size)
        scores = dict.fromkeys(record.score for record in reference.records if record.metric == "auroc")
        keys = [Key(measure.key) for measure in MEASURES if measure.reference]
        keys += [Key("auroc", images.name, score) for images in sets for score in scores]
        self._runs[label] = (None, REFERENCE_COMMAND, "")
        rows = {key: [self._row(label, key, reference_figure(reference, key), reference.data_hash, "")] for key in keys}
        self._add(label, rows, sets)

    def add_linear(self, opponent: Opponent, sets: Sequence[OtherSet]) -> None:
        """Add every figure of a linear reference."""
        label = opponent.label
        command = "visage evaluate FOLDER --join NAME" if opponent.outside else REFERENCE_COMMAND
        self._runs[label] = (None, command, "")
        measured = {record.metric: opponent.figure(record.metric) for record in opponent.about.records}
        rows = {
            Key(metric): [self._row(label, Key(metric), found, opponent.data_hash, "")]
            for metric, found in measured.items()
        }
        self._add(label, rows, sets)

    def add_verdicts(self, metric: str, found: Mapping[str, Verdict]) -> None:
        """Add how models compare with the best one. found: label -> verdict."""
        self._verdicts.setdefault(metric, {}).update({label: verdict.text for label, verdict in found.items()})

    def data(self) -> dict[str, Any]:
        """What the page's script reads.

        Returns:
            "texts": strings that figures refer to by position.
            "runs": run -> its seed, the command that measures it, and its MLflow run.
            "about": key of a figure -> title and meaning.
            "figures": label -> key -> per seed [run, value, low, high, n, and the positions of kind, unit, note, data
                hash, model hash].
            "verdicts": measure -> label -> comparison with the best model.
        """
        return {
            "figures": self._figures,
            "texts": list(self._texts),
            "runs": self._runs,
            "about": self._about,
            "verdicts": self._verdicts,
        }

    def _add(self, label: str, rows: Mapping[Key, list[list[Any]]], sets: Sequence[OtherSet]) -> None:
        self._figures[label] = {str(key): seeds for key, seeds in rows.items()}
        self._about |= {str(key): about(key, sets) for key in rows}

    def _row(self, run: str, key: Key, figure: Figure, data_hash: str, model_hash: str) -> list[Any]:
        texts = (KINDS[figure.kind], unit_of(key.metric), figure.note, data_hash, model_hash)
        places = [self._texts.setdefault(text, len(self._texts)) for text in texts]
        return [run, figure.value, *(figure.ci95 or (None, None)), figure.n, *places]


def _hashes(run: Run, key: Key) -> tuple[str, str]:
    """The hashes of the data and the model behind a figure; costs are measured on neither."""
    return ("", "") if key.metric in COSTS else (run.results.data_hash, run.results.model_hash)


def about(key: Key, sets: Sequence[OtherSet]) -> tuple[str, str]:
    """Title and meaning of a figure."""
    if not key.images:
        return BY_KEY[key.metric].title, BY_KEY[key.metric].explanation
    images = next((images for images in sets if images.name == key.images), OtherSet(key.images, key.images, ""))
    words = score_words(key.score)
    meaning = f"{words[:1].upper()}{words[1:]}." if words else "A score of the model."
    isolates = f" This set isolates {images.isolates}." if images.isolates else ""
    return f"AUROC of {key.score or 'the default score'}, {images.title}", f"{meaning}{isolates}"
