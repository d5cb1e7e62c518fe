"""Reading what training and evaluation wrote about one run. A part that is missing is named, never an error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from visage.config import RunConfig
from visage.errors import UserError
from visage.files import read_json

Scores = dict[str, NDArray[np.float64]]


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
    """One face of a failure gallery."""

    image_id: str
    value: float
    attributes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Failures:
    """The worst faces by `measure`, in the order of the gallery's picture."""

    measure: str
    unit: str
    faces: Sequence[Face]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report knows about one run.

    training: run.json; empty where the run is not trained.
    history, validation: as the training wrote them, without rows where they are missing.
    snapshots: (thousands of images shown, picture) over the training.
    records: by name; empty where the run is not evaluated.
    scores: "<test or ood>/<score>" -> (n,) per-image scores, higher = less like the training faces.
    cost: what training took (seconds, images_per_second, peak_memory_mb, ...); empty where it is not known.
    sampling: seconds for 64 samples, None where not known.
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
    pictures: Mapping[str, Picture]
    failures: Failures | None
    cost: Mapping[str, Any]
    sampling: float | None
    abilities: Mapping[str, str]
    missing: Sequence[str]

    @property
    def name(self) -> str:
        """`<recipe>-<size>`."""
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

    def csv(self, path: str, columns: Sequence[str]) -> pd.DataFrame:
        """A CSV table; without rows where it is missing."""
        if not self.has(path):
            return pd.DataFrame({column: [] for column in columns})
        try:
            return pd.read_csv(self.root / path)
        except ValueError as error:
            raise UserError(f"{self.root / path} is no table ({error}): delete it and run `dvc repro` again") from error

    def scores(self, path: str) -> Scores:
        """The per-image scores of faces and other images."""
        if not self.has(path):
            return {}
        with np.load(self.root / path, allow_pickle=False) as stored:
            return {key: np.asarray(stored[key], np.float64) for key in stored.files if "/" in key}


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
    failures = reader.json(f"{evaluate}/failures.json", None) if "failures.png" in pictures else None
    return Run(
        config=config,
        training=training,
        history=reader.csv(f"{train}/history.csv", ["step", "kimg"]),
        validation=reader.csv(f"{train}/validation.csv", ["step", "kimg", "bits_per_dim"]),
        snapshots=_snapshots(root / train / "samples", training),
        records={raw["name"]: _record(raw) for raw in reader.json(f"{evaluate}/records.json", [])},
        scores=reader.scores(f"{evaluate}/scores.npz"),
        pictures={
            file: Picture(root / evaluate / file, **about)
            for file, about in pictures.items()
            if reader.has(f"{evaluate}/{file}")
        },
        failures=None if failures is None else _failures(failures),
        cost=reader.json(f"metrics/cost/train/{name}.json", {}),
        sampling=reader.json(f"metrics/cost/evaluate/{name}.json", {}).get("sample_seconds_per_64"),
        abilities=reader.json(f"{evaluate}/abilities.json", {}),
        missing=reader.missing,
    )


def load_card(root: Path) -> dict[str, Any]:
    """Read the protocol card of the data; empty where preprocess has not run."""
    card: dict[str, Any] = Reader(root).json("data/processed/card.json", {})
    return card


def _record(raw: Mapping[str, Any]) -> Record:
    interval = raw["ci95"]
    return Record(**{**raw, "ci95": None if interval is None else (interval[0], interval[1])})


def _failures(raw: Mapping[str, Any]) -> Failures:
    faces = [Face(face["image_id"], face["value"], face["attributes"]) for face in raw["faces"]]
    return Failures(raw["measure"], raw["unit"], faces)


def _snapshots(folder: Path, training: Mapping[str, Any]) -> list[tuple[float, Path]]:
    """The grids of a finished training; its own ratio of images to steps turns a file's step into images shown."""
    if not training:
        return []
    per_step = training["images_shown"] / training["steps"] / 1000
    return [(int(path.stem) * per_step, path) for path in sorted(folder.glob("[0-9]*.png"))]
