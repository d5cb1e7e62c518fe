"""The pictures of an evaluation and its gallery of failures."""

import numpy as np

from visage.evaluation import failures
from visage.evaluation.album import Album
from visage.evaluation.findings import Findings
from visage.evaluation.material import Material
from visage.evaluation.records import BITS_PER_DIM, SQUARED_ERROR
from visage.evaluation.subject import STEPS, Subject
from visage.models.base import Translates

PAIRS = 8
"""Test images in reconstructions.png."""
WISHES = 4
"""Rows of wishes.png."""
EXTREMES = 16
"""Images in ood_lowest.png and in inference.png."""


def draw_pictures(album: Album, subject: Subject, material: Material, found: Findings) -> dict[str, float]:
    """Save the pictures that the model can give, all from fixed seeds; return what sampling cost."""
    cost = {}
    sampled = subject.samples()
    if sampled:
        images, seconds = sampled
        cost["sample_seconds_per_64"] = round(seconds * 64 / len(images), 3)
        album.add(
            "samples.png", images, "Samples", f"The first {len(images)} faces drawn from the model; none was picked."
        )
    shown = material.test[:PAIRS]
    reconstructed = subject.reconstructions(shown)
    if reconstructed is not None:
        album.add_pairs(
            "reconstructions.png",
            shown,
            reconstructed,
            "Reconstructions",
            "Test faces above, what the model makes of their codes below; none was picked.",
        )
    walked = subject.walks(material.test)
    if walked:
        images, from_faces = walked
        ends = "codes of two test faces" if from_faces else "two codes drawn from the prior"
        album.add(
            "interpolation.png",
            images,
            "Interpolation",
            f"Each row walks in {STEPS - 1} equal steps between {ends}.",
            STEPS,
        )
    _draw_abilities(album, subject, material)
    if found.test_scores:
        name, scores = next(iter(found.test_scores.items()))
        ranked = np.argsort(scores, kind="stable")
        spread = ranked[np.linspace(0, len(ranked) - 1, min(EXTREMES, len(ranked))).round().astype(int)]
        album.add(
            "inference.png",
            material.test[spread],
            "From the most to the least typical face",
            f"Test faces in the order of the model's score ({name}), evenly spread over its ranks.",
        )
        lowest = np.argsort(found.ood_scores[name], kind="stable")[:EXTREMES]
        album.add(
            "ood_lowest.png",
            material.ood[lowest],
            "Most face-like among the other images",
            f"The {len(lowest)} out-of-distribution images to which the model gives the lowest scores ({name}).",
        )
    return cost


def _draw_abilities(album: Album, subject: Subject, material: Material) -> None:
    """Save the pictures that only some models can give."""
    if rows := subject.inpainted(material.test[:PAIRS]):
        album.add_rows(
            "inpainting.png", rows, "Filling in", "Test faces, what the model sees of them, and what it makes of that."
        )
    if rows := subject.translated(material, PAIRS):
        album.add_rows(
            "translations.png",
            rows,
            "Translation",
            f"{' and '.join(_domains(subject))}: in the first three rows faces of the first kind, their translations "
            "to the second, and these translated back; below the other way round. None was picked.",
        )
    if varied := subject.varied(PAIRS):
        album.add_rows(
            "variants.png",
            list(varied.values()),
            "Other ways to sample",
            f"From the same noise, row by row: {', '.join(varied)}.",
        )
    if rows := subject.wished(material, WISHES):
        names = ", ".join(name.replace("_", " ") for name in subject.model.attributes)
        album.add_rows(
            "wishes.png",
            rows,
            "Wanted attributes",
            f"First column: attributes of a test face. Then, from the same noise, one of them turned round: {names}.",
        )
    if guided := subject.guided(material, PAIRS):
        strengths = ", ".join(f"w = {w:g}" for w in guided)
        album.add_rows(
            "guidance.png",
            list(guided.values()),
            "Guidance",
            f"The same noise and attributes in each column; row by row: {strengths}.",
        )


def _domains(subject: Subject) -> tuple[str, str]:
    model = subject.model
    assert isinstance(model, Translates)
    first, second = (name.replace("_", " ") for name in model.domains)
    return first, second


def show_failures(album: Album, subject: Subject, material: Material, found: Findings) -> None:
    """Save the gallery of the worst faces by the first of: reconstruction error, bits per dimension, own score."""
    if "recon_mse" in found.errors:
        measured, unit, values = "reconstruction error", SQUARED_ERROR, found.errors["recon_mse"]
    elif found.likelihood:
        measured, unit, values = "bits per dimension", BITS_PER_DIM, found.test_scores["nll"]
    elif found.test_scores:
        measured, unit = f"the model's own score ({next(iter(found.test_scores))})", "score"
        values = next(iter(found.test_scores.values()))
    else:
        return
    worst = failures.worst_first(values, subject.settings.gallery)
    if not len(worst):
        return
    faces = material.test[worst]
    reconstructed = subject.reconstructions(faces)
    caption = f"The {len(worst)} test faces with the highest {measured} of {len(values)}, worst first"
    if reconstructed is None:
        album.add("failures.png", faces, "Failures", f"{caption}.")
    else:
        album.add_pairs("failures.png", faces, reconstructed, "Failures", f"{caption}; reconstructions below.")
    described = failures.gallery(material.faces, material.rows[worst], values[worst])
    failures.save_failures(album.folder / "failures.json", measured, unit, described)
