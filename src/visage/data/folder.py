"""Any folder of images as a data set: split by a hash of the name, attributes from a CSV where there is one."""

import csv
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.data.collection import SPLITS, Collection, check_splits, fingerprint, list_folder
from visage.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BIT = {"1": 1, "0": 0, "-1": 0}


def read(root: Path, attributes: Path | None, valid_share: float, test_share: float) -> Collection:
    """List the images in `root` and in all folders below it.

    attributes: CSV whose first column names the image (relative to root, forward slashes), and with a column of 0/1 or
    -1/1 for each attribute; None = no attributes.
    valid_share, test_share: parts of [0, 1) that the hash of a name may fall into. Adding images moves no other.

    Raises:
        UserError: there is no image, the CSV does not fit, or a split stays empty.
    """
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}: name the one that holds the images")
    members = list_folder(root, SUFFIXES, nested=True)
    if not members:
        raise UserError(f"data.root: {root} holds no image ({', '.join(SUFFIXES)}): name the folder that holds them")
    names = sorted(members)
    bits, columns = _read_attributes(attributes, names)
    collection = Collection(
        path=root,
        members=names,
        image_id=np.array(names),
        split=np.array([split_of(name, valid_share, test_share) for name in names], np.uint8),
        attributes=bits,
        names=columns,
        identity=np.full(len(names), -1, np.int32),
        factors=np.zeros((len(names), 0), np.float32),
        factor_names=(),
        aligned=False,
        remarks=[f"{len(names):,} images, cut to their centred square"],
        fingerprint=fingerprint(members, [attributes] if attributes else []),
    )
    return check_splits(collection, mend="add images, or raise data.folder.valid_share and test_share")


def split_of(name: str, valid_share: float, test_share: float) -> int:
    """Index into SPLITS, decided by the name alone: its SHA-256, read as a number in [0, 1)."""
    position = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if position < test_share:
        return SPLITS.index("test")
    return SPLITS.index("valid" if position < test_share + valid_share else "train")


def _read_attributes(path: Path | None, names: list[str]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    if path is None:
        return np.zeros((len(names), 0), np.uint8), ()
    if not path.is_file():
        raise UserError(f"data.folder.attributes: there is no file {path}: name the CSV, or leave it empty")
    with path.open(encoding="utf-8-sig", newline="") as f:
        reader = csv.reader(f)
        _, *columns = next(reader, [""])
        rows = {}
        for row in filter(None, reader):
            name, *values = row
            if len(values) != len(columns) or any(value.strip() not in BIT for value in values):
                expected = f"a file name and {len(columns)} values of -1, 0 or 1"
                raise UserError(f"{path}, line {reader.line_num}: expected {expected}: mend the line")
            rows[name] = [BIT[value.strip()] for value in values]
    missing = [name for name in names if name not in rows]
    if missing:
        raise UserError(f"{path} has no row for {len(missing):,} of the images ({', '.join(missing[:3])}): add them")
    return np.array([rows[name] for name in names], np.uint8).reshape(len(names), len(columns)), tuple(columns)
