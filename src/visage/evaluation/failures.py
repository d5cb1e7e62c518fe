"""Galleries of the faces that a model treats worst, as usual, and best, and the attributes that stand out in them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visage.data.arrays import Faces
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.ood import SetScores
from visage.evaluation.per_image import FaceMeasures
from visage.evaluation.pictures import PictureFolder
from visage.maths.streams import numpy_generator
from visage.measures import enrichment
from visage.measures.galleries import extremes
from visage.measures.recorder import Recorder
from visage.reference.images import EvaluationImages
from visage.reference.load import LoadedReference
from visage.results import TEST, Enrichment, Face, Gallery

RANKED_BY = ("recon_mse", "masked_mse")
"""Errors by which faces are ranked, beside the likelihood."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A per-image measure of test faces by which they are ranked, highest worst; (n,), of the first of them."""

    measure: str
    values: NDArray[np.float64]


def rankings(faces: FaceMeasures, found: SetScores) -> list[Ranking]:
    """What test faces are ranked by: errors and likelihood; the default score for a model without either."""
    values = {**faces.errors, **faces.special}
    by = [Ranking(name, values[name]) for name in RANKED_BY if name in values]
    if faces.likelihood:
        by.append(Ranking("bits_per_dim", found.scores[TEST]["nll"]))
    if not by and found.default:
        by.append(Ranking(found.default, found.scores[TEST][found.default]))
    return by


def show_galleries(
    pictures: PictureFolder, evaluated: EvaluatedModel, images: EvaluationImages, ranked: list[Ranking]
) -> list[Gallery]:
    """Save the galleries of the worst, ordinary and best faces by each ranking."""
    galleries = []
    for ranking in ranked:
        for place, chosen in extremes(ranking.values, evaluated.settings.gallery).items():
            if not len(chosen):
                continue
            file, faces = f"{place}_{ranking.measure}.png", images.test[chosen]
            reconstructed = evaluated.reconstructions(faces)
            if reconstructed is None:
                pictures.add(file, faces)
            else:
                pictures.add_pairs(file, faces, reconstructed)
            described = describe(images.faces, images.rows[chosen], ranking.values[chosen])
            galleries.append(Gallery(ranking.measure, place, file, len(ranking.values), described))
    return galleries


def describe(faces: Faces, rows: NDArray[np.int64], values: NDArray[np.float64]) -> list[Face]:
    """The faces at these rows, (n,), with the values they were ranked by, (n,)."""
    return [
        Face(
            row=int(row),
            image_id=str(faces.image_id[row]),
            value=float(value),
            attributes=[name for name, has in zip(faces.names, faces.attributes[row], strict=True) if has],
        )
        for row, value in zip(rows, values, strict=True)
    ]


def measure_enrichment(
    recorder: Recorder, images: EvaluationImages, reference: LoadedReference, ranked: list[Ranking]
) -> list[Enrichment]:
    """Which attributes are more, or less, frequent among the faces that the model treats worst."""
    found = []
    values = reference.per_image.values
    covariates = np.stack([values["log_variance"], values["png_bytes"]], axis=1)
    for ranking in ranked:
        n = len(ranking.values)
        found.append(
            enrichment.enrichment(
                ranking.measure,
                ranking.values,
                images.attributes[:n],
                images.faces.names,
                covariates[:n],
                images.identity[:n],
                recorder.faces(n),
                numpy_generator(recorder.seed, f"permutations {ranking.measure}"),
            )
        )
    return found
