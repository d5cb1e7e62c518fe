"""The language of results: what training, the reference and evaluation write, and all that comes after them reads.

Layout of a project's results:

    runs/<run>/train/run.json           `Training`
    runs/<run>/evaluate/results.json    `Results`
    runs/<run>/evaluate/scores.npz      `PerImage`, of the model's scores
    data/reference/<size>/results.json  `Reference`: what depends on no model
    data/reference/<size>/scores.npz    `PerImage`, of the statistics that need no model
    runs/<run>/cost/train.json          `TrainingCost`, apart from the training's outputs, since no two are the same
    runs/<run>/cost/evaluate.json       `EvaluationCost`
    judged/<size>/<name>.json           `JudgedFolder`, of samples from elsewhere
    data/cost/<stage>.json              `StageCost` of the stages that all runs share, apart for the same reason
    metrics/                            the plain figures and the costs, for git: `visage.metrics`

This module imports no PyTorch and knows no model. Titles, units and explanations of the figures are not here but
in `visage.measures.table`, so that a changed word measures nothing again.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from visage.config import RunConfig
from visage.errors import UserError
from visage.files import Strict, read_typed, replacing, write_json

Version = Literal[3]
VERSION: Version = 3
"""Raised whenever a stored field changes its meaning: files of another version are refused, and measured again."""

Kind = Literal["exact", "upper_bound", "lower_bound", "estimate", "undefined"]
Place = Literal["worst", "median", "best"]
Verdict = Literal["ok", "tripped", "undefined"]
SetKind = Literal["external", "derived", "subset"]
Scores = Mapping[str, NDArray[np.float64]]
"""Score -> (n,) per-image values; higher means less like the training faces."""
T = TypeVar("T")

JUDGED_FOLDERS = "judged"
"""The folder of a project with what is known of samples from elsewhere."""
TEST, VALID = "test", "valid"
"""The held-out and the validation faces, among the names of sets of images."""
DIGITS = 6
"""Significant digits of `metrics`: what survives another order of summation."""
IDENTITY = "identity"
"""The array of `PerImage.identity` in its file."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What measures, sets of images and scores are called."""


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record(Strict):
    """A figure together with everything that is needed to judge it.

    metric: a row of `visage.measures.table`.
    value: None exactly where kind is "undefined"; `note` then holds the reason.
    kind: exact: computed as defined, on these images; upper_bound, lower_bound: of the quantity named; estimate: with
        random draws of its own behind it. Only figures of one kind may be ranked against each other.
    n: images behind it.
    ci95: 95 % bootstrap interval over these images, None where there is none.
    images: the set of images that is told from held-out faces; "" for a figure of faces or samples alone.
    score: the score that tells them apart; "" where there is none.
    """

    metric: str
    kind: Kind
    value: float | None = None
    n: int = 0
    ci95: tuple[float, float] | None = None
    note: str = ""
    images: str = ""
    score: str = ""

    def __post_init__(self) -> None:
        """Refuse values that JSON and tables cannot hold, and gaps without a reason."""
        if (self.value is None) != (self.kind == "undefined"):
            raise ValueError(f"record {self.metric}: kind {self.kind} does not go with value {self.value}")
        if self.value is None and not self.note:
            raise ValueError(f"record {self.metric}: an undefined figure needs its reason in the note")
        if not all(math.isfinite(number) for number in (self.value or 0.0, *(self.ci95 or ()))):
            raise ValueError(f"record {self.metric}: value {self.value}, interval {self.ci95} must be finite")


@dataclass(frozen=True, slots=True)
class Tripwire(Strict):
    """One way in which a training is known to go wrong, and whether it did.

    value, limit: what decided. Both are None where the verdict is "undefined", and `text` holds the reason; value alone
        is None where it is not finite, which trips any wire.
    text: everything that was looked at, as a phrase.
    """

    name: str
    verdict: Verdict
    text: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Picture(Strict):
    """A grid of images that evaluation saved.

    file: its name in the run's folder; the stem is also the key of its title and caption on the page.
    columns, rows: of the grid.
    facts: what the caption needs to know, such as {"shown": 64}.
    """

    file: str
    columns: int
    rows: int
    facts: dict[str, int | str | list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Face(Strict):
    """One face of a gallery.

    row: of the split's arrays; value: of the gallery's measure; attributes: those that the face has.
    """

    row: int
    image_id: str
    value: float
    attributes: list[str]


@dataclass(frozen=True, slots=True)
class Gallery(Strict):
    """Faces from one place of the ranking by one measure; high values are bad.

    measure: a row of `visage.measures.table`, or a score.
    picture: the file that shows the faces, in this order. n: faces that were ranked.
    """

    measure: str
    place: Place
    picture: str
    n: int
    faces: list[Face]


@dataclass(frozen=True, slots=True)
class Odds(Strict):
    """How an attribute is spread over the worst faces and the rest.

    worst_with, rest_with: faces that have it, among the worst and among the others.
    expected: of worst_with, where the attribute makes no difference.
    odds_ratio: above 1 where the worst have it more often; ci95: from resampled people.
    tested: whether `p` exists; reason: why not, else empty. p: of Fisher's exact test.
    adjusted_odds_ratio: at equal covariates; None where it is not estimated.
    """

    attribute: str
    worst_with: int
    rest_with: int
    expected: float
    odds_ratio: float
    ci95: tuple[float, float]
    tested: bool
    reason: str
    p: float | None = None
    adjusted_odds_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Enrichment(Strict):
    """Which attributes the worst faces by one measure have more often, or less often, than the others.

    n: faces behind it; worst: how many of them are the worst.
    p_max: how often chance gives a count as surprising as the most surprising one here; None where none is tested.
    """

    measure: str
    n: int
    worst: int
    rows: list[Odds]
    p_max: float | None = None


@dataclass(frozen=True, slots=True)
class Results(Strict):
    """Everything that one run's evaluation found, but for per-image values and pictures.

    data_hash, model_hash: what was measured on, and what was measured.
    default_score: the score that speaks for the model, "" where it has none.
    headline: the set of other images that stands for out-of-distribution images in general.
    abilities: capability -> why the model does not have it, "" where it has.
    """

    version: Version
    run: str
    data_hash: str
    model_hash: str
    default_score: str
    headline: str
    records: list[Record]
    tripwires: list[Tripwire]
    galleries: list[Gallery]
    enrichment: list[Enrichment]
    pictures: list[Picture]
    abilities: dict[str, str]

    def find(self, metric: str, images: str | None = None, score: str | None = None) -> Record | None:
        """The record of a figure; a figure about other images is that of the headline set and the default score."""
        return find(self.records, metric, images or self.headline, score or self.default_score)

    def metrics(self) -> dict[str, Any]:
        """The defined figures for `dvc metrics`: plain ones by name, then those about other images in groups.

        ood_auroc, ood_aupr, ood_fpr95: default score, headline set. "ood": AUROC of every score against the headline
        set. "sets": AUROC of the default score against every other set. "tripwires": 1 where one is tripped, else 0.
        """
        figures: dict[str, Any] = {}
        for record in self.records:
            if record.value is None:
                continue
            value = float(f"{record.value:.{DIGITS}g}")
            headline, default = record.images == self.headline, record.score == self.default_score
            if not record.images:
                figures[record.metric] = value
            if headline and default:
                figures[f"ood_{record.metric}"] = value
            if record.metric == "auroc" and headline:
                figures.setdefault("ood", {})[record.score] = value
            if record.metric == "auroc" and default and not headline:
                figures.setdefault("sets", {})[record.images] = value
        wires = {wire.name: int(wire.verdict == "tripped") for wire in self.tripwires if wire.verdict != "undefined"}
        return figures | {"tripwires": wires}


def find(records: Sequence[Record], metric: str, images: str, score: str) -> Record | None:
    """The record of a figure; images and score do not matter to a figure of faces or samples alone."""
    same = [record for record in records if record.metric == metric]
    told = [record for record in same if record.images == images and record.score == score]
    return next(iter(told or [record for record in same if not record.images]), None)


# --- what depends on no model -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageSet(Strict):
    """A set of images that scores are to tell from held-out faces.

    kind: external: images of another kind, from files; derived: computed from test faces or noise; subset: the test
        faces that have a rare attribute, against those that do not.
    n: how many there are. title: of an external set; "" for the others, which `visage.measures.table` describes.
    """

    name: str
    kind: SetKind
    n: int
    title: str = ""


@dataclass(frozen=True, slots=True)
class LinearReference(Strict):
    """Figures of what a few seconds of linear algebra reach, in the place of a model.

    name: "gaussian", one Gaussian of all pixels together; "pca_<K>", the linear autoencoder with K numbers.
    numbers: K, of a code; 0 where it makes none.
    """

    name: str
    numbers: int
    records: list[Record]

    def key(self, metric: str) -> str:
        """Under which `PerImage.values` has a measure of each face."""
        return f"{self.name}_{metric}"


@dataclass(frozen=True, slots=True)
class Reference(Strict):
    """What evaluation needs, and the page shows, of one image size, and what depends on no model.

    sets: in the order of the page; the first one is the headline.
    network_hash: of the attribute network's weights, "" where there is none; why_no_network says why.
    compared: samples of every model that are compared with faces where their number matters, as many as there are
        faces behind the floor of that comparison.
    records: figures of the statistics that need no model, of real faces in place of samples, and of controls.
    linear: what models are compared with that needs no network.
    """

    version: Version
    size: int
    data_hash: str
    network_hash: str
    why_no_network: str
    sets: list[ImageSet]
    compared: int
    records: list[Record]
    linear: list[LinearReference]

    @property
    def headline(self) -> str:
        """The set that stands for out-of-distribution images in general."""
        return self.sets[0].name

    def find(self, metric: str, images: str = "", score: str = "") -> Record | None:
        """The record of a figure."""
        return find(self.records, metric, images, score)


@dataclass(frozen=True, slots=True)
class JudgedFolder(Strict):
    """A folder of samples from elsewhere, judged by the measures of our samples against the same test faces.

    data_hash: of the data of that size. images: how many there were.
    """

    version: Version
    name: str
    size: int
    data_hash: str
    images: int
    records: list[Record]


# --- training and cost ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameters(Strict):
    """Trainable numbers of all players together, and of each."""

    total: int
    players: dict[str, int]


@dataclass(frozen=True, slots=True)
class Training(Strict):
    """What was trained, and which weights were kept: `run.json`.

    key: `RunConfig.key`: trainings of one key have the same config, code and data, and so the same outcome.
    steps: iterations; images_shown: training images, repeats counted.
    selected_step, selected_by: the moment of the weights that were kept, and how it was chosen.
    """

    version: Version
    key: str
    config: RunConfig
    parameters: Parameters
    steps: int
    images_shown: int
    selected_step: int
    selected_by: str


@dataclass(frozen=True, slots=True)
class Footprint(Strict):
    """What the work was done on, and its peak memory: of the GPU where there is one, else of the process."""

    peak_memory_mb: int
    device: str
    precision: str
    threads: int


@dataclass(frozen=True, slots=True)
class TrainingCost(Strict):
    """What a training took. Everything but `train_pflop` varies from run to run.

    train_pflop: 10^15 floating-point operations; None where counting them failed.
    first_stage: what training the first stage took, of a run that has one.
    """

    seconds: float
    images_per_second: float
    footprint: Footprint
    train_pflop: float | None = None
    first_stage: "TrainingCost | None" = None


@dataclass(frozen=True, slots=True)
class EvaluationCost(Strict):
    """What an evaluation took, and what a sample takes, of a model that samples."""

    seconds: float
    images_per_second: float
    footprint: Footprint
    samples_per_second: float | None = None
    sample_gflop: float | None = None


@dataclass(frozen=True, slots=True)
class StageCost(Strict):
    """What a stage took that measures no run: its own process, not those that draw faces for it.

    peak_memory_mb: of the process, with what it has mapped of files. peak_gpu_memory_mb: None where it used no GPU.
    """

    seconds: float
    peak_memory_mb: int
    peak_gpu_memory_mb: int | None = None


# --- per-image values -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PerImage:
    """Values per image, so that every audit can do without the model.

    rows: set of images -> the rows of its arrays that were measured, in the order of all values.
    identity: (n,) who is on each of the held-out faces, -1 where that is not known.
    scores: set of images -> score -> (n,) values; of scores that take long, those of the first images.
    values: measure -> (n,) values of the first of the held-out faces.
    """

    rows: Mapping[str, NDArray[np.int64]]
    identity: NDArray[np.int64]
    scores: Mapping[str, Scores]
    values: Mapping[str, NDArray[np.float64]]

    def save(self, path: Path) -> None:
        """Write an NPZ file with one array for each; the same values give the same bytes."""
        groups = {"rows": self.rows, "values": self.values} | {f"scores.{name}": s for name, s in self.scores.items()}
        arrays = {f"{group}.{name}": array for group, found in groups.items() for name, array in found.items()}
        arrays[IDENTITY] = self.identity
        with replacing(path) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "PerImage":
        """Read the file.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing: {AGAIN}") from error
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise UserError(f"{path} cannot be read ({error}): delete it and {AGAIN}") from error
        if IDENTITY not in arrays:
            raise UserError(f"{path} does not say who is on the faces: delete it and {AGAIN}")
        identity = arrays.pop(IDENTITY)
        rows: dict[str, NDArray[np.int64]] = {}
        values: dict[str, NDArray[np.float64]] = {}
        scores: dict[str, dict[str, NDArray[np.float64]]] = {}
        for key, array in arrays.items():
            match key.split("."):
                case ["rows", name]:
                    rows[name] = array
                case ["values", name]:
                    values[name] = array
                case ["scores", images, name]:
                    scores.setdefault(images, {})[name] = array
                case _:
                    raise UserError(f"{path} holds an unknown array {key}: delete it and {AGAIN}")
        return cls(rows, identity, scores, values)


# --- reading and writing ----------------------------------------------------------------------------------------------

AGAIN = "run `dvc repro` again"


def cost_file(root: Path, name: str, stage: Literal["train", "evaluate"]) -> Path:
    """Where a run's `TrainingCost` or `EvaluationCost` is, below the project's root."""
    return root / "runs" / name / "cost" / f"{stage}.json"


def write(path: Path, value: Strict) -> None:
    """Write any of these dataclasses as JSON, whole or not at all. Fields that are None are left out."""
    write_json(path, _without_none(dataclasses.asdict(value)))  # type: ignore[call-overload]


def read(path: Path, kind: type[T]) -> T:
    """Read what `write` wrote.

    Raises:
        UserError: the file is missing, damaged, or written by another version of this schema.
    """
    return read_typed(path, kind, f"delete it and {AGAIN}")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value
