"""Reading what the earlier stages wrote. A part that is missing is named, never an error; a damaged one is an error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from visage.config import RunConfig
from visage.data.card import DataCard
from visage.errors import UserError
from visage.files import Strict
from visage.results import (
    AGAIN,
    VERSION,
    EvaluationCost,
    PerImage,
    Picture,
    Reference,
    Results,
    Training,
    TrainingCost,
    read,
)

CARD = "data/processed/card.json"
T = TypeVar("T", bound=Strict)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything the report knows about one run.

    folder: of the evaluation's pictures.
    training: None where the run is not trained.
    history, validation: tables that the training wrote, without rows where they are missing.
    snapshots: (thousands of images shown, picture) over the training.
    results: without records where the run is not evaluated. per_image: empty where its file is missing.
    pictures: file -> what is known about it, of the pictures that are there.
    training_cost, evaluation_cost: None where they are missing.
    missing: files that are not there, relative to the project's root.
    """

    config: RunConfig
    folder: Path
    training: Training | None
    history: pd.DataFrame
    validation: pd.DataFrame
    snapshots: Sequence[tuple[float, Path]]
    results: Results
    per_image: PerImage
    pictures: Mapping[str, Picture]
    training_cost: TrainingCost | None
    evaluation_cost: EvaluationCost | None
    missing: Sequence[str]

    @property
    def name(self) -> str:
        """`<recipe>-<size>-<seed>`, the name in files, in DVC's stages and in MLflow."""
        return self.config.name

    @property
    def evaluated(self) -> bool:
        """Whether there are figures of it."""
        return bool(self.results.records)


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

    def typed(self, path: str, kind: type[T]) -> T | None:
        """What a JSON file holds; None where it is missing."""
        return read(self.root / path, kind) if self.has(path) else None

    def csv(self, path: str, columns: Sequence[str]) -> pd.DataFrame:
        """A CSV table with at least these columns; without rows where it is missing."""
        if not self.has(path):
            return pd.DataFrame({column: [] for column in columns})
        try:
            table = pd.read_csv(self.root / path)
        except ValueError as error:
            raise UserError(f"{self.root / path} is no table ({error}): delete it and {AGAIN}") from error
        if absent := [column for column in columns if column not in table]:
            raise UserError(f"{self.root / path} has no column {absent[0]}: delete it and {AGAIN}")
        return table

    def per_image(self, path: str) -> PerImage:
        """Values per image; empty where the file is missing."""
        return PerImage.load(self.root / path) if self.has(path) else PerImage({}, np.zeros(0, np.int64), {}, {})


def load_run(name: str, root: Path) -> Run:
    """Read the files of one run below the project's root.

    Raises:
        UserError: its config is missing, or a file is there but cannot be read.
    """
    config = RunConfig.load(name, root / "configs")
    reader = Reader(root)
    train, evaluate = f"runs/{name}/train", f"runs/{name}/evaluate"
    training = reader.typed(f"{train}/run.json", Training)
    results = reader.typed(f"{evaluate}/results.json", Results) or _without_figures(name)
    return Run(
        config=config,
        folder=root / evaluate,
        training=training,
        history=reader.csv(f"{train}/history.csv", ["step", "kimg"]),
        validation=reader.csv(f"{train}/validation.csv", ["step", "kimg", "bits_per_dim"]),
        snapshots=_snapshots(root / train / "samples", training),
        results=results,
        per_image=reader.per_image(f"{evaluate}/scores.npz"),
        pictures={one.file: one for one in results.pictures if reader.has(f"{evaluate}/{one.file}")},
        training_cost=reader.typed(f"metrics/cost/train/{name}.json", TrainingCost),
        evaluation_cost=reader.typed(f"metrics/cost/evaluate/{name}.json", EvaluationCost),
        missing=reader.missing,
    )


def load_card(root: Path) -> DataCard | None:
    """Read the protocol of the data; None where preprocessing has not run.

    Raises:
        UserError: the file is damaged.
    """
    return Reader(root).typed(CARD, DataCard)


def reference_folder(size: int) -> str:
    """Where the reference of an image size is stored, relative to the project's root."""
    return f"data/reference/{size}"


def reference_file(size: int) -> str:
    """The file with its figures."""
    return f"{reference_folder(size)}/results.json"


def load_reference_values(size: int, root: Path) -> PerImage:
    """Read what was measured of single images without a model; empty where it was not computed.

    Raises:
        UserError: the file is damaged.
    """
    return Reader(root).per_image(f"{reference_folder(size)}/scores.npz")


def load_reference(size: int, root: Path) -> Reference | None:
    """Read what depends on no model at one image size; None where it was not computed.

    Raises:
        UserError: the file is damaged.
    """
    return Reader(root).typed(reference_file(size), Reference)


def _without_figures(name: str) -> Results:
    return Results(
        version=VERSION,
        run=name,
        data_hash="",
        model_hash="",
        default_score="",
        headline="",
        records=[],
        tripwires=[],
        galleries=[],
        enrichment=[],
        pictures=[],
        abilities={},
    )


def _snapshots(folder: Path, training: Training | None) -> list[tuple[float, Path]]:
    """The grids of a finished training; its ratio of images to steps turns a file's step into images shown."""
    if training is None:
        return []
    per_step = training.images_shown / training.steps / 1000
    return [(int(path.stem) * per_step, path) for path in sorted(folder.glob("[0-9]*.png"))]
