"""Reading what training and evaluation wrote about one run. A part that is missing is named, never an error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from visage.config import RunConfig
from visage.errors import UserError
from visage.files import read_json

Scores = dict[str, NDArray[np.float64]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One measured figure, or the reason why there is none.

    value: None where kind is "undefined"; `note` then holds the reason.
    kind: exact, upper_bound, lower_bound, estimate or undefined.
    n: images behind it; ci95: the 95 % interval, None where none was computed.
    """

    name: str
    value: float | None
    unit: str
    kind: str
    n: int
    ci95: tuple[float, float] | None
    note: str
    data_hash: str
    model_hash: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A grid of images written by `visage.pictures`, and what to write under it."""

    path: Path
    title: str
    caption: str
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Face:
    """One face of a gallery."""

    image_id: str
    value: float
    attributes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The worst, median or best faces by a measure, in the order of `picture`, which is one of the run's pictures."""

    measure: str
    title: str
    unit: str
    place: str
    picture: str
    faces: Sequence[Face]


@dataclass(frozen=True, slots=True)
class Made:
    """A set of images made from test faces or from noise, and what it isolates."""

    title: str
    isolates: str


@dataclass(frozen=True, slots=True)
class Tripwire:
    """Whether training went wrong in one named way. verdict: ok, tripped or undefined; `text` says why."""

    name: str
    verdict: str
    value: float | None
    limit: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Odds:
    """How an attribute is spread over the worst faces and the rest.

    worst_with, rest_with: faces with the attribute; expected: of them among the worst if it made no difference.
    odds_ratio, ci95: with its interval; adjusted_odds_ratio: at equal contrast and PNG size, None where it has none.
    p: of Fisher's exact test, None where `tested` is false and `reason` says why.
    """

    attribute: str
    worst_with: int
    rest_with: int
    expected: float
    odds_ratio: float
    ci95: tuple[float, float]
    p: float | None
    tested: bool
    reason: str
    adjusted_odds_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Enrichment:
    """The attributes among the `worst` of `n` faces by a measure.

    p_max: how often a random assignment of attributes has so large a |log odds ratio| somewhere; None where not known.
    """

    measure: str
    title: str
    n: int
    worst: int
    p_max: float | None
    rows: Sequence[Odds]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report knows about one run.

    training: run.json; empty where the run is not trained.
    history, validation: as the training wrote them, without rows where they are missing.
    snapshots: (thousands of images shown, picture) over the training.
    records: by name; empty where the run is not evaluated.
    scores: "<images>/<score>" -> (n,) per-image scores, higher = less like the training faces; images are test, ood,
        valid, suite.<set>, and the first two with _baseline. "value/<measure>": of the first test images.
    rows: which test images these are, in the order of the scores.
    suite: the made sets in the order in which they are shown.
    cost: what training took (seconds, images_per_second, peak_memory_mb, ...); empty where it is not known.
    sampling: what drawing samples took (sample_seconds_per_64, sample_gflop); empty where it is not known.
    abilities: capability -> why the model does not have it, empty where it has; empty where the run is not evaluated.
    missing: files that are not there, from the project's root.
    """

    config: RunConfig
    training: Mapping[str, Any]
    history: pd.DataFrame
    validation: pd.DataFrame
    snapshots: Sequence[tuple[float, Path]]
    records: Mapping[str, Record]
    scores: Scores
    rows: NDArray[np.int64]
    suite: Mapping[str, Made]
    pictures: Mapping[str, Picture]
    galleries: Sequence[Gallery]
    tripwires: Sequence[Tripwire]
    enrichment: Sequence[Enrichment]
    cost: Mapping[str, Any]
    sampling: Mapping[str, Any]
    abilities: Mapping[str, str]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        """`<recipe>-<size>-<seed>`, by which files, DVC's stages and MLflow's runs are found."""
        return self.config.name


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads files below `root`; those that are not there go to `missing`."""

    root: Path
    missing: list[str] = field(default_factory=list)

    def has(self, path: str) -> bool:
        """Whether the file is there; noted where it is not."""
        there = (self.root / path).is_file()
        if not there:
            self.missing.append(path)
        return there

    def json(self, path: str, otherwise: Any) -> Any:
        """What a JSON file holds."""
        if not self.has(path):
            return otherwise
        try:
            return read_json(self.root / path)
        except ValueError as error:
            raise UserError(f"{self.root / path} is no JSON ({error}): delete it and run `dvc repro` again") from error

    def each(self, path: str, read: Callable[[Any], T]) -> list[T]:
        """The entries of a JSON list."""
        try:
            return [read(raw) for raw in self.json(path, [])]
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.root / path} has no {error}: delete it and run `dvc repro` again") from error

    def csv(self, path: str, columns: Sequence[str]) -> pd.DataFrame:
        """A CSV table; without rows where it is missing."""
        if not self.has(path):
            return pd.DataFrame({column: [] for column in columns})
        try:
            return pd.read_csv(self.root / path)
        except ValueError as error:
            raise UserError(f"{self.root / path} is no table ({error}): delete it and run `dvc repro` again") from error

    def arrays(self, path: str) -> dict[str, NDArray[Any]]:
        """The arrays of an NPZ file."""
        if not self.has(path):
            return {}
        with np.load(self.root / path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}


def load_run(name: str, root: Path) -> Run:
    """Read the files of one run below the project's root.

    Raises:
        UserError: its config is missing, or a file is there but cannot be read.
    """
    if not (root / "configs" / f"{name}.json").is_file():
        raise UserError(f"configs/{name}.json is missing: run `dvc repro configure`, or take {name} out of runs")
    config = RunConfig.load(name, root / "configs")
    reader = Reader(root)
    train, evaluate = f"runs/{name}/train", f"runs/{name}/evaluate"
    training = reader.json(f"{train}/run.json", {})
    pictures = reader.json(f"{evaluate}/pictures.json", {})
    arrays = reader.arrays(f"{evaluate}/scores.npz")
    galleries = reader.each(f"{evaluate}/failures.json", _gallery)
    titles = {gallery.measure: gallery.title for gallery in galleries}
    return Run(
        config=config,
        training=training,
        history=reader.csv(f"{train}/history.csv", ["step", "kimg"]),
        validation=reader.csv(f"{train}/validation.csv", ["step", "kimg", "bits_per_dim"]),
        snapshots=_snapshots(root / train / "samples", training),
        records={record.name: record for record in reader.each(f"{evaluate}/records.json", _record)},
        scores={key: np.asarray(values, np.float64) for key, values in arrays.items() if "/" in key},
        rows=np.asarray(arrays.get("test_index", []), np.int64),
        suite={name: _fill(Made, raw) for name, raw in reader.json(f"{evaluate}/suite.json", {}).items()},
        pictures={
            file: Picture(root / evaluate / file, **about)
            for file, about in pictures.items()
            if reader.has(f"{evaluate}/{file}")
        },
        galleries=galleries,
        tripwires=reader.each(f"{evaluate}/tripwires.json", partial(_fill, Tripwire)),
        enrichment=reader.each(f"{evaluate}/enrichment.json", partial(_enrichment, titles=titles)),
        cost=reader.json(f"metrics/cost/train/{name}.json", {}),
        sampling=reader.json(f"metrics/cost/evaluate/{name}.json", {}),
        abilities=reader.json(f"{evaluate}/abilities.json", {}),
        missing=reader.missing,
    )


def load_card(root: Path) -> dict[str, Any]:
    """Read the protocol card of the data; empty where preprocess has not run."""
    card: dict[str, Any] = Reader(root).json("data/processed/card.json", {})
    return card


def _record(raw: Mapping[str, Any]) -> Record:
    interval = raw["ci95"]
    return _fill(Record, {**raw, "ci95": None if interval is None else (interval[0], interval[1])})


def _gallery(raw: Mapping[str, Any]) -> Gallery:
    return _fill(Gallery, {**raw, "faces": [_fill(Face, face) for face in raw["faces"]]})


def _enrichment(raw: Mapping[str, Any], titles: Mapping[str, str]) -> Enrichment:
    title = titles.get(raw["measure"], raw["measure"])
    return _fill(Enrichment, {**raw, "title": title, "rows": [_fill(Odds, row) for row in raw["rows"]]})


def _fill(kind: type[T], raw: Mapping[str, Any]) -> T:
    """The dataclass with its fields from a JSON object, which may hold more."""
    return kind(**{field.name: raw[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _snapshots(folder: Path, training: Mapping[str, Any]) -> list[tuple[float, Path]]:
    """The grids of a finished training; its own ratio of images to steps turns a file's step into images shown."""
    if not training:
        return []
    per_step = training["images_shown"] / training["steps"] / 1000
    return [(int(path.stem) * per_step, path) for path in sorted(folder.glob("[0-9]*.png"))]
