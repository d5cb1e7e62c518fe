"""Scores by which a model tells faces from every other set of images, and how well they do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visage.evaluation.model import LEAST_IMAGES, EvaluatedModel
from visage.evaluation.per_image import FaceMeasures, reconstruction_errors
from visage.inference.batches import batches
from visage.inference.ood_scores import gradient_norm, own_scores
from visage.maths.streams import torch_generator
from visage.measures import ood
from visage.measures.reconstruction import mse
from visage.measures.recorder import Recorder
from visage.models.base import HasBound, HasLogProb, ScoresOod, ScoresOodSlowly, can
from visage.reference.derived_sets import RARE
from visage.reference.images import EvaluationImages, rare_faces, rare_reason
from visage.reference.load import LoadedReference
from visage.results import TEST, VALID, ImageSet, Scores

FEWEST = 8
"""Images that a score which takes long is worth asking for; where fewer can be afforded it is left out."""
PASS_CALLS = 3
"""Network calls that a pass forward and back amounts to."""
MOST_FEATURES = 512
"""A Mahalanobis distance in more dimensions than half the faces it is fitted to measures their noise."""
DERIVED_SHARE = 5
"""Where a score takes many network calls, a derived set has this many times fewer images than the others."""
TRAIN = "train"
SLOW_LIKELIHOOD = "its likelihood takes too many network calls for this many sets"
SUMMARIES = {
    "aupr": (ood.average_precision, "the other images are the positives"),
    "fpr95": (ood.fpr_at_95_tpr, "faces flagged where 95 % of the other images are"),
}


@dataclass(frozen=True, slots=True)
class SetScores:
    """Scores of all sets of images.

    scores: set -> score -> (n,), of "test", "valid", external and derived sets. The first score of "test" speaks for
        the model.
    features: what the model makes of "train" faces, those of the probes, and of "test" faces; empty without features.
    """

    scores: Mapping[str, Scores]
    features: Mapping[str, NDArray[np.float32]]

    @property
    def default(self) -> str:
        """The score by which the model is judged, "" where it has none."""
        return next(iter(self.scores[TEST]), "")


def score_sets(
    evaluated: EvaluatedModel, images: EvaluationImages, reference: LoadedReference, faces: FaceMeasures
) -> SetScores:
    """Ask the model for every score of every set.

    faces: what is known of test faces already.
    """
    derived = reference.derived
    sets = {TEST: images.test, VALID: images.valid, **images.external, **derived}
    plain = {
        name: _plain_scores(evaluated, some, derived=name in derived, known=faces if name == TEST else None)
        for name, some in sets.items()
    }
    features = _features(evaluated, {TRAIN: images.train.images[images.probe_rows], **sets})
    scores = _derived_scores(plain, features, reference.code_lengths)
    for name in (TEST, *images.external):
        norms = _gradient_norms(evaluated, sets[name])
        scores[name] |= {"gradient": norms} if norms is not None else {}
        scores[name] |= _slow_scores(evaluated, sets[name])
    return SetScores(scores, {name: found for name, found in features.items() if name in (TRAIN, TEST)})


def _plain_scores(
    evaluated: EvaluatedModel, images: NDArray[np.uint8], *, derived: bool, known: FaceMeasures | None
) -> dict[str, NDArray[np.float64]]:
    """What the model says of one set of images, in the order in which a score may speak for it.

    Of a derived set no likelihood is asked where it takes many network calls.

    known: what is known of these images already.
    """
    model = evaluated.model
    if known:
        likelihood = known.likelihood
    else:
        likelihood = None if derived and model.likelihood_calls > 1 else evaluated.likelihood(images)
    scores = {"nll": likelihood.bits_per_dim(images[0].size)} if likelihood else {}
    if model.score_calls > 1:
        affordable = evaluated.affordable(model.score_calls * (DERIVED_SHARE if derived else 1))
        images = images[: max(LEAST_IMAGES, affordable)]
    errors = known.errors if known else reconstruction_errors(evaluated, images, {"recon_mse": mse})
    if "recon_mse" in errors:
        scores["recon"] = errors["recon_mse"][: len(images)]
    own = own_scores(
        model, images, seed=evaluated.settings.seed, device=evaluated.device, batch_size=evaluated.batch_size
    )
    return scores | {name: values for name, values in own.items() if name not in scores}


def _features(evaluated: EvaluatedModel, sets: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """What the model makes of each set; empty where it makes nothing of images, or nothing finite of training faces.

    Of "train" and "test" alone where it has more than `MOST_FEATURES` numbers.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for name, images in sets.items():
        if found and name != TEST and found[TRAIN].shape[1] > MOST_FEATURES:
            continue
        features = evaluated.features(images)
        if features is None or (not found and not np.isfinite(features).all()):
            return {}
        found[name] = features
    return found


def _derived_scores(
    plain: Mapping[str, dict[str, NDArray[np.float64]]],
    features: Mapping[str, NDArray[np.float32]],
    code_lengths: Mapping[str, NDArray[np.float64]],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The plain scores of each set, then those that follow from them and from training or validation faces."""
    scores = {name: dict(found) for name, found in plain.items()}
    valid = plain[VALID]
    usual = float(valid["nll"].mean()) if "nll" in valid else 0.0
    sound = len(valid) > 1 and all(np.isfinite(values).all() for values in valid.values())
    density_of_states = ood.DoSE.fit(_shortest(valid)) if sound else None
    fitted = ood.Mahalanobis.fit(features[TRAIN]) if VALID in features else None
    for name, found in plain.items():
        if "nll" in found:
            scores[name]["typicality"] = np.abs(found["nll"] - usual)
            scores[name]["complexity"] = ood.complexity(found["nll"], code_lengths[name][: len(found["nll"])])
        if density_of_states and found.keys() == valid.keys():
            scores[name]["dose"] = density_of_states.score(_shortest(found))
        if fitted and name in features:
            scores[name]["mahalanobis"] = fitted.distance(features[name])
    return scores


def _shortest(scores: Scores) -> Scores:
    """All scores of those images that have all."""
    n = min(len(values) for values in scores.values())
    return {name: values[:n] for name, values in scores.items()}


def _gradient_norms(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Norms of d log p(x) / d x, of as many of the images as can be afforded."""
    model = evaluated.model
    if isinstance(model, HasLogProb) and can(model, HasLogProb):
        log_prob = model.log_prob
    elif isinstance(model, HasBound) and can(model, HasBound):
        bound = model.bound
        log_prob = lambda x, generator: bound(x, generator).elbo  # noqa: E731
    else:
        return None
    generator = torch_generator(evaluated.settings.seed, "gradients")
    n = evaluated.affordable(PASS_CALLS * PASS_CALLS * model.likelihood_calls)
    if n < FEWEST:
        return None
    norms = [
        gradient_norm(lambda x: log_prob(x, generator), x)
        for x in batches(images[:n], evaluated.batch_size, evaluated.device)
    ]
    return torch.cat(norms).cpu().double().numpy()


def _slow_scores(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Scores of the model that take many network calls, of as many of the images as can be afforded."""
    model = evaluated.model
    if not (isinstance(model, ScoresOodSlowly) and can(model, ScoresOodSlowly)):
        return {}
    n = evaluated.affordable(model.slow_ood_calls)
    if n < FEWEST:
        return {}
    generator = torch_generator(evaluated.settings.seed, "slow scores")
    parts = [model.slow_ood_scores(x, generator) for x in batches(images[:n], evaluated.batch_size, evaluated.device)]
    return {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}


# --- records ----------------------------------------------------------------------------------------------------------


def record_ood(
    recorder: Recorder, evaluated: EvaluatedModel, images: EvaluationImages, sets: list[ImageSet], found: SetScores
) -> None:
    """Record how well every score tells every set from faces, and the default one's other summaries."""
    default, headline = found.default, sets[0].name
    if not default:
        why = evaluated.why_not(ScoresOod, otherwise="the model gives no score")
        for metric in ("auroc", *SUMMARIES):
            recorder.missing(metric, why, headline)
        for about in sets[1:]:
            recorder.missing("auroc", why, about.name)
        return
    faces, others = found.scores[TEST][default], found.scores[headline][default]
    for metric, (summary, note) in SUMMARIES.items():
        if np.isnan(faces).any() or np.isnan(others).any():
            recorder.missing(metric, "a score is NaN", headline, default)
        else:
            n = len(faces) + len(others)
            recorder.figure(metric, "exact", summary(faces, others), n, None, note, headline, default)
    for about in sets:
        for score, test in found.scores[TEST].items():
            if about.kind == "subset":
                _record_rare(recorder, images, about.name, score, test)
            else:
                _record_set(recorder, about, score, found, test)


def _record_set(recorder: Recorder, about: ImageSet, score: str, found: SetScores, test: NDArray[np.float64]) -> None:
    """Record one score against an external or a derived set; intervals of derived ones for the default score alone."""
    values = found.scores[about.name].get(score)
    if values is None:
        reason = SLOW_LIKELIHOOD if score == "nll" else "this score was not measured on this set"
        recorder.missing("auroc", reason, about.name, score)
        return
    if about.kind == "external":
        recorder.auroc(about.name, score, test, values)
    else:
        first = next(name for name in found.scores[TEST] if name in found.scores[about.name])
        recorder.auroc(about.name, score, test, values, stream="suite" if score == first else None)


def _record_rare(
    recorder: Recorder, images: EvaluationImages, name: str, score: str, test: NDArray[np.float64]
) -> None:
    """Record how one score tells faces with a rare attribute from those without."""
    rare, reason = rare_faces(images)
    rare = rare[: len(test)]
    if reason := reason or rare_reason(rare):
        recorder.missing("auroc", reason, name, score)
        return
    recorder.auroc(name, score, test[~rare], test[rare], f"{' or '.join(RARE)} against neither", "suite")
