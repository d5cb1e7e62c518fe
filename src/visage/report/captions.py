"""Titles and captions of the pictures that evaluation saves, and what the faces of a gallery are ranked by.

Evaluation stores facts alone (`Picture.facts`, `Gallery`), so a changed word re-runs the report and nothing else. A new
picture needs one row of `PICTURES`; without it, it is shown among "More pictures", under its file's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from visage.errors import UserError
from visage.report.wording import plain
from visage.results import AGAIN, Gallery, Picture, Place

Titles = Mapping[str, str]
"""Set of other images -> its title."""


@dataclass(frozen=True, slots=True)
class Words:
    """What the page says about a kind of picture.

    chapter: a key of `chapters.CHAPTERS`.
    caption: a sentence in which {fact} is replaced by a fact of the picture; lists are joined by commas.
    capability: of a picture that every model should have, the capability whose reason explains a missing one.
    """

    title: str
    chapter: str
    caption: str
    capability: str = ""


PICTURES = {
    "reconstructions": Words(
        "Reconstructions",
        "reconstruction",
        "Test faces above, their reconstructions below; none was picked.",
        "Reconstructs",
    ),
    "inpainting": Words(
        "Filling in",
        "reconstruction",
        "Test faces, what the model sees of them, and how it fills in the rest.",
    ),
    "samples": Words("Samples", "samples", "The first {shown} faces drawn from the model; none was picked.", "Samples"),
    "variants": Words("Other ways to sample", "samples", "From the same noise, row by row: {names}."),
    "guidance": Words(
        "Guidance",
        "samples",
        "Each column has the same noise and attributes; the strength w of the guidance is, row by row, {scales}.",
    ),
    "wanted_attributes": Words(
        "Wanted attributes",
        "samples",
        "The first column has the attributes of a test face; in the others, from the same noise, one of them is "
        "reversed: {attributes}.",
    ),
    "translations": Words(
        "Translation",
        "samples",
        "Between two kinds of faces: {domains}. The first three rows are faces of the first kind, their translations "
        "to the second, and these translated back; the rows below go the other way round. None was picked.",
    ),
    "memorization": Words(
        "Closest to training faces",
        "samples",
        "The {shown} of {samples} samples that lie closest to a training face in the attribute network's features, "
        "each with that face below it.",
    ),
    "duplicates": Words(
        "Samples most alike",
        "samples",
        "The {shown} samples that lie closest to another sample in the attribute network's features, each with that "
        "other sample below it.",
    ),
    "ood_lowest": Words(
        "Most face-like among the other images",
        "ood",
        "The {shown} images of {images} to which the model gives the lowest scores ({score}).",
    ),
    "typicality": Words(
        "From the most to the least typical face",
        "ood",
        "Test faces in the order of the model's score ({score}), evenly spread over its ranks.",
    ),
    "interpolation": Words(
        "Interpolation", "latents", "Each row walks in {steps} equal steps between {ends}.", "Decodes"
    ),
}
"""Stem of a picture's file -> its words, in the order of the page."""
ENDS = {"faces": "the codes of two test faces", "prior": "two codes drawn from the prior"}
"""What an interpolation may lead from and to."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a sentence calls a measure by which test faces are ranked. unit: "" where the title says it."""

    title: str
    unit: str = ""


RANKINGS = {
    "recon_mse": Ranking("reconstruction error", "squared error, pixels in [0, 1]"),
    "masked_mse": Ranking("error on hidden pixels", "squared error, pixels in [0, 1]"),
    "bits_per_dim": Ranking("bits per dimension"),
}
"""Every other measure by which faces are ranked is a score of the model."""
GALLERIES: dict[Place, tuple[str, str]] = {
    "worst": ("Worst by {measure}", "The {n} of {ranked} test faces that rank highest by {measure}, highest first."),
    "median": (
        "Around the median by {measure}",
        "The {n} of {ranked} test faces around the median of {measure}, rising.",
    ),
    "best": ("Best by {measure}", "The {n} of {ranked} test faces that rank lowest by {measure}, lowest first."),
}
"""Place -> title and caption of a gallery, in the order of the page."""


def words_of(file: str) -> Words:
    """What the page says about a picture; its file's name, for a kind that is not known here."""
    stem = Path(file).stem
    return PICTURES.get(stem, Words(plain(stem).capitalize(), "more", ""))


def caption(picture: Picture, titles: Titles) -> str:
    """The caption of a picture.

    Raises:
        UserError: the picture's facts lack one that its caption needs.
    """
    facts = {name: _phrase(name, value, titles) for name, value in picture.facts.items()}
    try:
        return words_of(picture.file).caption.format(**facts)
    except KeyError as error:
        raise UserError(f"results.json has no fact {error} about {picture.file}: delete it and {AGAIN}") from error


def _phrase(name: str, value: int | str | list[str], titles: Titles) -> str:
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    known = {"ends": ENDS, "images": titles}.get(name, {})
    return known.get(str(value), str(value))


def ranking(measure: str) -> Ranking:
    """What a sentence calls a measure by which test faces are ranked."""
    return RANKINGS.get(measure) or Ranking(f"the model's own score ({measure})")


def gallery_words(gallery: Gallery) -> tuple[str, str]:
    """Title and caption of a gallery of faces."""
    facts = {"measure": ranking(gallery.measure).title, "n": len(gallery.faces), "ranked": gallery.n}
    title, text = (template.format(**facts) for template in GALLERIES[gallery.place])
    return title, text
