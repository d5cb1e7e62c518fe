"""Images in one place, a zip archive or a folder, with what is known of each."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from numpy.typing import NDArray

from visage.data.arrays import Split
from visage.errors import UserError
from visage.files import sha256

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Member:
    """One image: its name in the archive or folder, and what changes when its content does (size, checksum)."""

    name: str
    stamp: str


@dataclass(frozen=True, slots=True)
class Collection:
    """N images and what is known of them, sorted by image_id.

    path: a zip archive or a folder; members: the N names to read in it.
    image_id: (N,) file names; split: (N,) index into SPLITS.
    attributes: (N, A) uint8 in {0, 1}; names: the A attribute names.
    identity: (N,) int32, -1 where unknown.
    factors: (N, F) float32 with factor_names, known of drawn faces only.
    aligned: the images are CelebA's 178x218, and a box of them is used; otherwise the centred square.
    remarks: what a reader of results should know.
    fingerprint: hex digest, another one when a file is added, removed or changed.
    """

    path: Path
    members: list[str]
    image_id: NDArray[np.str_]
    split: NDArray[np.uint8]
    attributes: NDArray[np.uint8]
    names: tuple[str, ...]
    identity: NDArray[np.int32]
    factors: NDArray[np.float32]
    factor_names: tuple[str, ...]
    aligned: bool
    remarks: list[str]
    fingerprint: str

    @property
    def counts(self) -> dict[Split, int]:
        """Images in each split."""
        return {name: int((self.split == i).sum()) for i, name in enumerate(SPLITS)}


def list_zip(path: Path, suffixes: Sequence[str]) -> dict[str, Member]:
    """The images of an archive by file name, folders left out.

    Raises:
        UserError: it is no zip archive, a name in it points out of it, or two images have one file name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole zip archive ({error}): get it again") from error
    found: dict[str, Member] = {}
    for entry in entries:
        # zipfile cuts a name at a NUL byte and turns backslashes on Windows only: judge what the archive says
        inside = PurePosixPath(entry.orig_filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or PureWindowsPath(entry.orig_filename).drive:
            raise UserError(f"{path}: the name {entry.orig_filename!r} points out of the archive: use another copy")
        if entry.is_dir() or inside.suffix.lower() not in suffixes or _hidden(inside):
            continue
        if inside.name in found:
            twice = f"{found[inside.name].name}, {entry.filename}"
            raise UserError(f"{path} holds {inside.name} twice ({twice}): remove one of them")
        found[inside.name] = Member(entry.filename, f"{entry.file_size}:{entry.CRC}")
    return found


def list_folder(path: Path, suffixes: Sequence[str], nested: bool = False) -> dict[str, Member]:
    """The images of a folder, and with `nested` of all folders in it, by relative name with forward slashes."""
    found = {}
    for file in path.rglob("*") if nested else path.iterdir():
        inside = PurePosixPath(file.relative_to(path).as_posix())
        if inside.suffix.lower() in suffixes and not _hidden(inside) and file.is_file():
            found[str(inside)] = Member(str(inside), str(file.stat().st_size))
    return found


def _hidden(name: PurePosixPath) -> bool:
    """Whether these are an operating system's own notes and no images of the collection."""
    return name.parts[0] == "__MACOSX" or any(part.startswith(".") for part in name.parts)


@contextmanager
def opened(path: Path) -> Iterator[Callable[[str], bytes]]:
    """Give a function that reads one member of an archive or folder; it may be called from several threads."""
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            yield archive.read


def fingerprint(members: Mapping[str, Member], files: Iterable[Path]) -> str:
    """Hex digest of all names and stamps, and of the content of the (small) annotation files."""
    digest = hashlib.sha256()
    for name in sorted(members):
        digest.update(f"{name}\0{members[name].stamp}\n".encode())
    for file in files:
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def check_splits(collection: Collection, mend: str) -> Collection:
    """Give the collection back if no split is empty.

    Raises:
        UserError: one is; the message ends with `mend`.
    """
    for name, count in collection.counts.items():
        if count == 0:
            raise UserError(f"{collection.path}: none of its {len(collection.members):,} images is in {name}: {mend}")
    return collection
