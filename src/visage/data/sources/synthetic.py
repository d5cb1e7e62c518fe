"""Drawn faces, written in the files that CelebA has, with the factors that each face was drawn from.

Of every ten people the second is in the validation split and the third in the test split. Image i of a seed is the same
however many images are drawn, by however many processes.
"""

import io
import math
import multiprocessing
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from tqdm import tqdm

from visage.data import celeba_files
from visage.data import celeba_format as celeba
from visage.data.collection import LEAST_IMAGES, SPLITS, Collection
from visage.data.face_factors import DISTRIBUTIONS, Factors, attributes, sample_factors
from visage.data.portrait import draw_face
from visage.data.request import Found, Request
from visage.errors import UserError
from visage.files import Strict, replacing, write_text
from visage.machine import cores

TITLE = "drawn faces, not photographs"
OTHER_IMAGES = "drawn_clothes"
QUALITY = 90
"""Quality of the JPEG files."""
CHUNK = 50
"""Images that a process draws at a time."""


@dataclass(frozen=True, slots=True)
class Settings(Strict):
    """`data.synthetic`.

    images: faces to draw.
    images_per_identity: mean number of faces that share a person.
    """

    images: Annotated[int, Ge(20)]
    images_per_identity: Annotated[float, Ge(1)]


def check(settings: Settings, root: str | None) -> None:
    """Nothing can be wrong; a root is that of another source and stays unused."""


def attribute_names(settings: Settings) -> Sequence[str] | None:
    """The 40 of CelebA."""
    return celeba.ATTRIBUTES


def get(settings: Settings, request: Request) -> Found:
    """Draw the faces.

    Raises:
        UserError: too few of them would be in a split.
    """
    splits = [split_of(who) for who in identities(settings.images, settings.images_per_identity, request.seed)]
    for i, name in enumerate(SPLITS):
        if splits.count(i) < LEAST_IMAGES:
            raise UserError(
                f"params.yaml: data.synthetic: {settings.images} images, {settings.images_per_identity:g} of each "
                f"person, put {splits.count(i)} into {name}, where {LEAST_IMAGES} are needed: draw more, or fewer each"
            )
    draw_dataset(request.target, settings.images, settings.images_per_identity, request.seed)
    return Found(request.target, "drawn")


def read(settings: Settings, folder: Path) -> Collection:
    """List the faces, with their factors."""
    return celeba_files.read(folder)


# --- drawing ----------------------------------------------------------------------------------------------------------


def identities(images: int, images_per_identity: float, seed: int) -> list[int]:
    """The person, from 1, of each image. A person has between 1 and 2 * images_per_identity - 1 images in a row."""
    rng = np.random.Generator(np.random.PCG64([seed, 0]))
    spread = 2 * images_per_identity - 1
    people: list[int] = []
    identity = 0
    while len(people) < images:
        identity += 1
        people += [identity] * (1 + int(rng.random() * spread))
    return people[:images]


def split_of(identity: int) -> int:
    """0 (train), 1 (valid) or 2 (test): eight, one and one of every ten people."""
    return {2: 1, 3: 2}.get(identity % 10, 0)


def draw_file(seed: int, image: tuple[int, int]) -> tuple[Factors, bytes]:
    """The factors and the JPEG bytes of one (index, identity)."""
    factors = sample_factors(seed, *image)
    jpeg = io.BytesIO()
    draw_face(factors).save(jpeg, "JPEG", quality=QUALITY)
    return factors, jpeg.getvalue()


def draw_files(people: Sequence[int], seed: int, workers: int) -> Iterator[tuple[Factors, bytes]]:
    """Draw one image for each of `people`, in order, on that many `workers`."""
    draw = partial(draw_file, seed)
    if workers == 1:
        yield from map(draw, enumerate(people))
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, enumerate(people), chunksize=CHUNK)


def draw_dataset(
    folder: Path, images: int, images_per_identity: float, seed: int, workers: int | None = None, progress: bool = True
) -> None:
    """Draw faces into `folder`, in CelebA's files and `factors.csv`.

    images_per_identity: mean number of images of a person, at least 1.
    workers: processes, None = one for each core; the bytes are the same for any number.
    """
    workers = min(workers or cores(), math.ceil(images / CHUNK))
    people = identities(images, images_per_identity, seed)
    names = [celeba.image_name(i) for i in range(images)]
    table = ["file," + ",".join(DISTRIBUTIONS)]
    rows: dict[str, list[bool]] = {}
    with replacing(folder / celeba.ARCHIVE) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        drawn = draw_files(people, seed, workers)
        for name, (factors, jpeg) in zip(names, tqdm(drawn, "faces", images, disable=not progress), strict=True):
            archive.writestr(zipfile.ZipInfo(f"img_align_celeba/{name}"), jpeg)
            table.append(name + "".join(f",{value:g}" for value in astuple(factors)))
            rows[name] = attributes(factors)
    celeba.write_attributes(folder / celeba.ATTRIBUTE_FILE, rows)
    celeba.write_identities(folder / celeba.IDENTITY_FILE, dict(zip(names, people, strict=True)))
    celeba.write_partition(
        folder / celeba.PARTITION_FILE, {name: split_of(who) for name, who in zip(names, people, strict=True)}
    )
    write_text(folder / celeba.FACTOR_FILE, "\n".join(table) + "\n")
