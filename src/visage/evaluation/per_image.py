"""What is measured on every single image: errors of reconstructions, likelihoods, and what only some models do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visage.evaluation.model import LEAST_IMAGES, EvaluatedModel
from visage.inference import likelihood
from visage.inference.batches import batches
from visage.inference.likelihood import Likelihood, Tightened
from visage.maths.streams import torch_generator
from visage.measures.reconstruction import PER_IMAGE, Measure, mse
from visage.measures.recorder import Recorder
from visage.models.base import Decodes, Encodes, HasBound, HasLogProb, Inpaints, Reconstructs, Translates, can
from visage.reference.images import EvaluationImages
from visage.results import Kind

Values = Mapping[str, NDArray[np.float64]]
"""Measure -> (n,) values of the first n test faces."""

INVERTED_IMAGES = 100
"""Faces that a flow is asked to map back."""
CYCLES = ("cycle_mse_a", "cycle_mse_b")
ONLY_SOME: Mapping[str, tuple[type, Kind, str]] = {
    "masked_mse": (Inpaints, "estimate", "on hidden pixels alone, with random masks"),
    "cycle_mse_a": (Translates, "exact", "to the other kind of image and back, from the first kind"),
    "cycle_mse_b": (Translates, "exact", "to the other kind of image and back, from the second kind"),
}
"""Figures that only some models have: the capability, the kind, and what they are."""
BOUND: Mapping[str, Kind] = {"elbo": "lower_bound", "distortion": "estimate", "rate": "estimate"}


@dataclass(frozen=True, slots=True)
class FaceMeasures:
    """Per-image values of test faces.

    errors: of the reconstructions. special: figures that only some models have; of the faces that they concern.
    likelihood, tightened: of the first faces, where they take many network calls.
    """

    errors: Values
    special: Values
    likelihood: Likelihood | None
    tightened: Tightened | None

    def values(self, faces: int, dims: int) -> dict[str, NDArray[np.float64]]:
        """Everything that scores.npz keeps of the measured faces; faces: how many there are; dims: D of an image."""
        kept = dict(self.errors) | {name: v for name, v in self.special.items() if len(v) == faces}
        if self.likelihood:
            kept["bits_per_dim"] = self.likelihood.bits_per_dim(dims)
        if self.tightened:
            kept["bits_per_dim_iw"] = self.tightened.bits_per_dim(dims)
        return kept


def measure_faces(evaluated: EvaluatedModel, images: EvaluationImages) -> FaceMeasures:
    """Ask the model about test faces."""
    special = masked_errors(evaluated, images.test) | cycle_errors(evaluated, images)
    inverse = inverse_errors(evaluated, images.test[:INVERTED_IMAGES])
    return FaceMeasures(
        errors=reconstruction_errors(evaluated, images.test, PER_IMAGE),
        special=special | ({} if inverse is None else {"inverse_error": inverse}),
        likelihood=evaluated.likelihood(images.test),
        tightened=tightened(evaluated, images.test),
    )


def reconstruction_errors(
    evaluated: EvaluatedModel, images: NDArray[np.uint8], measures: Mapping[str, Measure]
) -> dict[str, NDArray[np.float64]]:
    """Reconstruct (n, S, S, 3) uint8 images once and measure each: name -> (n,); empty for other models."""
    model, rows = evaluated.model, []
    if not (isinstance(model, Reconstructs) and can(model, Reconstructs)):
        return {}
    for x in batches(images, evaluated.batch_size, evaluated.device):
        y = model.reconstruct(x).clamp(-1, 1)
        rows.append(torch.stack([measure(x, y) for measure in measures.values()]).cpu().double())
    return dict(zip(measures, torch.cat(rows, dim=1).numpy(), strict=True))


def masked_errors(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Squared error on hidden pixels, pixels in [0, 1]."""
    model = evaluated.model
    if not (isinstance(model, Inpaints) and can(model, Inpaints)):
        return {}
    generator, found = torch_generator(evaluated.settings.seed, "hidden parts"), []
    for x in batches(images, evaluated.batch_size, evaluated.device):
        filled, hidden = model.inpaint(x, generator)
        squared = ((filled - x) / 2).square().mean(1, keepdim=True)
        found.append((squared * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3)))
    return {"masked_mse": torch.cat(found).cpu().double().numpy()}


def cycle_errors(evaluated: EvaluatedModel, images: EvaluationImages) -> dict[str, NDArray[np.float64]]:
    """Squared error after a translation and back, pixels in [0, 1], for either kind of image."""
    model, found = evaluated.model, {}
    if not (isinstance(model, Translates) and can(model, Translates)):
        return {}
    for i, name in enumerate(CYCLES):
        some = images.test[evaluated.group(images) == i]
        parts = [
            mse(x, model.translate(model.translate(x, 1 - i), i))
            for x in batches(some, evaluated.batch_size, evaluated.device)
        ]
        if parts:
            found[name] = torch.cat(parts).cpu().double().numpy()
    return found


def inverse_errors(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Largest |x - f^-1(f(x))| of each image, pixels in [0, 1], of models that are invertible maps."""
    model = evaluated.model
    if not (isinstance(model, HasLogProb) and isinstance(model, Encodes) and isinstance(model, Decodes)):
        return None
    if not all(can(model, capability) for capability in (HasLogProb, Encodes, Decodes)):
        return None
    errors = [
        ((x - model.decode(model.encode(x))) / 2).abs().flatten(1).amax(1)
        for x in batches(images, evaluated.batch_size, evaluated.device)
    ]
    return torch.cat(errors).cpu().double().numpy()


def tightened(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> Tightened | None:
    """Importance-weighted log-likelihoods of as many of the images as can be afforded."""
    draws = evaluated.settings.importance_draws
    return likelihood.importance_weighted(
        evaluated.model,
        images[: max(LEAST_IMAGES, evaluated.affordable(draws * evaluated.model.likelihood_calls))],
        draws=draws,
        seed=evaluated.settings.seed,
        device=evaluated.device,
        batch_size=evaluated.batch_size,
    )


# --- records ----------------------------------------------------------------------------------------------------------


def record_faces(recorder: Recorder, evaluated: EvaluatedModel, found: FaceMeasures, dims: int) -> None:
    """Record every figure about single images, those that the model does not define included; dims: D of an image."""
    for name in PER_IMAGE:
        if name in found.errors:
            recorder.mean(name, "exact", found.errors[name])
        else:
            recorder.missing(name, evaluated.why_not(Reconstructs, otherwise="the model does not reconstruct images"))
    _record_likelihoods(recorder, evaluated, found, dims)
    for name, (capability, kind, note) in ONLY_SOME.items():
        if name in found.special:
            recorder.mean(name, kind, found.special[name], note)
        else:
            none = "there is no face of this kind among those that are measured"
            recorder.missing(name, evaluated.why_not(capability, otherwise=none))
    if "inverse_error" in found.special:
        errors = found.special["inverse_error"]
        recorder.figure("inverse_error", "exact", float(errors.max()), len(errors), note="rounding, not quality")
    else:
        recorder.missing("inverse_error", "no exactly invertible map")


def _record_likelihoods(recorder: Recorder, evaluated: EvaluatedModel, found: FaceMeasures, dims: int) -> None:
    """Record the likelihood, its importance-weighted form, and the parts of a bound."""
    no_likelihood = evaluated.why_not(HasBound, HasLogProb, otherwise="the model has no likelihood")
    bits = found.likelihood.bits_per_dim(dims) if found.likelihood else None
    if found.likelihood and bits is not None:
        recorder.mean("bits_per_dim", found.likelihood.kind, bits, found.likelihood.note)
    else:
        recorder.missing("bits_per_dim", no_likelihood)
    if found.tightened and bits is not None:
        tight = found.tightened.bits_per_dim(dims)
        plain = bits[: len(tight)]
        note = f"{found.tightened.note}; without weighting {plain.mean():.4f} on these images"
        recorder.mean("bits_per_dim_iw", found.tightened.kind, tight, note)
        recorder.mean("iw_gain", "estimate", plain - tight)
    else:
        none = "no draws that could be weighted: the likelihood stays as it is" if found.likelihood else no_likelihood
        for name in ("bits_per_dim_iw", "iw_gain"):
            recorder.missing(name, none)
    for name, kind in BOUND.items():
        if found.likelihood and name in found.likelihood.parts:
            recorder.mean(name, kind, found.likelihood.parts[name])
        else:
            recorder.missing(name, evaluated.why_not(HasBound, otherwise="the model has no variational bound"))
