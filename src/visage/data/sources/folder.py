"""Any folder of images as faces: split by a hash of the name, attributes from a CSV where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt
from numpy.typing import NDArray

from visage.data.collection import Collection, check_splits, find_images, fingerprint, split_by_hash
from visage.data.request import Found, Request
from visage.data.tables import BIT, once, rows
from visage.errors import UserError
from visage.files import Strict, expanded

TITLE = "images of a folder"
OTHER_IMAGES = "fashion_mnist"
NEEDS_ROOT = "data.root is empty: source folder needs it, the folder that holds the images"


@dataclass(frozen=True, slots=True)
class Settings(Strict):
    """`data.folder`.

    attributes: CSV file, absolute or relative to the folder of images; None = the images have no attributes. Its first
        column names the image, relative to the folder and with forward slashes; every other column is an attribute, of
        0 or -1 where an image lacks it and 1 where it has it.
    valid_share, test_share: shares of the images, about; the hash of an image's name decides. Adding images moves none.
    """

    attributes: str | None
    valid_share: Annotated[float, Gt(0), Lt(1)]
    test_share: Annotated[float, Gt(0), Lt(1)]

    def __post_init__(self) -> None:
        """Refuse a file without a name, and shares that leave nothing."""
        if self.attributes is not None and not self.attributes.strip():
            raise ValueError(f"attributes: {self.attributes!r} names no file: leave it empty, without quotes, for none")
        if self.valid_share + self.test_share >= 1:
            raise ValueError("valid_share + test_share must leave images to train on (sum below 1)")


def check(settings: Settings, root: str | None) -> None:
    """The images are the user's, so there must be a root."""
    if root is None:
        raise UserError(f"params.yaml: {NEEDS_ROOT}")


def attribute_names(settings: Settings) -> Sequence[str] | None:
    """None of them, or those of a file that is read later."""
    return () if settings.attributes is None else None


def get(settings: Settings, request: Request) -> Found:
    """The images stay where they are."""
    if request.root is None:
        raise UserError(f"params.yaml: {NEEDS_ROOT}")
    return Found(request.root, "a folder of images")


def read(settings: Settings, folder: Path) -> Collection:
    """List the images in a folder and in all folders below it.

    Raises:
        UserError: there is no image, the CSV does not fit, or a split has too few images.
    """
    members = find_images(folder, "data.root")
    names = sorted(members)
    attributes = folder / expanded(settings.attributes) if settings.attributes is not None else None
    bits, columns = _read_attributes(attributes, names)
    collection = Collection(
        path=folder,
        members=names,
        aligned=False,
        fingerprint=fingerprint(members, [attributes] if attributes else []),
        image_id=np.array(names),
        split=np.array([split_by_hash(name, settings.valid_share, settings.test_share) for name in names], np.uint8),
        attributes=bits,
        names=columns,
        identity=np.full(len(names), -1, np.int32),
        factors=np.zeros((len(names), 0), np.float32),
        factor_names=(),
        remarks=[f"{len(names):,} images, cut to their centred square"],
    )
    return check_splits(collection, fix="add images, or raise data.folder.valid_share and test_share")


def _read_attributes(path: Path | None, names: Sequence[str]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if path is None:
        return np.zeros((len(names), 0), np.uint8), ()
    if not path.is_file():
        raise UserError(f"data.folder.attributes: there is no file {path}: name the CSV, or leave it empty")
    columns, found = _parse(path)
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{path} has no row for {len(missing):,} of the images ({', '.join(missing[:3])}): add them")
    return np.array([found[name] for name in names], np.uint8).reshape(len(names), len(columns)), columns


def _parse(path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The names of the attributes; file name -> 0 or 1 for each."""
    lines = rows(path)
    _, (_, *columns) = next(lines, (1, [""]))
    if doubled := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path}, line 1: the column {doubled[0]} is there twice: rename one of them")
    found: dict[str, list[int]] = {}
    for number, (name, *values) in lines:
        if len(values) != len(columns) or any(value not in BIT for value in values):
            expected = f"a file name and {len(columns)} values of -1, 0 or 1"
            raise UserError(f"{path}, line {number}: expected {expected}: correct it")
        once(found, name, path, number)
        found[name] = [BIT[value] for value in values]
    return tuple(columns), found
