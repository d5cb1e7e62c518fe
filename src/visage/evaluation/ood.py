"""Scores by which a model tells faces from every other set of images, and how well they do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.evaluation.model import EvaluatedModel
from visage.evaluation.per_image import FaceMeasures, reconstruction_errors
from visage.inference.batches import answers
from visage.inference.ood_scores import Asked, ask_scores, gradient_norm, own_scores
from visage.measures import ood
from visage.measures.probes import Standardised
from visage.measures.reconstruction import mse
from visage.measures.recorder import Recorder
from visage.models.base import Encodes, HasBound, HasLogProb, ScoresOod, ScoresOodSlowly, can
from visage.reference.aurocs import record_derived, record_rare
from visage.reference.images import EvaluationImages
from visage.reference.load import LoadedReference
from visage.results import TEST, VALID, ImageSet, Kind, Scores

FEWEST = 8
"""Images that a score which takes long is worth asking for; where fewer can be afforded it is left out."""
PASS_CALLS = 3
"""Network calls that a pass forward and back amounts to."""
MOST_FEATURES = 512
"""A Mahalanobis distance in more dimensions than half the faces it is fitted to measures their noise."""
DERIVED_SHARE = 5
"""Where a score takes many network calls, a derived set has this many times fewer images than the others."""
NO_CODE = "the model makes no code of an image"
NOT_FINITE = "a code is not finite"
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
    random: the scores that random draws are part of.
    probe: what the model makes of "train" faces, those of the probes, and of "test" faces, as a probe wants it; the
        reason where there is nothing.
    """

    scores: Mapping[str, Scores]
    random: frozenset[str]
    probe: tuple[NDArray[np.float64], NDArray[np.float64]] | str

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
    probe, distances = _features(evaluated, images.train.images[images.probe_rows], sets)
    scores = _derived_scores({name: found.scores for name, found in plain.items()}, distances, reference.code_lengths)
    random = set(plain[TEST].random)
    random |= {name for name in ("typicality", "complexity") if "nll" in random} | ({"dose"} if random else set())
    for name in (TEST, *images.external):
        for asked in (_gradient_norms(evaluated, sets[name]), _slow_scores(evaluated, sets[name])):
            scores[name] |= asked.scores
            random |= set(asked.scores) if asked.random else set()
    return SetScores(scores, frozenset(random), probe)


@dataclass(frozen=True, slots=True)
class _Plain:
    """What the model says of one set of images, in the order in which a score may speak for it."""

    scores: dict[str, NDArray[np.float64]]
    random: frozenset[str]


def _plain_scores(
    evaluated: EvaluatedModel, images: NDArray[np.uint8], *, derived: bool, known: FaceMeasures | None
) -> _Plain:
    """Ask for the model's likelihoods, reconstructions and own scores.

    Of a derived set no likelihood is asked where it takes many network calls.

    known: what is known of these images already.
    """
    model = evaluated.model
    if known:
        likelihood = known.likelihood
    else:
        likelihood = None if derived and model.likelihood_calls > 1 else evaluated.likelihood(images)
    scores = {"nll": likelihood.bits_per_dim(images[0].size)} if likelihood else {}
    random = {"nll"} if likelihood and likelihood.random else set()
    if model.score_calls > 1:
        affordable = evaluated.affordable(model.score_calls * (DERIVED_SHARE if derived else 1))
        images = images[: max(evaluated.settings.least_images, affordable)]
    errors = known.errors if known else reconstruction_errors(evaluated, images, {"recon_mse": mse})
    if "recon_mse" in errors:
        scores["recon"] = errors["recon_mse"][: len(images)]
    own = own_scores(
        model, images, seed=evaluated.settings.seed, device=evaluated.device, batch_size=evaluated.batch_size
    )
    fresh = {name: values for name, values in own.scores.items() if name not in scores}
    return _Plain(scores | fresh, frozenset(random | (set(fresh) if own.random else set())))


def _features(
    evaluated: EvaluatedModel, probed: NDArray[np.uint8], sets: Mapping[str, NDArray[np.uint8]]
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]] | str, dict[str, NDArray[np.float64]]]:
    """What a probe sees of the faces `probed` and of test faces, and Mahalanobis distances of every set.

    Long codes, such as a flow's, are shortened batch by batch: all of them would not fit into memory.
    """
    embed = evaluated.embed
    train = evaluated.features(probed)
    if embed is None or train is None:
        return evaluated.why_not(Encodes, otherwise=NO_CODE), {}
    if not np.isfinite(train).all():
        return NOT_FINITE, {}
    standardised = Standardised.fit(train)

    def shortened(x: Tensor) -> NDArray[np.float64]:
        return standardised(embed(x).flatten(1).float().cpu().numpy())

    test = np.concatenate(list(answers(shortened, sets[TEST], evaluated.batch_size, evaluated.device)))
    distances = {}
    if train.shape[1] <= MOST_FEATURES:
        fitted = ood.Mahalanobis.fit(train)
        for name, images in sets.items():
            features = evaluated.features(images)
            assert features is not None
            distances[name] = fitted.distance(features)
    return (standardised(train), test) if np.isfinite(test).all() else NOT_FINITE, distances


def _derived_scores(
    plain: Mapping[str, Scores], distances: Scores, code_lengths: Scores
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The plain scores of each set, then those that follow from them and from training or validation faces.

    distances: set -> (n,) Mahalanobis distances. code_lengths: set -> (n,) bits per dimension.
    """
    scores = {name: dict(found) for name, found in plain.items()}
    valid = plain[VALID]
    usual = float(valid["nll"].mean()) if "nll" in valid else 0.0
    sound = len(valid) > 1 and all(np.isfinite(values).all() for values in valid.values())
    density_of_states = ood.DoSE.fit(_shortest(valid)) if sound else None
    for name, found in plain.items():
        if "nll" in found:
            scores[name]["typicality"] = np.abs(found["nll"] - usual)
            scores[name]["complexity"] = ood.complexity(found["nll"], code_lengths[name][: len(found["nll"])])
        if density_of_states and found.keys() == valid.keys():
            scores[name]["dose"] = density_of_states.score(_shortest(found))
        if name in distances:
            scores[name]["mahalanobis"] = distances[name]
    return scores


def _shortest(scores: Scores) -> Scores:
    """All scores of those images that have all."""
    n = min(len(values) for values in scores.values())
    return {name: values[:n] for name, values in scores.items()}


def _gradient_norms(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> Asked:
    """Norms of d log p(x) / d x, of as many of the images as can be afforded."""
    model = evaluated.model
    if isinstance(model, HasLogProb) and can(model, HasLogProb):
        log_prob = model.log_prob
    elif isinstance(model, HasBound) and can(model, HasBound):
        bound = model.bound
        log_prob = lambda x, generator: bound(x, generator).elbo  # noqa: E731
    else:
        return Asked({})

    def norms(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"gradient": gradient_norm(lambda x: log_prob(x, generator), x)}

    calls = PASS_CALLS * PASS_CALLS * model.likelihood_calls
    return _ask_some(evaluated, norms, images, calls, "gradients")


def _slow_scores(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> Asked:
    """Scores of the model that take many network calls, of as many of the images as can be afforded."""
    model = evaluated.model
    if not (isinstance(model, ScoresOodSlowly) and can(model, ScoresOodSlowly)):
        return Asked({})
    return _ask_some(evaluated, model.slow_ood_scores, images, model.slow_ood_calls, "slow scores")


def _ask_some(
    evaluated: EvaluatedModel,
    score: Callable[[Tensor, torch.Generator], dict[str, Tensor]],
    images: NDArray[np.uint8],
    calls: int,
    stream: str,
) -> Asked:
    """Ask for scores that take this many network calls for an image; none where too few images can be afforded."""
    n = evaluated.affordable(calls)
    if n < FEWEST:
        return Asked({})
    return ask_scores(
        score,
        images[:n],
        stream=stream,
        seed=evaluated.settings.seed,
        device=evaluated.device,
        batch_size=evaluated.batch_size,
    )


# --- records ----------------------------------------------------------------------------------------------------------


def record_ood(
    recorder: Recorder, evaluated: EvaluatedModel, images: EvaluationImages, sets: Sequence[ImageSet], found: SetScores
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
            recorder.figure(metric, _kind(found, default), summary(faces, others), n, None, note, headline, default)
    for about in sets:
        for score, test in found.scores[TEST].items():
            if about.kind == "subset":
                record_rare(recorder, images, about.name, score, test, _kind(found, score))
            else:
                _record_set(recorder, about, score, found, test)


def _kind(found: SetScores, score: str) -> Kind:
    """The kind of a figure that is computed from a score."""
    return "estimate" if score in found.random else "exact"


def _record_set(recorder: Recorder, about: ImageSet, score: str, found: SetScores, test: NDArray[np.float64]) -> None:
    """Record one score against an external or a derived set; intervals of derived ones for the default score alone."""
    values = found.scores[about.name].get(score)
    if values is None:
        reason = SLOW_LIKELIHOOD if score == "nll" else "this score was not measured on this set"
        recorder.missing("auroc", reason, about.name, score)
        return
    if about.kind == "external":
        counts = recorder.faces(len(test)), recorder.others(len(values))
        recorder.auroc(about.name, score, test, values, counts, _kind(found, score))
    else:
        first = next(name for name in found.scores[TEST] if name in found.scores[about.name])
        record_derived(recorder, about.name, score, test, values, _kind(found, score), interval=score == first)
