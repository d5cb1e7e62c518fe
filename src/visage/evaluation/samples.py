"""What samples are worth: how far they are from faces, how varied, how new, and how much like what was asked for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from visage.attribute_network import Referee
from visage.evaluation import codes, quality
from visage.evaluation.album import Album
from visage.inference.batches import numpy_generator
from visage.evaluation.book import Book
from visage.evaluation.material import Material
from visage.evaluation.records import why_not
from visage.evaluation.subject import Sampled, Subject, embedded
from visage.models.base import GenerativeModel, Samples, SamplesGiven, Translates, can

RESAMPLES = 20
"""Behind the interval of a Frechet distance: each costs as much as the figure itself."""
CLOSEST = 16
"""Pairs in memorization.png and in duplicates.png."""
FRECHET = "Frechet distance"
RATIO = "ratio of distances"
SHARE = "share"
LABELS = {
    "fd_attr128": FRECHET,
    "fd_attr128_floor": FRECHET,
    "kd_attr128": "kernel distance x 1000",
    "precision": SHARE,
    "recall": SHARE,
    "density": "ratio",
    "coverage": SHARE,
    "memorization": RATIO,
}
"""Figures that need the attribute network, and their units."""
DOWNLOAD = "download"
"""In place of a file of Inception's weights."""
INCEPTION = {"fid": FRECHET, "kid": "kernel distance", "inception_score": "1"}


@dataclass(frozen=True, slots=True)
class Judged:
    """What later chapters need of the samples. duplicates: share of near duplicates; coverage: of the faces."""

    sampled: Sampled
    duplicates: float | None
    coverage: float | None


def judge_samples(
    book: Book, album: Album, subject: Subject, material: Material, referee: Referee | str
) -> Judged | None:
    """Enter every figure about samples, or why there is none.

    referee: the network whose features are compared; the reason where there is none.
    """
    sampled = subject.samples(material)
    if sampled is None:
        reason = why_not(subject.model, Samples, otherwise="the model draws no samples")
        for name, unit in (*LABELS.items(), ("fd_pix64", FRECHET), ("memorization_pixels", RATIO), *INCEPTION.items()):
            book.missing(name, unit, reason)
        return None
    shown = sampled.images[: subject.settings.samples]
    album.add("samples.png", shown, "Samples", f"The first {len(shown)} faces drawn from the model; none was picked.")
    images = sampled.images[: subject.settings.quality_samples]
    if isinstance(referee, str):
        for name, unit in LABELS.items():
            book.missing(name, unit, referee)
        judged = Judged(sampled, None, None)
    else:
        judged = _in_features(book, album, subject, material, referee, sampled, images)
    small = quality.thumbnails(images)
    value = quality.pixel_distance(quality.thumbnails(material.faces.images), small)
    book.figure("fd_pix64", value, FRECHET, "estimate", len(images), note="64 principal components of thumbnails")
    _copied_pixels(book, material, small)
    _inception(book, subject, material, images)
    return judged


def _in_features(
    book: Book,
    album: Album,
    subject: Subject,
    material: Material,
    referee: Referee,
    sampled: Sampled,
    images: NDArray[np.uint8],
) -> Judged:
    """Enter the figures that live in the features of the attribute network."""
    real = features_of(referee, subject, material.faces.images)
    unseen = features_of(referee, subject, material.valid[: len(images)])
    fake = features_of(referee, subject, images)
    n, network = len(fake), f"features of the attribute network {referee.weights_hash[:12]}"
    value = quality.frechet_distance(real, fake)
    note = f"{len(real)} test faces, {network}; not FID"
    book.figure("fd_attr128", value, FRECHET, "estimate", n, _spread(book, value, real, fake), note)
    floor = quality.frechet_distance(real, unseen)
    book.figure(
        "fd_attr128_floor", floor, FRECHET, "estimate", len(unseen), note="validation faces in place of samples"
    )
    kernel, deviation = quality.kernel_distance(real, fake, book.seed)
    book.figure(
        "kd_attr128", 1000 * kernel, LABELS["kd_attr128"], "estimate", n,
        note=f"unbiased, so it may fall below 0; {1000 * deviation:.2g} standard deviation over subsets",
    )  # fmt: skip
    # as many faces as samples: both sides' neighbourhoods shrink with their number
    same = min(len(real), n)
    measures = quality.manifold_measures(real[:same], fake[:same])
    for name, measure in measures.items():
        book.figure(name, measure, LABELS[name], "estimate", same, note=f"nearest neighbours in {network}")
    copied = quality.memorization(fake, real[material.rows], referee.train_features)
    book.figure(
        "memorization", copied.ratio, RATIO, "estimate", n,
        note=f"samples to training faces over test faces to training faces, medians in {network}; "
        f"Mann-Whitney p = {copied.p_value:.2g}",
    )  # fmt: skip
    closest = np.argsort(copied.distances, kind="stable")[:CLOSEST]
    album.add_pairs(
        "memorization.png", images[closest], material.train.images[copied.indices[closest]],
        "Closest to training faces",
        f"The {len(closest)} of {n} samples that lie closest to a training face in the network's features; that face "
        "below.",
    )  # fmt: skip
    duplicates = quality.near_duplicates(fake[:same], real[:same])
    _show_duplicates(album, images, fake)
    return Judged(sampled, duplicates, measures["coverage"])


def features_of(referee: Referee, subject: Subject, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The attribute network's features of (n, S, S, 3) uint8 images, (n, 128)."""
    found = embedded(referee.network.features, images, subject.batch_size, subject.device)
    return found.astype(np.float64)


def _spread(book: Book, value: float, real: NDArray[np.float64], fake: NDArray[np.float64]) -> tuple[float, float]:
    """The value with 1.96 bootstrap standard deviations on either side.

    Percentiles would not do: resampling with replacement makes the distance itself larger.
    """
    generator = numpy_generator(book.seed, "Frechet resamples")
    drawn = [
        quality.frechet_distance(
            real[generator.integers(len(real), size=len(real))], fake[generator.integers(len(fake), size=len(fake))]
        )
        for _ in range(RESAMPLES)
    ]
    half = 1.96 * float(np.std(drawn, ddof=1))
    return max(0.0, value - half), value + half


def _show_duplicates(album: Album, images: NDArray[np.uint8], features: NDArray[np.float64]) -> None:
    """Save the pairs of samples that are most alike."""
    distances, indices = quality.nearest_other(features)
    closest = [int(i) for i in np.argsort(distances, kind="stable") if i < indices[i] or indices[indices[i]] != i]
    chosen = np.array(closest[:CLOSEST], int)
    album.add_pairs(
        "duplicates.png", images[chosen], images[indices[chosen]],
        "Samples most alike",
        f"The {len(chosen)} samples that lie closest to another sample in the attribute network's features; that other "
        "one below.",
    )  # fmt: skip


def _copied_pixels(book: Book, material: Material, small: NDArray[np.float32]) -> None:
    """Enter how close samples come to training faces, or their mirror images, as thumbnails."""
    known = quality.thumbnails(material.train.images)
    copied = quality.memorization(small, quality.thumbnails(material.test), known, quality.mirrored(known))
    book.figure(
        "memorization_pixels", copied.ratio, RATIO, "estimate", len(small),
        note="as memorization, in 16 x 16 thumbnails of training faces and of their mirror images; "
        f"Mann-Whitney p = {copied.p_value:.2g}",
    )  # fmt: skip


def _inception(book: Book, subject: Subject, material: Material, images: NDArray[np.uint8]) -> None:
    """Enter FID, KID and IS where there are weights for them."""
    weights = subject.settings.inception
    if weights is None:
        for name, unit in INCEPTION.items():
            book.missing(name, unit, "no Inception weights: name their file in evaluate.inception, or `download`")
        return
    file = None if weights == DOWNLOAD else Path(weights)
    found = quality.inception_measures(material.faces.images, images, file, subject.device)
    for name, unit in INCEPTION.items():
        book.figure(name, found[name], unit, "estimate", len(images), note=f"{len(material.faces.images)} test faces")


def judge_obedience(
    book: Book, subject: Subject, material: Material, referee: Referee | str, judged: Judged | None
) -> None:
    """Enter how far samples, and translations, have the attributes that were wanted."""
    wanted = judged.sampled.wanted if judged else None
    if judged is None or wanted is None or isinstance(referee, str):
        reason = why_not(subject.model, SamplesGiven, otherwise=str(referee))
        book.missing("attribute_auroc", "AUROC", reason)
    else:
        names = [name for name in subject.model.attributes if name in referee.names]
        columns = [list(subject.model.attributes).index(name) for name in names]
        logits = _logits(referee, subject, judged.sampled.images)[:, [referee.names.index(name) for name in names]]
        found = codes.faithfulness(wanted[:, columns], logits)
        each = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, found.auroc, strict=True))
        book.figure(
            "attribute_auroc", found.macro, "AUROC", "estimate", len(wanted),
            note=f"the attribute network tells samples that were to have an attribute from others: {each}",
        )  # fmt: skip
    _translations(book, subject, material, referee)


def _translations(book: Book, subject: Subject, material: Material, referee: Referee | str) -> None:
    """Enter how many translated faces the attribute network takes for faces of the other kind."""
    model = subject.model
    for i, name in enumerate(("translation_success_a", "translation_success_b")):
        if not (isinstance(model, Translates) and can(model, Translates)) or isinstance(referee, str):
            book.missing(name, SHARE, why_not(model, Translates, otherwise=str(referee)))
            continue
        images = material.test[subject.group(material) == i]
        unknown = set(model.attributes) - set(referee.names)
        if not len(images) or unknown:
            book.missing(
                name, SHARE, f"unknown to the network: {min(unknown)}" if unknown else "no test face of this kind"
            )
            continue
        before, after = (_probabilities(referee, subject, x) for x in (images, subject.translations(images, 1 - i)))
        own = [referee.names.index(attribute) for attribute in model.attributes]
        taken = [_taken_for(model, y[:, own]) == 1 - i for y in (before, after)]
        others = np.delete(np.abs(after - before), own, axis=1)
        book.mean(
            name, SHARE, "estimate", taken[1].astype(np.float64),
            f"share of translated faces ({model.domains[i]}) that the attribute network takes for "
            f"{model.domains[1 - i]}; before translation {taken[0].mean():.2f}; probabilities of other attributes "
            f"moved by {others.mean():.3f}",
        )  # fmt: skip


def _taken_for(model: GenerativeModel, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which kind of image the attributes make it, (n,), for probabilities (n, A) of the model's attributes."""
    group = model.groups(torch.from_numpy(probabilities > 0.5).float())
    assert group is not None  # a model that translates tells kinds of images apart
    found: NDArray[np.int64] = group.cpu().numpy()
    return found


def _probabilities(referee: Referee, subject: Subject, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = expit(_logits(referee, subject, images))
    return probabilities


def _logits(referee: Referee, subject: Subject, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return embedded(referee.network, images, subject.batch_size, subject.device).astype(np.float64)
