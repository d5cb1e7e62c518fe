"""The images that everything is measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.config import EvaluateConfig, RunConfig
from visage.data.arrays import Faces, load_faces, load_ood
from visage.errors import UserError
from visage.inference.batches import choose_rows
from visage.evaluation.ood import PixelGaussian
from visage.evaluation.suite import suite
from visage.files import read_json

VALID_IMAGES = 250
"""Validation faces behind the mean likelihood that typicality needs: its standard error is 1/16 of their spread.

Fewer, as of the other images, where a likelihood takes many network calls.
"""
PROBE_IMAGES = 1000
"""Training faces on whose codes the probes learn."""


@dataclass(frozen=True, slots=True)
class Material:
    """What is measured on: rows of the arrays, in a fixed random order, and their images, (n, S, S, 3) uint8.

    faces, train: the test and the training split, whole.
    valid: validation faces: what is fitted before any other image is looked at, is fitted to these or to `train`.
    probe_rows: rows of `train` on whose codes probes learn.
    gaussian: of the training faces' pixels.
    suite: name -> images made from the first test faces, or from noise.
    """

    faces: Faces
    train: Faces
    rows: NDArray[np.int64]
    test: NDArray[np.uint8]
    ood_rows: NDArray[np.int64]
    ood: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    probe_rows: NDArray[np.int64]
    gaussian: PixelGaussian
    suite: Mapping[str, NDArray[np.uint8]]
    data_hash: str

    @property
    def attributes(self) -> NDArray[np.uint8]:
        """Of the test faces that are measured, (n, A) in {0, 1}."""
        found: NDArray[np.uint8] = self.faces.attributes[self.rows]
        return found


def load_material(run: RunConfig, settings: EvaluateConfig, processed: Path) -> Material:
    """Choose the images by seed, alike for every model and every size.

    Raises:
        UserError: an array or the run's data card is missing.
    """
    card = processed / "evaluate" / f"{run.label}.json"
    if not card.is_file():
        raise UserError(f"{card} is missing: run `dvc repro preprocess`")
    faces, others = load_faces("test", run.size, processed), load_ood(run.size, processed)
    train, valid = load_faces("train", run.size, processed), load_faces("valid", run.size, processed).images
    rows = choose_rows(len(faces.images), settings.images, settings.seed, "test rows")
    ood_rows = choose_rows(len(others), settings.ood_images, settings.seed, "ood rows")
    valid_rows = choose_rows(len(valid), max(VALID_IMAGES, settings.quality_samples), settings.seed, "valid rows")
    test = faces.images[rows]
    gaussian = PixelGaussian.fit(train.images)
    return Material(
        faces=faces,
        train=train,
        rows=rows,
        test=test,
        ood_rows=ood_rows,
        ood=others[ood_rows],
        valid=valid[valid_rows],
        probe_rows=choose_rows(len(train.images), PROBE_IMAGES, settings.seed, "probe rows"),
        gaussian=gaussian,
        suite=suite(
            test[: settings.suite_images],
            train_mean=gaussian.mean - 0.5,
            train_std=np.sqrt(gaussian.variance),
            seed=settings.seed,
        ),
        data_hash=str(read_json(card)["data_hash"]),
    )
