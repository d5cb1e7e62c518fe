"""Faces in CelebA's files: find them in whatever layout they have, and read the annotations (Liu et al., ICCV 2015).

Known layouts, at the given folder or up to three folders below it:

    img_align_celeba.zip, list_*.txt                  as published (also in folders Img, Anno, Eval)
    img_align_celeba/*.jpg, list_*.txt                extracted
    img_align_celeba/img_align_celeba/*.jpg, *.csv    from Kaggle: comma-separated, no identities
    celeba/...                                        torchvision's folder

Any subset of the images will do, and the identities may be missing.
"""

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
    SPLITS,
    Collection,
    check_splits,
    fingerprint,
    list_folder,
    list_zip,
    naming_what_cannot_be_read,
)
from visage.errors import UserError

DEPTH = 3
BIT = {"1": 1, "0": 0, "-1": 0}


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
        parts = ((images, f"{ARCHIVE} or a folder of JPEGs"), (attributes, ATTRIBUTE_FILE), (partition, PARTITION_FILE))
        missing = ", ".join(name for part, name in parts if part is None)
        raise UserError(f"data.root: {root} lacks {missing} (annotations may also be .csv): put it there")
    return Layout(images, attributes, partition, identities, found.get(FACTOR_FILE))


def _walk(folder: Path, depth: int, found: dict[str, Path]) -> None:
    """Note the first file of each name; as "*.jpg", "<name>/*.jpg" the first folder of JPEGs (of this name)."""
    folders = []
    with naming_what_cannot_be_read(folder), os.scandir(folder) as listed:
        for file in sorted(listed, key=lambda file: file.name):
            if file.name.lower().endswith(".jpg"):
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
    members = list_zip(layout.images, [".jpg"]) if layout.images.is_file() else list_folder(layout.images, [".jpg"])
    if not members:
        raise UserError(f"{layout.images} holds no .jpg file: give CelebA's aligned images")
    names = sorted(members)
    attributes = _read_attributes(layout.attributes)
    partition = _read_numbers(layout.partition, allowed=range(len(SPLITS)))
    identities = _read_numbers(layout.identities) if layout.identities else {}
    for path, rows in ((layout.attributes, attributes), (layout.partition, partition)):
        _check_annotated(names, rows, path)
    split = np.array([partition[name] for name in names], np.uint8)
    identity = np.array([identities.get(name, -1) for name in names], np.int32)
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
        remarks=_remarks(len(attributes) - len(members), split, identity),
        fingerprint=fingerprint(members, layout.annotations),
    )
    return check_splits(collection, fix=f"add images, or change {layout.partition.name}")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text file ({error.reason}): copy or download it again") from error
    delimiter = "," if path.suffix == ".csv" else None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip().split(delimiter)


def _read_attributes(path: Path) -> dict[str, bytes]:
    """File name -> 40 bytes of 0 or 1 in the order of ATTRIBUTES."""
    lines = _lines(path)
    header = next(lines, None)
    if header and path.suffix == ".txt":
        _check_count(path, *header)
        header = next(lines, None)
    if header is None:
        raise UserError(f"{path} is empty: copy or download it again")
    columns = header[1][1:] if path.suffix == ".csv" else header[1]
    missing = [name for name in ATTRIBUTES if name not in columns]
    if missing:
        raise UserError(f"{path}, line {header[0]}: no column {', '.join(missing[:3])}: all 40 must be there")
    order = [columns.index(name) for name in ATTRIBUTES]
    rows = {}
    for number, (name, *values) in lines:
        if len(values) != len(columns):
            raise UserError(f"{path}, line {number}: {len(values)} values for {len(columns)} attributes: correct it")
        try:
            bits = [BIT[value] for value in values]
        except KeyError as error:
            raise UserError(f"{path}, line {number}: {error.args[0]!r} is none of -1, 0, 1: correct it") from error
        rows[name] = bytes(bits) if columns == list(ATTRIBUTES) else bytes(bits[i] for i in order)
    return rows


def _check_count(path: Path, number: int, words: list[str]) -> None:
    """The text file's first line is a count; of what does not matter, since subsets often keep the whole set's."""
    if len(words) != 1 or not words[0].isdecimal():
        raise UserError(f"{path}, line {number}: expected the number of images, got {' '.join(words)[:30]!r}")


def _read_numbers(path: Path, allowed: range | None = None) -> dict[str, int]:
    """File name -> the one number beside it."""
    rows = {}
    for number, words in _lines(path):
        if number == 1 and path.suffix == ".csv":  # its header
            continue
        if len(words) != 2 or not words[1].strip().isdecimal():
            raise UserError(
                f"{path}, line {number}: expected a name and a number, got {' '.join(words)[:30]!r}: correct it"
            )
        value = int(words[1])
        if allowed is not None and value not in allowed:
            raise UserError(f"{path}, line {number}: {value} is none of {', '.join(map(str, allowed))}: correct it")
        rows[words[0]] = value
    return rows


def _read_factors(path: Path | None, names: list[str]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    if path is None:
        return np.zeros((len(names), 0), np.float32), ()
    with path.open(encoding="utf-8", newline="") as f:
        header, *lines = csv.reader(f)
    rows = {name: values for name, *values in lines}
    _check_annotated(names, rows, path)
    return np.array([rows[name] for name in names], np.float32), tuple(header[1:])


def _check_annotated(names: Iterable[str], rows: Iterable[str], path: Path) -> None:
    missing = sorted(set(names) - set(rows))
    if missing:
        raise UserError(
            f"{path} has no row for {len(missing):,} of the images ({', '.join(missing[:3])}): "
            "take the annotation file that belongs to them, or remove them"
        )


def _remarks(absent: int, split: NDArray[np.uint8], identity: NDArray[np.int32]) -> list[str]:
    remarks = []
    if absent:
        remarks.append(f"{absent:,} annotated images are not there and left out")
    known = np.unique(np.stack([identity, split])[:, identity >= 0], axis=1)
    people, splits = np.unique(known[0], return_counts=True)
    if (splits > 1).any():
        remarks.append(
            f"warning: {(splits > 1).sum():,} identities in more than one split "
            f"(first: {people[splits > 1][0]}): test faces may have been trained on"
        )
    return remarks
