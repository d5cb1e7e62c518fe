"""What samples are worth: how far they are from faces, how varied, how new, and how close to what was asked for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.attribute_network import TrainedAttributeNetwork
from visage.config import DOWNLOAD
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.pictures import Facts, PictureFolder
from visage.files import project_path
from visage.inference.batches import embedded, to_pixels
from visage.inference.chunks import over_chunks
from visage.maths.streams import choose_rows, torch_generator
from visage.measures import sample_quality
from visage.measures.recorder import Figure, Recorder
from visage.measures.sample_quality import Memorization
from visage.models.base import Samples, SamplesGiven, can
from visage.reference.images import EvaluationImages
from visage.reference.load import LoadedReference

CLOSEST = 16
"""Pairs in memorization.png and in duplicates.png."""
IN_FEATURES = (*sample_quality.IN_FEATURES, "memorization")
"""Figures that need the attribute network."""
IN_PIXELS = ("fd_pix64", "memorization_pixels")
INCEPTION = ("fid", "kid", "inception_score")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sampled images (n, S, S, 3) uint8.

    broken: how many of them have a value that is not finite; it is black in the image.
    wanted: (n, A) in {0, 1}, the attributes that they were to have; None where the model cannot be asked.
    seconds: that they took, those of all devices added: n / seconds is what one device draws in a second.
    """

    images: NDArray[np.uint8]
    broken: int
    wanted: NDArray[np.uint8] | None
    seconds: float

    @property
    def why_not(self) -> str:
        """Why they cannot be judged, "" where they can."""
        return f"a value is not finite in {self.broken} of {len(self.images)} samples" if self.broken else ""


@dataclass(frozen=True, slots=True)
class JudgedSamples:
    """What later parts need of the samples. duplicates: share of near duplicates; coverage: of the faces."""

    duplicates: float | None
    coverage: float | None


def draw_samples(evaluated: EvaluatedModel, images: EvaluationImages) -> Drawn | None:
    """Draw images, after one to warm up; from models that can be asked for attributes, with those of training faces."""
    model, settings = evaluated.model, evaluated.settings
    if not (isinstance(model, Samples) and can(model, Samples)):
        return None
    n, wanted = max(settings.samples, samples_compared(evaluated)), None
    draw: Callable[[slice, torch.Generator], Tensor]
    if isinstance(model, SamplesGiven) and can(model, SamplesGiven):
        given, rows = model.sample_given, choose_rows(len(images.train.images), n, settings.seed, "wanted attributes")
        wanted = images.train.columns(model.attributes)[rows]
        n, y = len(wanted), torch.from_numpy(wanted).float().to(evaluated.device)
        draw = lambda part, generator: given(y[part], generator)  # noqa: E731
    else:
        sample = model.sample
        draw = lambda part, generator: sample(part.stop - part.start, generator)  # noqa: E731
    draw(slice(0, 1), torch_generator(settings.seed, "warm-up")).cpu()  # waits for a GPU

    def draw_chunk(chunk: slice) -> tuple[NDArray[np.uint8], int, float]:
        started = time.perf_counter()
        x = draw(chunk, torch_generator(settings.seed, f"samples {chunk.start}"))
        broken = int((~torch.isfinite(x).flatten(1).all(1)).sum())
        return to_pixels(x), broken, time.perf_counter() - started  # `to_pixels` waits for a GPU

    drawn, end, broken, seconds = np.empty((n, *images.test.shape[1:]), np.uint8), 0, 0, 0.0
    for some, broken_ones, took in over_chunks(draw_chunk, n):
        drawn[end : end + len(some)] = some
        end, broken, seconds = end + len(some), broken + broken_ones, seconds + took
    return Drawn(drawn, broken, wanted, seconds)


def samples_compared(evaluated: EvaluatedModel) -> int:
    """Samples that are compared with faces."""
    slow = evaluated.model.sample_calls > 1
    return evaluated.settings.slow_samples if slow else evaluated.settings.quality_samples


def judge_samples(
    recorder: Recorder,
    pictures: PictureFolder,
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    reference: LoadedReference,
    network: TrainedAttributeNetwork | str,
    drawn: Drawn | None,
) -> JudgedSamples | None:
    """Record every figure about samples, or why there is none. None where there are none that could be judged.

    network: in whose features they are compared with faces; the reason where there is none.
    """
    if drawn:
        shown = drawn.images[: evaluated.settings.samples]
        pictures.add("samples.png", shown, {"shown": len(shown)})
    if drawn is None or drawn.why_not:
        otherwise = drawn.why_not if drawn else "the model draws no samples"
        reason = evaluated.why_not(Samples, otherwise=otherwise)
        for metric in (*IN_FEATURES, *IN_PIXELS, *INCEPTION):
            recorder.missing(metric, reason)
        return None
    samples = drawn.images[: samples_compared(evaluated)]
    if isinstance(network, str):
        for metric in IN_FEATURES:
            recorder.missing(metric, network)
        judged = JudgedSamples(None, None)
    else:
        judged = _in_features(recorder, pictures, evaluated, images, reference, network, drawn, samples)
    _in_pixels(recorder, reference, samples)
    _inception(recorder, evaluated, images, samples)
    return judged


def features_of(
    network: TrainedAttributeNetwork, evaluated: EvaluatedModel, images: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """The attribute network's features of (n, S, S, 3) uint8 images, (n, 128)."""
    found = embedded(network.network.features, images, evaluated.batch_size, evaluated.device)
    return found.astype(np.float64)


def _in_features(
    recorder: Recorder,
    pictures: PictureFolder,
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    reference: LoadedReference,
    network: TrainedAttributeNetwork,
    drawn: Drawn,
    samples: NDArray[np.uint8],
) -> JudgedSamples:
    """Record the figures that live in the features of the attribute network, and show copies."""
    real = reference.features["test"].astype(np.float64)
    fake = features_of(network, evaluated, samples)
    figures = sample_quality.feature_figures(
        real,
        fake,
        identity=images.faces.identity,
        compared=reference.about.compared,
        seed=recorder.seed,
        network=network.name,
    )
    recorder.estimates(figures)
    sought = fake[: sample_quality.COPIES_SOUGHT]
    copied = sample_quality.memorization(sought, reference.features["usual"], network.train_features)
    recorder.estimates({"memorization": _ratio(copied, f"medians in features of {network.name}")})
    if copied:
        closest = np.argsort(copied.distances, kind="stable")[:CLOSEST]
        nearest = images.train.images[copied.indices[closest]]
        facts: Facts = {"shown": len(closest), "samples": len(sought)}
        pictures.add_pairs("memorization.png", samples[closest], nearest, facts)
    _show_duplicates(pictures, samples, fake)
    some = fake[: reference.about.compared]
    duplicates = sample_quality.near_duplicates(some, sample_quality.some_faces(real, len(some), recorder.seed))
    coverage = figures["coverage"]
    return JudgedSamples(duplicates, None if isinstance(coverage, str) else coverage.value)


def _ratio(copied: Memorization | None, note: str) -> Figure | str:
    """The figure of memorization, or why there is none."""
    if copied is None:
        return "half of the test faces or more are training faces as well"
    return Figure(copied.ratio, len(copied.distances), note=f"{note}; Mann-Whitney p = {copied.p_value:.2g}")


def _show_duplicates(pictures: PictureFolder, samples: NDArray[np.uint8], features: NDArray[np.float64]) -> None:
    """Save the pairs of samples that are most alike."""
    distances, indices = sample_quality.nearest_other(features)
    closest = [int(i) for i in np.argsort(distances, kind="stable") if i < indices[i] or indices[indices[i]] != i]
    chosen = np.array(closest[:CLOSEST], int)
    pictures.add_pairs("duplicates.png", samples[chosen], samples[indices[chosen]], {"shown": len(chosen)})


def _in_pixels(recorder: Recorder, reference: LoadedReference, samples: NDArray[np.uint8]) -> None:
    """Record how close samples come to faces, and to training faces or their mirror images, as thumbnails."""
    small = sample_quality.thumbnails(samples)
    compared = small[: reference.about.compared]
    distance = sample_quality.pixel_distance(reference.thumbnails["test"], compared)
    sought = small[: sample_quality.COPIES_SOUGHT]
    copied = sample_quality.memorization(
        sought, reference.thumbnails["usual"], reference.train_thumbnails, sample_quality.mirrored(sought)
    )
    recorder.estimates(
        {
            "fd_pix64": Figure(distance, len(compared), note=sample_quality.PIXELS_NOTE),
            "memorization_pixels": _ratio(copied, "medians in 16 x 16 thumbnails, mirror images included"),
        }
    )


def _inception(
    recorder: Recorder, evaluated: EvaluatedModel, images: EvaluationImages, samples: NDArray[np.uint8]
) -> None:
    """Record FID, KID and IS where there are weights for them."""
    weights = evaluated.settings.inception
    if weights is None:
        for metric in INCEPTION:
            recorder.missing(metric, "no Inception weights: name their file in evaluate.inception, or `download`")
        return
    file = None if weights == DOWNLOAD else project_path(weights)
    found = sample_quality.inception_measures(images.faces.images, samples, file, evaluated.device)
    note = f"{len(images.faces.images)} test faces"
    recorder.estimates({metric: Figure(found[metric], len(samples), note=note) for metric in INCEPTION})
