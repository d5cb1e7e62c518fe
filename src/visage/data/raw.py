"""`data/raw`: the images before any change, or where they are.

    source.json   where the faces and the other images are, what was found, and a fingerprint of it
    faces/        drawn or downloaded faces, in CelebA's own files; files of the user stay where they are
    ood/          drawn or downloaded images of the other kind

`faces` and `ood` are there only where they were made here.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from visage.data import celeba, fashion_mnist, folder
from visage.data.arrays import Split
from visage.data.collection import Collection
from visage.errors import UserError
from visage.files import read_json, write_json

RAW = Path("data/raw")


@dataclass(frozen=True, slots=True)
class Raw:
    """`source.json`.

    root, ood_root: absolute where they are the user's own, relative to data/raw where they were made here.
    layout, counts, remarks, ood_note: what was found, for readers.
    attributes, valid_share, test_share: how a plain folder is read.
    fingerprint: of the faces' names, sizes and annotations.
    """

    source: Literal["synthetic", "celeba", "folder"]
    root: str
    layout: str
    counts: dict[Split, int]
    remarks: list[str]
    fingerprint: str
    attributes: str | None
    valid_share: float
    test_share: float
    ood_source: Literal["synthetic", "fashion_mnist"]
    ood_root: str
    ood_note: str

    @classmethod
    def load(cls, raw: Path = RAW) -> Self:
        """Read `source.json`.

        Raises:
            UserError: it is missing.
        """
        if not (raw / "source.json").is_file():
            raise UserError(f"{raw / 'source.json'} is missing: run `dvc repro download`")
        return cls(**read_json(raw / "source.json"))

    def save(self, raw: Path = RAW) -> None:
        """Write `source.json`."""
        write_json(raw / "source.json", asdict(self))

    def faces(self, raw: Path = RAW) -> Collection:
        """List the faces, as they are now.

        Raises:
            UserError: they are not as they were when source.json was written.
        """
        collection = self._read(raw / self.root)
        if collection.fingerprint != self.fingerprint:
            raise UserError(f"{raw / self.root} has changed since it was listed: run `dvc repro -f download`")
        return collection

    def ood_file(self, raw: Path = RAW) -> Path:
        """The IDX file of the other images."""
        return fashion_mnist.find(raw / self.ood_root)

    def _read(self, root: Path) -> Collection:
        return read_faces(self.source, root, self.attributes, self.valid_share, self.test_share)


def read_faces(
    source: Literal["synthetic", "celeba", "folder"],
    root: Path,
    attributes: str | None,
    valid_share: float,
    test_share: float,
) -> Collection:
    """List faces of any source."""
    if source == "folder":
        return folder.read(root, Path(attributes) if attributes else None, valid_share, test_share)
    return celeba.read(root, source)
