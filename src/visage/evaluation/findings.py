"""What is measured of every single image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from visage.evaluation import ood, reconstruction
from visage.inference.likelihood import Likelihood, Tightened
from visage.evaluation.material import Material
from visage.evaluation.records import BITS_PER_DIM, SQUARED_ERROR
from visage.evaluation.subject import LEAST, Subject
from visage.files import replacing

SUITE = "suite."
"""Before the name of a made set of images."""
INVERTED = 100
"""Faces that a flow is asked to give back."""
MOST_FEATURES = 512
"""A Mahalanobis distance in more dimensions than half the faces it is fitted to measures their noise."""
SUITE_SHARE = 5
"""Where a score takes many network calls, a made set has so many times fewer images than the others."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Per-image values; of figures that take long, those of the first images only.

    errors: of the reconstructions of test faces. extra: figures that only some models have.
    likelihood, tightened: of test faces.
    scores: set -> score -> (n,), for the sets "test", "valid", "ood" and, after `SUITE`, those of the suite. The first
        score speaks for the model.
    baselines: the same of statistics that need no model.
    dims: D of an image.
    features: what the model makes of "train" faces, those of the probes, and of "test" faces; empty where nothing.
    """

    dims: int
    errors: Mapping[str, NDArray[np.float64]]
    extra: Mapping[str, NDArray[np.float64]]
    likelihood: Likelihood | None
    tightened: Tightened | None
    scores: Mapping[str, ood.Scores]
    baselines: Mapping[str, ood.Scores]
    features: Mapping[str, NDArray[np.float32]]

    @property
    def default(self) -> str | None:
        """The score by which the model is judged."""
        return next(iter(self.scores["test"]), None)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A per-image measure of test faces by which they are ranked, highest worst; (n,), of the first of them."""

    measure: str
    title: str
    unit: str
    values: NDArray[np.float64]


def measure(subject: Subject, material: Material, bar: "tqdm[Any]") -> Findings:
    """Ask the model about all images."""
    bar.set_postfix_str("reconstruction")
    every: dict[str, reconstruction.Measure] = {
        "recon_mse": reconstruction.mse,
        "psnr": reconstruction.psnr,
        "ssim": reconstruction.ssim,
    }
    errors = subject.errors(material.test, every)
    extra = subject.masked_errors(material.test) | subject.cycle_errors(material)
    inverse = subject.inverse_errors(material.test[:INVERTED])
    if inverse is not None:
        extra["inverse_error"] = inverse
    bar.update()
    bar.set_postfix_str("likelihood of faces")
    faces = subject.likelihood(material.test[: subject.likelihood_images], subject.settings.draws)
    tightened = subject.tightened(material.test)
    bar.update()
    bar.set_postfix_str("scores of all images")
    images = {"test": material.test, "valid": material.valid, "ood": material.ood}
    images |= {SUITE + name: made for name, made in material.suite.items()}
    plain = {name: _plain_scores(subject, name, x, faces if name == "test" else None) for name, x in images.items()}
    features = _features(subject, {"train": material.train.images[material.probe_rows], **images})
    scores = _derived_scores(images, plain, features)
    for name in ("test", "ood"):
        norms = subject.gradient_norms(images[name])
        scores[name] |= {"gradient": norms} if norms is not None else {}
        scores[name] |= subject.slow_scores(images[name])
    bar.update()
    bar.set_postfix_str("baselines")
    pca = ood.PixelPCA.fit(material.train.images)
    baselines = {name: ood.baselines(some, material.gaussian, pca) for name, some in images.items() if name != "valid"}
    bar.update()
    kept = {name: found for name, found in features.items() if name in ("train", "test")}
    return Findings(material.test[0].size, errors, extra, faces, tightened, scores, baselines, kept)


def _plain_scores(subject: Subject, name: str, images: NDArray[np.uint8], likelihood: Likelihood | None) -> ood.Scores:
    """What the model says of one set of images, in the order in which a score may speak for it.

    Of a made set no likelihood is asked where it takes many network calls.

    likelihood: where it is known already.
    """
    made, model = name.startswith(SUITE), subject.model
    if likelihood is None and not (made and model.likelihood_calls > 1):
        likelihood = subject.likelihood(images[: subject.likelihood_images], subject.settings.draws)
    if model.score_calls > 1:
        images = images[: max(LEAST, subject.affordable(model.score_calls * (SUITE_SHARE if made else 1)))]
    recon = subject.errors(images, {"recon_mse": reconstruction.mse}).get("recon_mse")
    scores: ood.Scores = {}
    if likelihood:
        scores["nll"] = likelihood.bits_per_dim(images[0].size)
    if recon is not None:
        scores["recon"] = recon
    own = subject.own_scores(images)
    return scores | {score: values for score, values in own.items() if score not in scores}


def _features(subject: Subject, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """What the model makes of each set; empty where it makes nothing of images, or nothing finite of training faces.

    Of "train" and "test" alone where it has more than `MOST_FEATURES` numbers.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for name, some in images.items():
        if found and name != "test" and found["train"].shape[1] > MOST_FEATURES:
            continue
        features = subject.features(some)
        if features is None or (not found and not np.isfinite(features).all()):
            return {}
        found[name] = features
    return found


def _derived_scores(
    images: Mapping[str, NDArray[np.uint8]],
    plain: Mapping[str, ood.Scores],
    features: Mapping[str, NDArray[np.float32]],
) -> dict[str, ood.Scores]:
    """The plain scores of each set, then those that follow from them and from training or validation faces."""
    scores = {name: dict(found) for name, found in plain.items()}
    valid = plain["valid"]
    usual = float(valid["nll"].mean()) if "nll" in valid else 0.0
    sound = len(valid) > 1 and all(np.isfinite(values).all() for values in valid.values())
    density_of_states = ood.DoSE.fit(_shortest(valid)) if sound else None
    fitted = ood.Mahalanobis.fit(features["train"]) if "ood" in features else None
    for name, found in plain.items():
        if "nll" in found:
            scores[name]["typicality"] = np.abs(found["nll"] - usual)
            scores[name]["complexity"] = ood.complexity(found["nll"], images[name][: len(found["nll"])])
        if density_of_states and found.keys() == valid.keys():
            scores[name]["dose"] = density_of_states.score(_shortest(found))
        if fitted and name in features:
            scores[name]["mahalanobis"] = fitted.distance(features[name])
    return scores


def _shortest(scores: ood.Scores) -> ood.Scores:
    """All scores of those images that have all."""
    n = min(len(values) for values in scores.values())
    return {name: values[:n] for name, values in scores.items()}


def rankings(found: Findings) -> list[Ranking]:
    """What test faces are ranked by: errors and likelihood; the score that speaks for a model without either."""
    named = {"recon_mse": "reconstruction error", "masked_mse": "error on hidden pixels"}
    values = {**found.errors, **found.extra}
    by = [Ranking(key, title, SQUARED_ERROR, values[key]) for key, title in named.items() if key in values]
    if found.likelihood:
        by.append(Ranking("bits_per_dim", "bits per dimension", BITS_PER_DIM, found.scores["test"]["nll"]))
    if not by and found.default:
        title = f"the model's own score ({found.default})"
        by.append(Ranking(found.default, title, "score", found.scores["test"][found.default]))
    return by


def save_scores(path: Path, material: Material, found: Findings) -> None:
    """Write per-image values, so that every audit can do without the model, and the rows of the arrays.

    "<set>/<score>" of models and "<set>_baseline/<score>"; "value/<measure>" of test faces.
    """
    arrays: dict[str, Any] = {
        f"{group}/{name}": values for group, scores in found.scores.items() for name, values in scores.items()
    }
    for group, scores in found.baselines.items():
        arrays |= {f"{group}_baseline/{name}": values for name, values in scores.items()}
    values = dict(found.errors) | {name: v for name, v in found.extra.items() if len(v) == len(material.test)}
    if found.likelihood:
        values["bits_per_dim"] = found.scores["test"]["nll"]
    if found.tightened:
        values["bits_per_dim_iw"] = found.tightened.bits_per_dim(found.dims)
    arrays |= {f"value/{name}": array for name, array in values.items()}
    with replacing(path) as temporary:
        np.savez(temporary, test_index=material.rows, ood_index=material.ood_rows, **arrays)
