"""What a model's codes hold: attributes that a linear probe finds in them, and the factors of drawn faces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visage.attribute_network import TrainedAttributeNetwork
from visage.data.face_factors import DISTRIBUTIONS, Choice
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.ood import NO_CODE, NOT_FINITE, SetScores
from visage.evaluation.pictures import STEPS, Walks
from visage.evaluation.samples import features_of
from visage.measures import disentanglement, probes
from visage.measures.paths import smoothness
from visage.measures.recorder import Recorder
from visage.models.base import Decodes, Encodes
from visage.reference.images import EvaluationImages

DISENTANGLEMENT = ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness")
CHOSEN = (
    "male",
    "skin",
    "hair_dark",
    "hair_length",
    "bangs",
    "face_width",
    "beard",
    "glasses",
    "hat",
    "yaw",
    "nod",
    "tilt",
    "light",
    "warmth",
    "background_bright",
)
"""Factors that are seen at 32x32: a linear regression on 1000 faces' pixels explains half of each one's variance."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of drawn faces; categorical: a number without order or scale, else continuous."""

    name: str
    categorical: bool


def chosen_factors(names: Sequence[str]) -> list[Factor]:
    """Those of the named factors that disentanglement is measured by, in the order of `CHOSEN`; none of real faces."""
    return [Factor(name, isinstance(DISTRIBUTIONS[name], Choice)) for name in CHOSEN if name in names]


def judge_codes(
    recorder: Recorder,
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    found: SetScores,
    network: TrainedAttributeNetwork | str,
    walked: Walks | None,
) -> None:
    """Record what probes find, how disentangled the codes are, and how straight a walk through them looks."""
    _probe(recorder, images, found)
    figures = _disentangled(evaluated, images)
    for metric in DISENTANGLEMENT:
        if isinstance(figures, str):
            recorder.missing(metric, figures)
        else:
            note = "over the factors of drawn faces"
            recorder.figure(metric, "estimate", figures[metric], len(images.test), note=note)
    if walked is None or isinstance(network, str):
        recorder.missing("path_smoothness", evaluated.why_not(Decodes, otherwise=str(network)))
    else:
        features = features_of(network, evaluated, walked.images)
        lengths = smoothness(features.reshape(-1, STEPS, features.shape[1]))
        note = "of the walks in interpolation.png, in features of the attribute network; 1 = straight and even"
        recorder.figure("path_smoothness", "estimate", float(np.mean(lengths)), len(lengths), note=note)


def _probe(recorder: Recorder, images: EvaluationImages, found: SetScores) -> None:
    """Record what a linear probe reads from features or codes."""
    if isinstance(found.probe, str):
        recorder.missing("probe_auroc", found.probe)
        return
    train, test = found.probe
    labels = images.train.attributes[images.probe_rows], images.attributes
    probe = probes.probe(train, labels[0], test, labels[1], images.faces.names)
    if probe.auroc:
        recorder.figure("probe_auroc", "estimate", probe.macro, len(test), note=probe.note(len(train)))
    else:
        few = probes.LEAST_FACES
        recorder.missing("probe_auroc", f"no attribute that {few} of the measured faces have, and as many lack")


def _disentangled(evaluated: EvaluatedModel, images: EvaluationImages) -> dict[str, float] | str:
    """The figures of disentanglement, or why there are none."""
    chosen = chosen_factors(images.faces.factor_names)
    if not chosen:
        return "the factors behind the faces are known for drawn faces only"
    one = evaluated.codes(images.test[:1])
    if one is None:
        return evaluated.why_not(Encodes, otherwise=NO_CODE)
    if one.shape[1] > disentanglement.MOST_LATENTS:
        return f"more than {disentanglement.MOST_LATENTS} latent dimensions"
    train, test = (evaluated.codes(x) for x in (images.train.images[images.probe_rows], images.test))
    assert train is not None
    assert test is not None
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return NOT_FINITE
    columns = [images.faces.factor_names.index(factor.name) for factor in chosen]
    factors = images.train.factors[images.probe_rows][:, columns], images.faces.factors[images.rows][:, columns]
    categorical = [factor.categorical for factor in chosen]
    found = disentanglement.disentanglement(train, factors[0], test, factors[1], categorical)
    return found or "no factor varies among the faces that are measured"
