"""What is measured on every single image: errors of reconstructions, likelihoods, and what only some models do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.evaluation.model import EvaluatedModel
from visage.inference import likelihood
from visage.inference.batches import answers, per_image
from visage.inference.chunks import Draws
from visage.inference.denoising import denoising_errors
from visage.inference.likelihood import Likelihood, Tightened
from visage.measures.denoising import LEVELS
from visage.measures.reconstruction import PER_IMAGE, Measure, mse, undefined_at
from visage.measures.recorder import Recorder
from visage.models.base import (
    Decodes,
    Denoises,
    Encodes,
    HasBound,
    HasLogProb,
    Inpaints,
    Quantizes,
    Reconstructs,
    Translates,
    can,
)
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

    errors: of the reconstructions; undefined: errors that do not exist at this size, and why.
    special: figures that only some models have. rows: the faces that a figure concerns, where not the first ones.
    denoising: errors of what is left after noise was removed, of the first faces.
    likelihood, tightened: of the first faces, where they take many network calls.
    code_numbers: of the code that a reconstruction is made from.
    """

    errors: Values
    undefined: Mapping[str, str]
    special: Values
    rows: Mapping[str, NDArray[np.intp]]
    denoising: Values
    likelihood: Likelihood | None
    tightened: Tightened | None
    code_numbers: int | None

    def values(self, dims: int) -> dict[str, NDArray[np.float64]]:
        """Everything that scores.npz keeps of the first of the measured faces; dims: D of an image."""
        kept = {**self.errors, **self.denoising}
        kept |= {name: v for name, v in self.special.items() if name not in self.rows}
        if self.likelihood:
            kept["bits_per_dim"] = self.likelihood.bits_per_dim(dims)
        if self.likelihood and self.tightened:
            tight = self.tightened.bits_per_dim(dims)
            kept["iw_gain"] = kept["bits_per_dim"][: len(tight)] - tight
        return kept


def measure_faces(evaluated: EvaluatedModel, images: EvaluationImages) -> FaceMeasures:
    """Ask the model about test faces."""
    undefined = undefined_at(evaluated.size)
    measures = {name: measure for name, measure in PER_IMAGE.items() if name not in undefined}
    cycles = cycle_errors(evaluated, images)
    inverse = inverse_errors(evaluated, images.test[:INVERTED_IMAGES])
    return FaceMeasures(
        errors=reconstruction_errors(evaluated, images.test, measures),
        undefined=undefined,
        special={
            **masked_errors(evaluated, images.test),
            **{name: values for name, (_, values) in cycles.items()},
            **({} if inverse is None else {"inverse_error": inverse}),
        },
        rows={name: rows for name, (rows, _) in cycles.items()},
        denoising=denoising(evaluated, images.test),
        likelihood=evaluated.likelihood(images.test),
        tightened=tightened(evaluated, images.test),
        code_numbers=code_numbers(evaluated, images.test[:1]),
    )


def code_numbers(evaluated: EvaluatedModel, image: NDArray[np.uint8]) -> int | None:
    """Numbers of the code from which the model reconstructs an image (1, S, S, 3); an index of a codebook is one."""
    model = evaluated.model
    if not (isinstance(model, Reconstructs) and can(model, Reconstructs)):
        return None
    if isinstance(model, Quantizes) and can(model, Quantizes):
        [codes] = answers(lambda x: model.codes(x).cpu(), image, evaluated.batch_size, evaluated.device)
        return codes.numel()
    code = evaluated.codes(image)
    return None if code is None else code.shape[1]


def reconstruction_errors(
    evaluated: EvaluatedModel, images: NDArray[np.uint8], measures: Mapping[str, Measure]
) -> dict[str, NDArray[np.float64]]:
    """Reconstruct (n, S, S, 3) uint8 images once and measure each: name -> (n,); empty for other models."""
    model = evaluated.model
    if not (isinstance(model, Reconstructs) and can(model, Reconstructs)):
        return {}
    reconstruct = model.reconstruct

    def errors(x: Tensor) -> Tensor:
        y = reconstruct(x).clamp(-1, 1)
        return torch.stack([measure(x, y) for measure in measures.values()])

    found = per_image(errors, images, evaluated.batch_size, evaluated.device)
    return dict(zip(measures, found, strict=True))


def masked_errors(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Squared error on hidden pixels, pixels in [0, 1]."""
    model = evaluated.model
    if not (isinstance(model, Inpaints) and can(model, Inpaints)):
        return {}
    inpaint, draws = model.inpaint, Draws(evaluated.settings.seed, ["hidden parts"])

    def errors(x: Tensor, generator: torch.Generator) -> Tensor:
        filled, hidden = inpaint(x, generator)
        squared = ((filled - x) / 2).square().mean(1, keepdim=True)
        return (squared * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3))

    return {"masked_mse": per_image(errors, images, evaluated.batch_size, evaluated.device, draws)}


def denoising(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Squared error of what the model makes of noisy images, of as many of the first ones as can be afforded."""
    model, settings = evaluated.model, evaluated.settings
    if not (isinstance(model, Denoises) and can(model, Denoises)):
        return {}
    n = max(settings.least_images, evaluated.affordable(len(LEVELS)))
    found = denoising_errors(
        model.denoise,
        images[:n],
        list(LEVELS.values()),
        seed=settings.seed,
        batch_size=evaluated.batch_size,
        device=evaluated.device,
    )
    return dict(zip(LEVELS, found, strict=True))


def cycle_errors(
    evaluated: EvaluatedModel, images: EvaluationImages
) -> dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Squared error after a translation and back, pixels in [0, 1], for either kind of image.

    Measure -> the places, (n,), of the faces of this kind among the measured ones, and their errors, (n,).
    """
    model = evaluated.model
    if not (isinstance(model, Translates) and can(model, Translates)):
        return {}
    translate, found = model.translate, {}
    for i, name in enumerate(CYCLES):
        rows = np.flatnonzero(evaluated.group(images) == i)
        if len(rows):
            ask = partial(_cycle_error, translate, i)
            found[name] = rows, per_image(ask, images.test[rows], evaluated.batch_size, evaluated.device)
    return found


def _cycle_error(translate: Callable[[Tensor, int], Tensor], kind: int, x: Tensor) -> Tensor:
    return mse(x, translate(translate(x, 1 - kind), kind))


def inverse_errors(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Largest |x - f^-1(f(x))| of each image, pixels in [0, 1], of models that are invertible maps."""
    model = evaluated.model
    if not (isinstance(model, HasLogProb) and isinstance(model, Encodes) and isinstance(model, Decodes)):
        return None
    if not all(can(model, capability) for capability in (HasLogProb, Encodes, Decodes)):
        return None
    encode, decode = model.encode, model.decode
    return per_image(
        lambda x: ((x - decode(encode(x))) / 2).abs().flatten(1).amax(1),
        images,
        evaluated.batch_size,
        evaluated.device,
    )


def tightened(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> Tightened | None:
    """Importance-weighted log-likelihoods of as many of the images as can be afforded."""
    draws = evaluated.settings.importance_draws
    if draws == 1:
        return None  # the bound itself, with other noise
    affordable = evaluated.affordable(draws * evaluated.model.likelihood_calls)
    images = images[: evaluated.likelihood_images]
    return likelihood.importance_weighted(
        evaluated.model,
        images[: max(evaluated.settings.least_images, affordable)],
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
        elif found.errors and name in found.undefined:
            recorder.missing(name, found.undefined[name])
        else:
            recorder.missing(name, evaluated.why_not(Reconstructs, otherwise="the model does not reconstruct images"))
    if found.code_numbers is None:
        recorder.missing("code_numbers", evaluated.why_not(Reconstructs, Encodes, otherwise="it has no code"))
    else:
        recorder.figure("code_numbers", "exact", found.code_numbers, 0)
    for name, sigma in LEVELS.items():
        if name in found.denoising:
            recorder.mean(name, "estimate", found.denoising[name], f"one draw of noise per face, sigma {sigma:g}")
        else:
            recorder.missing(name, evaluated.why_not(Denoises, otherwise="the model removes no noise"))
    _record_likelihoods(recorder, evaluated, found, dims)
    for name, (capability, kind, note) in ONLY_SOME.items():
        if name in found.special:
            recorder.mean(name, kind, found.special[name], note, found.rows.get(name))
        else:
            none = "there is no face of this kind among those that are measured"
            recorder.missing(name, evaluated.why_not(capability, otherwise=none))
    if "inverse_error" in found.special:
        errors = found.special["inverse_error"]
        recorder.figure(
            "inverse_error", "exact", float(errors.max()), len(errors), note="of the inverse in float32, not a quality"
        )
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
        gain = bits[: len(tight)] - tight
        recorder.mean("iw_gain", "estimate", gain, found.tightened.note)
        note = f"bits_per_dim less iw_gain, of the first {len(gain)} images; {found.tightened.note}"
        recorder.less("bits_per_dim_iw", found.tightened.kind, bits, gain, note)
    else:
        none = "no draws that could be weighted: the likelihood stays as it is" if found.likelihood else no_likelihood
        for name in ("bits_per_dim_iw", "iw_gain"):
            recorder.missing(name, none)
    for name, kind in BOUND.items():
        if found.likelihood and name in found.likelihood.parts:
            recorder.mean(name, kind, found.likelihood.parts[name])
        else:
            recorder.missing(name, evaluated.why_not(HasBound, otherwise="the model has no variational bound"))
