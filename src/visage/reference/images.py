"""The images that everything is measured on, chosen by seed, alike for every model and every size."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.config import EvaluateConfig
from visage.data.arrays import Faces, load_faces, load_ood
from visage.data.card import DataCard
from visage.maths.streams import choose_rows
from visage.reference.derived_sets import RARE

VALID_IMAGES = 250
"""Validation faces behind the mean likelihood that typicality needs: its standard error is 1/16 of their spread.

Fewer, as of the other images, where a likelihood takes many network calls.
"""
PROBE_IMAGES = 1000
"""Training faces on whose codes the probes learn."""
LEAST_RARE = 5
"""Faces on either side below which an AUROC says nothing."""


@dataclass(frozen=True, slots=True)
class EvaluationImages:
    """Rows of the arrays, in a fixed random order, and their images, (n, S, S, 3) uint8.

    faces, train: the test and the training split, whole. test: the images at `rows` of `faces`.
    valid: validation faces: what is fitted before any other image is looked at, is fitted to these or to `train`.
    probe_rows: rows of `train` on whose codes probes learn.
    external_rows, external: of the sets of images of another kind, by name; the first one is the headline.
    """

    faces: Faces
    train: Faces
    rows: NDArray[np.int64]
    test: NDArray[np.uint8]
    valid: NDArray[np.uint8]
    probe_rows: NDArray[np.int64]
    external_rows: Mapping[str, NDArray[np.int64]]
    external: Mapping[str, NDArray[np.uint8]]

    @property
    def identity(self) -> NDArray[np.int64]:
        """Who is on the test faces that are measured, (n,), -1 where that is not known."""
        return self.faces.identity[self.rows].astype(np.int64)

    @property
    def attributes(self) -> NDArray[np.uint8]:
        """The attributes of the test faces that are measured, (n, A) in {0, 1}."""
        found: NDArray[np.uint8] = self.faces.attributes[self.rows]
        return found


def choose_images(size: int, settings: EvaluateConfig, card: DataCard, processed: Path) -> EvaluationImages:
    """Choose the images of one size.

    Raises:
        UserError: an array is missing.
    """
    seed = settings.seed
    faces, train = load_faces("test", size, processed), load_faces("train", size, processed)
    valid = load_faces("valid", size, processed).images
    rows = choose_rows(len(faces.images), settings.images, seed, "test rows")
    valid_rows = choose_rows(len(valid), VALID_IMAGES, seed, "valid rows")
    sets = {about.name: load_ood(size, about.name, processed) for about in card.ood}
    external_rows = {name: choose_rows(len(x), settings.ood_images, seed, "ood rows") for name, x in sets.items()}
    return EvaluationImages(
        faces=faces,
        train=train,
        rows=rows,
        test=faces.images[rows],
        valid=valid[valid_rows],
        probe_rows=choose_rows(len(train.images), PROBE_IMAGES, seed, "probe rows"),
        external_rows=external_rows,
        external={name: images[external_rows[name]] for name, images in sets.items()},
    )


def rare_faces(images: EvaluationImages) -> tuple[NDArray[np.bool_], str]:
    """Which of the measured test faces have a rare attribute, (n,), and why they cannot be compared, "" if they can."""
    names = images.faces.names
    none = np.zeros(len(images.rows), bool)
    missing = [name for name in RARE if name not in names]
    if missing:
        return none, f"the faces are not labelled with {missing[0]}"
    rare: NDArray[np.bool_] = (images.attributes[:, [names.index(name) for name in RARE]] == 1).any(axis=1)
    return rare, rare_reason(rare)


def rare_reason(rare: NDArray[np.bool_]) -> str:
    """Why faces with a rare attribute cannot be told from these others, "" if they can; rare: (n,)."""
    if min(rare.sum(), (~rare).sum()) < LEAST_RARE:
        return f"fewer than {LEAST_RARE} of the faces have, or lack, {' or '.join(RARE)}"
    return ""
