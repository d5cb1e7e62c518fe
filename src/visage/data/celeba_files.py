"""Faces in CelebA's files: find them in whatever layout they have, and read the annotations (Liu et al., ICCV 2015).

Known layouts, at the given folder or up to three folders below it:

    img_align_celeba.zip, list_*.txt                  as published (also in folders Img, Anno, Eval)
    img_align_celeba/*.jpg, list_*.txt                extracted
    img_align_celeba/img_align_celeba/*.jpg, *.csv    from Kaggle: comma-separated, no identities
    celeba/...                                        torchvision's folder

Any subset of the images will do, and the identities may be missing.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from visage.data.celeba_format import (
    ARCHIVE,
    ATTRIBUTE_FILE,
    ATTRIBUTES,
    FACTOR_FILE,
    IDENTITY_FILE,
    PARTITION_FILE,
)
from visage.data.collection import (
    IMAGES,
    SPLITS,
    Collection,
    check_splits,
    fingerprint,
    hidden,
    list_folder,
    list_zip,
    naming_what_cannot_be_read,
    split_by_hash,
)
from visage.data.tables import BIT, name_column, once, rows
from visage.errors import UserError

Kind = TypeVar("Kind", bytes, int)
DEPTH = 3
SHARE = 0.1
"""Of the images that are tested, and of those that are validated on, where the official split has none of them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a copy of CelebA are. images: the zip archive, or the folder that holds the JPEGs."""

    images: Path
    attributes: Path
    partition: Path
    identities: Path | None
    factors: Path | None

    @property
    def annotations(self) -> list[Path]:
        """The annotation files that are there."""
        return [path for path in (self.attributes, self.partition, self.identities, self.factors) if path]

    def __str__(self) -> str:
        kind = "a folder of images" if self.images.is_dir() else "a zip archive of images"
        return f"{kind}, {self.attributes.suffix[1:]} annotations, {'with' if self.identities else 'no'} identities"


def find(root: Path) -> Layout:
    """Find the parts of CelebA in `root`. An archive is preferred to a folder of the same images: it reads faster.

    Raises:
        UserError: the folder or one of the parts is not there.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}: name CelebA's, or leave it empty to download")
    found: dict[str, Path] = {}
    _walk(root, DEPTH, found)
    images = found.get(ARCHIVE) or found.get("img_align_celeba/*.jpg") or found.get("*.jpg")
    annotations = (ATTRIBUTE_FILE, PARTITION_FILE, IDENTITY_FILE)
    attributes, partition, identities = (_either(found, name) for name in annotations)
    if images is None or attributes is None or partition is None:
        parts = (
            (images, f"{ARCHIVE} or a folder of images"),
            (attributes, ATTRIBUTE_FILE),
            (partition, PARTITION_FILE),
        )
        missing = ", ".join(name for part, name in parts if part is None)
        raise UserError(f"data.root: {root} lacks {missing} (annotations may also be .csv): put it there")
    return Layout(images, attributes, partition, identities, found.get(FACTOR_FILE))


def _walk(folder: Path, depth: int, found: dict[str, Path]) -> None:
    """Note the first file of each name; as "*.jpg", "<name>/*.jpg" the first folder of images (of this name)."""
    folders = []
    with naming_what_cannot_be_read(folder), os.scandir(folder) as listed:
        for file in sorted(listed, key=lambda file: file.name):
            if hidden(PurePosixPath(file.name)):
                continue
            if file.name.lower().endswith(IMAGES):
                found.setdefault("*.jpg", folder)
                found.setdefault(f"{folder.name}/*.jpg", folder)
            elif file.is_dir():
                folders.append(folder / file.name)
            else:
                found.setdefault(file.name, folder / file.name)
    if depth > 0:
        for inner in folders:
            _walk(inner, depth - 1, found)


def _either(found: dict[str, Path], name: str) -> Path | None:
    return found.get(name) or found.get(name.removesuffix(".txt") + ".csv")


def read(root: Path) -> Collection:
    """Find faces in `root` and read all that is known of them; annotated images that are not there are left out.

    Raises:
        UserError: a part is missing or broken, an image has no annotations, or a split has too few images.
    """
    layout = find(root)
    members = list_zip(layout.images, IMAGES) if layout.images.is_file() else list_folder(layout.images, IMAGES)
    if not members:
        raise UserError(f"{layout.images} holds no image ({', '.join(IMAGES)}): give CelebA's aligned images")
    names = sorted(members)
    annotated = _read_attributes(layout.attributes)
    attributes = _of_images(names, annotated)
    partition = _of_images(names, _read_numbers(layout.partition, allowed=range(len(SPLITS))))
    identities = _of_images(names, _read_numbers(layout.identities) if layout.identities else {})
    for path, found in ((layout.attributes, attributes), (layout.partition, partition)):
        _check_annotated(names, found, path)
    official = np.array([partition[name] for name in names], np.uint8)
    identity = np.array([identities.get(name, -1) for name in names], np.int32)
    split = official if len(set(official)) == len(SPLITS) else _new_split(names, identity)
    factors, factor_names = _read_factors(layout.factors, names)
    collection = Collection(
        path=layout.images,
        members=[members[name].name for name in names],
        image_id=np.array(names),
        split=split,
        attributes=np.frombuffer(b"".join(attributes[name] for name in names), np.uint8).reshape(-1, len(ATTRIBUTES)),
        names=ATTRIBUTES,
        identity=identity,
        factors=factors,
        factor_names=factor_names,
        aligned=True,
        remarks=_remarks(len(annotated) - len(members), official, split, identity),
        fingerprint=fingerprint(members, layout.annotations),
    )
    return check_splits(collection, fix=f"add images, or change {layout.partition.name}")


def _read_attributes(path: Path) -> dict[str, bytes]:
    """File name -> 40 bytes of 0 or 1 in the order of ATTRIBUTES.

    A column that is none of these is left out, as is what stands before the name: an index that pandas wrote.
    """
    lines = rows(path)
    header = next(lines, None)
    if header and len(header[1]) == 1:
        _check_count(path, *header)
        header = next(lines, None)
    if header is None:
        raise UserError(f"{path} is empty: copy or download it again")
    missing = [name for name in ATTRIBUTES if name not in header[1]]
    if missing:
        raise UserError(f"{path}, line {header[0]}: no column {', '.join(missing[:3])}: all 40 must be there")
    columns = header[1]
    order = [columns.index(name) for name in ATTRIBUTES]
    found: dict[str, bytes] = {}
    for number, values in lines:
        place = name_column(values)
        shift = len(values) - len(columns)  # the header of the published file has no name for the images' column
        if place is None or place + len(ATTRIBUTES) >= len(values) or shift not in (0, 1):
            expected = f"the name of an image and {len(ATTRIBUTES)} attributes"
            raise UserError(f"{path}, line {number}: expected {expected}, got {len(values)} values: correct it")
        try:
            bits = bytes(BIT[values[i + shift]] for i in order)
        except KeyError as error:
            raise UserError(f"{path}, line {number}: {error.args[0]!r} is none of -1, 0, 1: correct it") from error
        once(found, values[place], path, number)
        found[values[place]] = bits
    return found


def _check_count(path: Path, number: int, words: list[str]) -> None:
    """The text file's first line is a count; of what does not matter, since subsets often keep the whole set's."""
    if len(words) != 1 or not words[0].isdecimal():
        raise UserError(f"{path}, line {number}: expected the number of images, got {' '.join(words)[:30]!r}")


def _read_numbers(path: Path, allowed: range | None = None) -> dict[str, int]:
    """File name -> the number in the last column."""
    found: dict[str, int] = {}
    for first, (number, values) in enumerate(rows(path)):
        place = name_column(values)
        if place is None and not first:  # a header
            continue
        if place is None or place + 2 != len(values) or not values[-1].removesuffix(".0").isdecimal():
            got = " ".join(values)[:30]
            raise UserError(f"{path}, line {number}: expected a name and a number, got {got!r}: correct it")
        value = int(values[-1].removesuffix(".0"))
        if allowed is not None and value not in allowed:
            raise UserError(f"{path}, line {number}: {value} is none of {', '.join(map(str, allowed))}: correct it")
        once(found, values[place], path, number)
        found[values[place]] = value
    return found


def _read_factors(path: Path | None, names: list[str]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    if path is None:
        return np.zeros((len(names), 0), np.float32), ()
    (_, header), *lines = rows(path)
    factors = {name: values for _, (name, *values) in lines}
    _check_annotated(names, factors, path)
    return np.array([factors[name] for name in names], np.float32), tuple(header[1:])


def _check_annotated(names: Iterable[str], found: Iterable[str], path: Path) -> None:
    missing = sorted(set(names) - set(found))
    if missing:
        raise UserError(
            f"{path} has no row for {len(missing):,} of the images ({', '.join(missing[:3])}): "
            "take the annotation file that belongs to them, or remove them"
        )


def _of_images(names: Sequence[str], found: dict[str, Kind]) -> dict[str, Kind]:
    """What is known of each image, under its own name; the table may write 000001.jpg for 000001.JPG or 000001.png."""
    if all(name in found for name in names):
        return {name: found[name] for name in names}
    stems = {PurePath(name).stem.lower(): value for name, value in found.items()}
    own = {name: found.get(name, stems.get(PurePath(name).stem.lower())) for name in names}
    return {name: value for name, value in own.items() if value is not None}


def _new_split(names: Sequence[str], identity: NDArray[np.int32]) -> NDArray[np.uint8]:
    """A split by the hash of the person, or of the image's name where the person is unknown."""
    who = [name if person < 0 else str(person) for name, person in zip(names, identity, strict=True)]
    return np.array([split_by_hash(each, SHARE, SHARE) for each in who], np.uint8)


def _remarks(
    absent: int, official: NDArray[np.uint8], split: NDArray[np.uint8], identity: NDArray[np.int32]
) -> list[str]:
    remarks = []
    if absent > 0:
        remarks.append(f"{absent:,} annotated images are not there and left out")
    if split is not official:
        lacking = " and no ".join(name for i, name in enumerate(SPLITS) if i not in official)
        unit = "person" if (identity >= 0).all() else "image"
        remarks.append(
            f"warning: the official split has no {lacking} image among these, so they are split anew, by {unit}: "
            f"a tenth to test, a tenth to validate on; figures on other splits are not comparable"
        )
    known = np.unique(np.stack([identity, split])[:, identity >= 0], axis=1)
    people, splits = np.unique(known[0], return_counts=True)
    if (splits > 1).any():
        remarks.append(
            f"warning: {(splits > 1).sum():,} identities in more than one split "
            f"(first: {people[splits > 1][0]}): test faces may have been trained on"
        )
    return remarks
