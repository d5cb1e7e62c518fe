"""Looks for what goes wrong in training such models."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from visage.evaluation.model import EvaluatedModel
from visage.evaluation.ood import SetScores
from visage.evaluation.per_image import FaceMeasures
from visage.evaluation.samples import Drawn, JudgedSamples
from visage.inference.batches import answers
from visage.inference.ood_scores import own_scores
from visage.measures import tripwires
from visage.models.base import ImportanceWeighted, Quantizes, can
from visage.reference.derived_sets import MIRRORED
from visage.reference.images import EvaluationImages
from visage.results import TEST, Record, Tripwire


def check(
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    faces: FaceMeasures,
    found: SetScores,
    drawn: Drawn | None,
    judged: JudgedSamples | None,
    records: Sequence[Record],
    *,
    mirrored: bool,
) -> list[Tripwire]:
    """The verdict of every tripwire.

    records: those of the AUROCs. mirrored: whether training mirrored half of the images.
    """
    return [
        _non_finite(faces, found, drawn),
        *_collapses(evaluated, images, faces),
        _saturation(evaluated, found, drawn),
        _mode_collapse(drawn, judged),
        _round_trip(faces),
        _mirror(records, mirrored),
    ]


def _non_finite(faces: FaceMeasures, found: SetScores, drawn: Drawn | None) -> Tripwire:
    values = {f"{name} of {images}": v for images, scores in found.scores.items() for name, v in scores.items()}
    if "recon_mse" in faces.errors:
        values["recon_mse"] = faces.errors["recon_mse"]
    if drawn:
        values["samples"] = np.where(np.arange(len(drawn.images)) < drawn.broken, np.nan, 0)
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
    codes = model.codes
    used = list(answers(lambda x: codes(x).flatten().cpu(), images, evaluated.batch_size, evaluated.device))
    counts: NDArray[np.int64] = torch.bincount(torch.cat(used), minlength=model.codebook_size).numpy()
    return counts


def _saturation(evaluated: EvaluatedModel, found: SetScores, drawn: Drawn | None) -> Tripwire:
    model, score = evaluated.model, evaluated.model.discriminator_score
    if drawn is None or not score:
        none = "no discriminator that was trained to tell the model's samples from faces"
        return tripwires.undefined("discriminator_saturation", none)
    if drawn.why_not:
        return tripwires.undefined("discriminator_saturation", drawn.why_not)
    fakes = own_scores(
        model,
        drawn.images,
        seed=evaluated.settings.seed,
        device=evaluated.device,
        batch_size=evaluated.batch_size,
    )
    return tripwires.discriminator_saturation(found.scores[TEST][score], fakes.scores[score])


def _mode_collapse(drawn: Drawn | None, judged: JudgedSamples | None) -> Tripwire:
    if judged and judged.duplicates is not None:
        return tripwires.mode_collapse(judged.duplicates, judged.coverage)
    why = drawn.why_not if drawn else ""
    return tripwires.undefined("mode_collapse", why or "no samples, or no features in which to compare them")


def _round_trip(faces: FaceMeasures) -> Tripwire:
    if "inverse_error" in faces.special:
        return tripwires.round_trip(float(faces.special["inverse_error"].max()))
    return tripwires.undefined("round_trip", "no exactly invertible map")


def _mirror(records: Sequence[Record], mirrored: bool) -> Tripwire:
    """The verdict on the first score that was measured on mirrored faces."""
    if not mirrored:
        return tripwires.undefined("mirror", "training did not mirror images, so the model may tell them apart")
    intervals = [r.ci95 for r in records if (r.metric, r.images) == ("auroc", MIRRORED) and r.ci95 is not None]
    return tripwires.mirror(intervals[0]) if intervals else tripwires.undefined("mirror", "no score of mirrored faces")
