"""`data/raw`: the images before any change, or where they are.

    source.json   where the faces and the other images are, what was found, and fingerprints of it
    faces/        faces that were drawn or downloaded, in CelebA's files
    ood/<name>/   the images of a set that were drawn or downloaded

Files of the user stay where they are.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from visage.data import ood, sources
from visage.data.arrays import Split
from visage.data.collection import Collection, Files
from visage.errors import UserError
from visage.files import Strict, read_typed, write_json

RAW = Path("data/raw")
AGAIN = "run `dvc repro -f download`"


@dataclass(frozen=True, slots=True)
class RawSet(Strict):
    """A set of images other than faces.

    name: by which files and figures call it. source: a file name under visage/data/ood.
    root: absolute where the files are the user's, relative to data/raw where they were drawn or downloaded.
    note: how they came there; count: how many there are. fingerprint: another one when the images change.
    """

    name: str
    source: str
    root: str
    note: str
    count: int
    fingerprint: str

    def images(self, raw: Path = RAW) -> ood.Images:
        """The images, as they are now.

        Raises:
            UserError: they are not as they were when source.json was written.
        """
        images = ood.find(self.source).images(raw / self.root)
        if fingerprint(images) != self.fingerprint:
            raise UserError(f"{raw / self.root} has changed since it was listed: {AGAIN}")
        return images


@dataclass(frozen=True, slots=True)
class Raw(Strict):
    """`source.json`.

    source: a file name under visage/data/sources; settings: fields of its settings.
    root: absolute where the files are the user's, relative to data/raw where they were drawn or downloaded.
    note, counts, remarks: what was found, for readers.
    fingerprint: of the faces' names, sizes and annotations.
    ood: the sets of other images; the first is the headline.
    """

    source: str
    root: str
    settings: dict[str, Any]
    note: str
    counts: dict[Split, int]
    remarks: list[str]
    fingerprint: str
    ood: tuple[RawSet, ...]

    @classmethod
    def load(cls, raw: Path = RAW) -> Self:
        """Read `source.json`.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_typed(raw / "source.json", cls, AGAIN)

    def save(self, raw: Path = RAW) -> None:
        """Write `source.json`."""
        write_json(raw / "source.json", asdict(self))

    def faces(self, raw: Path = RAW) -> Collection:
        """List the faces, as they are now.

        Raises:
            UserError: they are not as they were when source.json was written.
        """
        settings = sources.settings(self.source, self.settings)
        collection = sources.find(self.source).read(settings, raw / self.root)
        if collection.fingerprint != self.fingerprint:
            raise UserError(f"{raw / self.root} has changed since it was listed: {AGAIN}")
        return collection


def count(images: ood.Images) -> int:
    """How many images a set has."""
    return len(images.members) if isinstance(images, Files) else len(images)


def fingerprint(images: ood.Images) -> str:
    """Hex digest of a set's pixels, or of the names and sizes of its files."""
    return images.fingerprint if isinstance(images, Files) else hashlib.sha256(images.data).hexdigest()
