"""The pictures of an evaluation and its gallery of failures."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.evaluation import enrichment, failures
from visage.evaluation.album import Album
from visage.inference.batches import numpy_generator
from visage.evaluation.findings import Findings, Ranking, rankings
from visage.evaluation.material import Material
from visage.evaluation.subject import STEPS, Subject
from visage.models.base import Translates

PAIRS = 8
"""Test images in reconstructions.png."""
WISHES = 4
"""Rows of wishes.png."""
EXTREMES = 16
"""Images in ood_lowest.png and in inference.png."""


def draw_pictures(
    album: Album, subject: Subject, material: Material, found: Findings, walked: tuple[NDArray[np.uint8], bool] | None
) -> None:
    """Save the pictures of images that the model can give, all from fixed seeds.

    walked: what `Subject.walks` found.
    """
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
    if found.default:
        name = found.default
        scores, others = found.scores["test"][name], found.scores["ood"][name]
        ranked = np.argsort(scores, kind="stable")
        spread = ranked[np.linspace(0, len(ranked) - 1, min(EXTREMES, len(ranked))).round().astype(int)]
        album.add(
            "inference.png",
            material.test[spread],
            "From the most to the least typical face",
            f"Test faces in the order of the model's score ({name}), evenly spread over its ranks.",
        )
        lowest = np.argsort(others, kind="stable")[:EXTREMES]
        album.add(
            "ood_lowest.png",
            material.ood[lowest],
            "Most face-like among the other images",
            f"The {len(lowest)} out-of-distribution images to which the model gives the lowest scores ({name}).",
        )


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
    """Save the galleries of the faces that the model treats worst, as usual, and best, by each of its rankings."""
    saved = []
    for ranking in rankings(found):
        for place, chosen in failures.extremes(ranking.values, subject.settings.gallery).items():
            if not len(chosen):
                continue
            picture = f"{place}_{ranking.measure}.png"
            faces = material.test[chosen]
            reconstructed = subject.reconstructions(faces)
            title, caption = _words(place, ranking, len(chosen))
            if reconstructed is None:
                album.add(picture, faces, title, f"{caption}.")
            else:
                album.add_pairs(picture, faces, reconstructed, title, f"{caption}; reconstructions below.")
            described = failures.gallery(material.faces, material.rows[chosen], ranking.values[chosen])
            saved.append(failures.Gallery(ranking.measure, ranking.title, ranking.unit, place, picture, described))
    if saved:
        failures.save_failures(album.folder / "failures.json", saved)


def _words(place: failures.Place, ranking: Ranking, n: int) -> tuple[str, str]:
    """Title and caption of a gallery."""
    measured, faces = ranking.title, len(ranking.values)
    if place == "median":
        return f"Ordinary faces: {measured}", f"The {n} test faces around the median {measured} of {faces}, rising"
    which = {"worst": "highest", "best": "lowest"}[place]
    return f"{place.capitalize()} faces: {measured}", f"The {n} test faces with the {which} {measured} of {faces}"


def measure_enrichment(path: Path, subject: Subject, material: Material, found: Findings) -> None:
    """Write which attributes are more, or less, frequent among the faces that the model treats worst."""
    kept = []
    for ranking in rankings(found):
        n = len(ranking.values)
        contrast = np.log(material.test[:n].reshape(n, -1).var(1) + 1)
        covariates = np.stack([contrast, found.baselines["test"]["png_large"][:n]], axis=1)
        generator = numpy_generator(subject.settings.seed, f"permutations {ranking.measure}")
        attributes, names = material.attributes[:n], material.faces.names
        kept.append(enrichment.enrichment(ranking.measure, ranking.values, attributes, names, covariates, generator))
    enrichment.save_enrichment(path, kept)
