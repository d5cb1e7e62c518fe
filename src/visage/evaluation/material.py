"""The images that everything is measured on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.config import EvaluateConfig, RunConfig
from visage.data.arrays import Faces, load_faces, load_ood
from visage.errors import UserError
from visage.evaluation.batches import choose_rows
from visage.files import read_json

VALID_IMAGES = 250
"""Validation faces behind the mean likelihood that typicality needs: its standard error is 1/16 of their spread.

Fewer, as of the other images, where a likelihood takes many network calls.
"""


@dataclass(frozen=True, slots=True)
class Material:
    """What is measured on: rows of the arrays, in a fixed random order, and their images, (n, S, S, 3) uint8."""

    faces: Faces
    rows: NDArray[np.int64]
    test: NDArray[np.uint8]
    ood_rows: NDArray[np.int64]
    ood: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    train: NDArray[np.uint8]
    data_hash: str


def load_material(run: RunConfig, settings: EvaluateConfig, processed: Path) -> Material:
    """Choose the images by seed, alike for every model and every size.

    Raises:
        UserError: an array or the run's data card is missing.
    """
    card = processed / "evaluate" / f"{run.name}.json"
    if not card.is_file():
        raise UserError(f"{card} is missing: run `dvc repro preprocess`")
    faces, others = load_faces("test", run.size, processed), load_ood(run.size, processed)
    valid = load_faces("valid", run.size, processed).images
    rows = choose_rows(len(faces.images), settings.images, settings.seed, "test rows")
    ood_rows = choose_rows(len(others), settings.ood_images, settings.seed, "ood rows")
    valid_rows = choose_rows(len(valid), VALID_IMAGES, settings.seed, "valid rows")
    return Material(
        faces=faces,
        rows=rows,
        test=faces.images[rows],
        ood_rows=ood_rows,
        ood=others[ood_rows],
        valid=valid[valid_rows],
        train=load_faces("train", run.size, processed).images,
        data_hash=str(read_json(card)["data_hash"]),
    )
