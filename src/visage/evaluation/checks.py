"""Looks for what goes wrong in training such models."""

import numpy as np
import torch
from numpy.typing import NDArray

from visage.evaluation.model import EvaluatedModel
from visage.evaluation.ood import SetScores
from visage.evaluation.per_image import FaceMeasures
from visage.evaluation.samples import JudgedSamples
from visage.inference.batches import batches
from visage.inference.ood_scores import own_scores
from visage.measures import tripwires
from visage.models.base import ImportanceWeighted, Quantizes, can
from visage.reference.images import EvaluationImages
from visage.results import TEST, Tripwire


def check(
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    faces: FaceMeasures,
    found: SetScores,
    judged: JudgedSamples | None,
) -> list[Tripwire]:
    """The verdict of every tripwire."""
    return [
        _non_finite(faces, found),
        *_collapses(evaluated, images, faces),
        _saturation(evaluated, found, judged),
        _mode_collapse(judged),
        _round_trip(faces),
    ]


def _non_finite(faces: FaceMeasures, found: SetScores) -> Tripwire:
    values = {f"{name} of {images}": v for images, scores in found.scores.items() for name, v in scores.items()}
    if "recon_mse" in faces.errors:
        values["recon_mse"] = faces.errors["recon_mse"]
    return tripwires.non_finite(values)


def _collapses(evaluated: EvaluatedModel, images: EvaluationImages, faces: FaceMeasures) -> list[Tripwire]:
    """The verdicts on the codebook and on the posterior."""
    used = codes_used(evaluated, images.test)
    if used is None:
        codebook = tripwires.undefined("codebook_collapse", "the model has no codebook")
    else:
        codebook = tripwires.codebook_collapse(tripwires.perplexity(used), len(used))
    parts = faces.likelihood.parts if faces.likelihood else {}
    if "rate" in parts and used is None and can(evaluated.model, ImportanceWeighted):
        posterior = tripwires.posterior_collapse(evaluated.codes(images.test), float(parts["rate"].mean()))
    else:
        posterior = tripwires.undefined("posterior_collapse", "the model has no q(z | x) that could collapse")
    return [codebook, posterior]


def codes_used(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """How often each of the K entries of the model's codebook describes a part of the images, (K,)."""
    model = evaluated.model
    if not (isinstance(model, Quantizes) and can(model, Quantizes)):
        return None
    used = [model.codes(x).flatten().cpu() for x in batches(images, evaluated.batch_size, evaluated.device)]
    counts: NDArray[np.int64] = torch.bincount(torch.cat(used), minlength=model.codebook_size).numpy()
    return counts


def _saturation(evaluated: EvaluatedModel, found: SetScores, judged: JudgedSamples | None) -> Tripwire:
    model, score = evaluated.model, evaluated.model.discriminator_score
    if judged and score:
        fakes = own_scores(
            model,
            judged.drawn.images,
            seed=evaluated.settings.seed,
            device=evaluated.device,
            batch_size=evaluated.batch_size,
        )
        return tripwires.discriminator_saturation(found.scores[TEST][score], fakes[score])
    none = "no discriminator that was trained to tell the model's samples from faces"
    return tripwires.undefined("discriminator_saturation", none)


def _mode_collapse(judged: JudgedSamples | None) -> Tripwire:
    if judged and judged.duplicates is not None:
        return tripwires.mode_collapse(judged.duplicates, judged.coverage)
    return tripwires.undefined("mode_collapse", "no samples, or no features in which to compare them")


def _round_trip(faces: FaceMeasures) -> Tripwire:
    if "inverse_error" in faces.special:
        return tripwires.round_trip(float(faces.special["inverse_error"].max()))
    return tripwires.undefined("round_trip", "no exactly invertible map")
