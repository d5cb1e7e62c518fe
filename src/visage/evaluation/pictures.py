"""The pictures of one evaluation, and the facts that their captions, which are in `visage.report`, need."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.evaluation.model import EvaluatedModel
from visage.evaluation.ood import SetScores
from visage.inference import walks
from visage.inference.batches import batches, to_pixels
from visage.maths.streams import torch_generator
from visage.models.base import Decodes, Encodes, Guides, HasVariants, Inpaints, SamplesGiven, Translates, can
from visage.pictures import grid, save
from visage.reference.images import EvaluationImages
from visage.results import TEST, Picture

COLUMNS = 8
"""Images in a row of a grid."""
PAIRS = 8
"""Test images in reconstructions.png, and columns of the other pictures of what some models do."""
ATTRIBUTE_ROWS = 4
"""Rows of wanted_attributes.png."""
EXTREMES = 16
"""Images in ood_lowest.png and in typicality.png."""
STRIPS, FEWER_STRIPS, STEPS = 6, 3, 9
"""Rows and columns of interpolation.png; fewer rows where an image takes many network calls."""

Facts = dict[str, int | str | list[str]]


@dataclass(slots=True)
class PictureFolder:
    """Grids of images saved to `folder`, and the list of those that this evaluation saved."""

    folder: Path
    pictures: list[Picture] = field(default_factory=list)

    def add(self, file: str, images: NDArray[np.uint8], facts: Facts | None = None, columns: int = COLUMNS) -> None:
        """Save (N, S, S, 3) images as a grid, row by row."""
        columns = min(columns, len(images))
        save(grid(images, columns), self.folder / file)
        self.pictures.append(Picture(file, columns, -(-len(images) // columns), facts or {}))

    def add_rows(self, file: str, rows: Sequence[NDArray[np.uint8]], facts: Facts | None = None) -> None:
        """Save rows of equally many images, (n, S, S, 3) each, one above the other."""
        self.add(file, np.concatenate(rows), facts, columns=len(rows[0]))

    def add_pairs(
        self, file: str, above: NDArray[np.uint8], below: NDArray[np.uint8], facts: Facts | None = None
    ) -> None:
        """Save a grid in which each row of `above`, (N, S, S, 3), is above the same row of `below`.

        A last row that is not full is filled up with white.
        """
        columns = min(COLUMNS, len(above))
        white = np.full((-len(above) % columns, *above.shape[1:]), 255, np.uint8)
        rows = [np.concatenate([part, white]).reshape(-1, columns, *above.shape[1:]) for part in (above, below)]
        self.add(file, np.stack(rows, axis=1).reshape(-1, *above.shape[1:]), facts, columns)


@dataclass(frozen=True, slots=True)
class Walks:
    """Strips of `STEPS` images between two codes each, row by row; ends: whether the codes are those of faces."""

    images: NDArray[np.uint8]
    ends: str


def walk(evaluated: EvaluatedModel, images: NDArray[np.uint8]) -> Walks | None:
    """Walk between codes of faces, or of the prior where the model does not encode; None where it does not decode."""
    model = evaluated.model
    if not (isinstance(model, Decodes) and can(model, Decodes)):
        return None
    strips = STRIPS if model.likelihood_calls == 1 else FEWER_STRIPS
    pairs = min(strips, len(images) // 2)
    if isinstance(model, Encodes) and can(model, Encodes) and pairs > 0:
        codes, ends = model.encode(next(batches(images[: 2 * pairs], 2 * pairs, evaluated.device))), "faces"
    else:
        codes, ends = model.prior(2 * strips, torch_generator(evaluated.settings.seed, "interpolation")), "prior"
    start, end = codes.chunk(2)
    return Walks(walks.strips(model, start, end, STEPS), ends)


def draw_pictures(
    pictures: PictureFolder,
    evaluated: EvaluatedModel,
    images: EvaluationImages,
    headline: str,
    found: SetScores,
    walked: Walks | None,
) -> None:
    """Save the pictures of images that the model can give, all from fixed seeds.

    headline: the set whose most face-like images are shown.
    """
    shown = images.test[:PAIRS]
    reconstructed = evaluated.reconstructions(shown)
    if reconstructed is not None:
        pictures.add_pairs("reconstructions.png", shown, reconstructed)
    if walked:
        pictures.add("interpolation.png", walked.images, {"steps": STEPS - 1, "ends": walked.ends}, STEPS)
    _draw_abilities(pictures, evaluated, images)
    if score := found.default:
        ranked = np.argsort(found.scores[TEST][score], kind="stable")
        spread = ranked[np.linspace(0, len(ranked) - 1, min(EXTREMES, len(ranked))).round().astype(int)]
        pictures.add("typicality.png", images.test[spread], {"score": score})
        lowest = np.argsort(found.scores[headline][score], kind="stable")[:EXTREMES]
        facts: Facts = {"shown": len(lowest), "score": score, "images": headline}
        pictures.add("ood_lowest.png", images.external[headline][lowest], facts)


def _draw_abilities(pictures: PictureFolder, evaluated: EvaluatedModel, images: EvaluationImages) -> None:
    """Save the pictures that only some models can give."""
    model = evaluated.model
    if isinstance(model, Inpaints) and can(model, Inpaints):
        pictures.add_rows("inpainting.png", _inpainted(evaluated, model, images.test[:PAIRS]))
    if isinstance(model, Translates) and can(model, Translates) and (rows := _translated(evaluated, model, images)):
        pictures.add_rows("translations.png", rows, {"domains": list(model.domains)})
    if isinstance(model, HasVariants) and can(model, HasVariants):
        varied = {
            name: to_pixels(draw(PAIRS, _noise(evaluated, "variants"))) for name, draw in model.variants().items()
        }
        pictures.add_rows("variants.png", list(varied.values()), {"names": list(varied)})
    if isinstance(model, SamplesGiven) and can(model, SamplesGiven):
        rows = _flipped_attributes(evaluated, model, images)
        pictures.add_rows("wanted_attributes.png", rows, {"attributes": list(model.attributes)})
    if isinstance(model, Guides) and can(model, Guides):
        y = _labels(evaluated, images, PAIRS)
        guided = [to_pixels(model.sample_guided(y, _noise(evaluated, "guidance"), w)) for w in model.guidance_scales]
        pictures.add_rows("guidance.png", guided, {"scales": [f"{w:g}" for w in model.guidance_scales]})


def _inpainted(evaluated: EvaluatedModel, model: Inpaints, images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The images, the same with grey in their hidden parts, and what the model fills in."""
    x = next(batches(images, len(images), evaluated.device))
    filled, hidden = model.inpaint(x, _noise(evaluated, "hidden parts 0"))  # the first ones of `masked_errors`
    return [images, to_pixels(x * (1 - hidden)), to_pixels(filled)]


def _translated(evaluated: EvaluatedModel, model: Translates, images: EvaluationImages) -> list[NDArray[np.uint8]]:
    """For either kind: `PAIRS` test faces, their translations, and these translated back; empty with fewer faces."""
    rows = []
    for i in (0, 1):
        some = images.test[evaluated.group(images) == i][:PAIRS]
        if len(some) < PAIRS:
            return []
        there = model.translate(next(batches(some, PAIRS, evaluated.device)), 1 - i)
        rows += [some, to_pixels(there), to_pixels(model.translate(there, i))]
    return rows


def _flipped_attributes(
    evaluated: EvaluatedModel, model: SamplesGiven, images: EvaluationImages
) -> list[NDArray[np.uint8]]:
    """For the attributes of some test faces: a sample with these, then one with each of them flipped, same noise."""
    columns = []
    for flipped in (None, *range(len(model.attributes))):
        y = _labels(evaluated, images, ATTRIBUTE_ROWS)
        if flipped is not None:
            y[:, flipped] = 1 - y[:, flipped]
        columns.append(to_pixels(model.sample_given(y, _noise(evaluated, "flipped attributes"))))
    return list(np.stack(columns, axis=1))


def _labels(evaluated: EvaluatedModel, images: EvaluationImages, n: int) -> Tensor:
    """The attributes of the first n test faces that the model knows, (n, A) float32."""
    columns = images.faces.columns(evaluated.model.attributes)[images.rows[:n]]
    return torch.from_numpy(columns).float().to(evaluated.device)


def _noise(evaluated: EvaluatedModel, stream: str) -> torch.Generator:
    return torch_generator(evaluated.settings.seed, stream)
