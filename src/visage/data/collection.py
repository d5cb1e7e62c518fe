"""Images in one place, a zip archive or a folder, with what is known of each."""

import hashlib
import os
import zipfile
from collections import deque
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
LEAST_IMAGES = 6
"""Images of each split without which there is nothing to measure: coverage needs five neighbours of every test face."""
IMAGES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes of the files that count as images."""
SYSTEM = {"__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir"}
"""Folders that systems keep for themselves; those whose names begin with a dot are known by that."""
MOST_BYTES = 2**29
"""Of an image file, unpacked: more than the largest image that Pillow opens takes without compression."""


@dataclass(frozen=True, slots=True)
class Member:
    """One image: its name in the archive or folder, and what changes when its content does (size, checksum)."""

    name: str
    stamp: str


@dataclass(frozen=True, slots=True)
class Files:
    """N image files.

    path: a zip archive or a folder; members: the N names to read in it.
    aligned: the images are CelebA's 178x218, and a box of them is used; otherwise the centred square.
    fingerprint: hex digest, another one when a file is added, removed or changed.
    """

    path: Path
    members: list[str]
    aligned: bool
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Collection(Files):
    """N faces and what is known of each, sorted by image_id.

    image_id: (N,) file names; split: (N,) index into SPLITS.
    attributes: (N, A) uint8 in {0, 1}; names: the A attribute names.
    identity: (N,) int32, -1 where unknown.
    factors: (N, F) float32 with factor_names, known of drawn faces only.
    remarks: what a reader of results should know.
    """

    image_id: NDArray[np.str_]
    split: NDArray[np.uint8]
    attributes: NDArray[np.uint8]
    names: tuple[str, ...]
    identity: NDArray[np.int32]
    factors: NDArray[np.float32]
    factor_names: tuple[str, ...]
    remarks: list[str]

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
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a whole zip archive ({error}): copy or download it again") from error
    found: dict[str, Member] = {}
    for member in members:
        # zipfile cuts a name at a NUL byte and turns backslashes on Windows only: judge what the archive says
        inside = PurePosixPath(member.orig_filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or PureWindowsPath(member.orig_filename).drive:
            raise UserError(f"{path}: the name {member.orig_filename!r} points out of the archive: use another copy")
        if member.is_dir() or inside.suffix.lower() not in suffixes or hidden(inside):
            continue
        if inside.name in found:
            twice = f"{found[inside.name].name}, {member.filename}"
            raise UserError(f"{path} holds {inside.name} twice ({twice}): remove one of them")
        found[inside.name] = Member(member.filename, f"{member.file_size}:{member.CRC}")
    return found


def list_folder(path: Path, suffixes: Sequence[str], nested: bool = False) -> dict[str, Member]:
    """The images of a folder, and with `nested` of all folders in it, by relative name with forward slashes.

    Symbolic links to folders are followed. No folder is read twice, so links that lead back to where they are end.

    Raises:
        UserError: a folder cannot be read, or a name is not valid UTF-8.
    """
    found = {}
    for inside, file in _walk(path, nested):
        if inside.suffix.lower() in suffixes and file.is_file():
            found[_checked(str(inside), path)] = Member(str(inside), str(file.stat().st_size))
    return found


def _walk(root: Path, nested: bool) -> Iterator[tuple[PurePosixPath, os.DirEntry[str] | Path]]:
    """What is in a folder, and with `nested` in those below; links come last, so that files keep their real names."""
    waiting, seen = deque([PurePosixPath()]), set()
    while waiting:
        folder = waiting.popleft()
        real = (root / folder).resolve()
        if real in seen:
            continue
        seen.add(real)
        with naming_what_cannot_be_read(root / folder), os.scandir(root / folder) as listed:
            for found in sorted(listed, key=lambda found: found.name):
                inside = folder / found.name
                if hidden(inside):
                    continue
                file = Path(found.path) if found.is_symlink() else found  # a Path calls a broken link no file
                if not file.is_dir():
                    yield inside, file
                elif nested and found.is_symlink():
                    waiting.append(inside)
                elif nested:
                    waiting.appendleft(inside)


@contextmanager
def naming_what_cannot_be_read(folder: Path) -> Iterator[None]:
    """Turn a folder that cannot be listed into a UserError."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"{folder} cannot be read: give yourself the permission, or move it away") from error


def _checked(name: str, folder: Path) -> str:
    """The name of an image, if it is text."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{folder}: the file name {name!r} is not valid UTF-8: rename the file") from error
    return name


def find_images(root: Path, key: str) -> dict[str, Member]:
    """The images of a user's folder and of all folders in it, by relative name with forward slashes.

    key: where params.yaml names the folder, for the errors.

    Raises:
        UserError: there is no such folder, it cannot be read, or there is no image in it.
    """
    if not root.is_dir():
        raise UserError(f"{key}: {root} is not a folder: name the one that holds the images")
    members = list_folder(root, IMAGES, nested=True)
    if not members:
        raise UserError(f"{key}: {root} holds no image ({', '.join(IMAGES)}): name the folder that holds them")
    return members


def hidden(name: PurePosixPath) -> bool:
    """Whether this is a file that an operating system or an editor keeps for itself, and no image of the collection."""
    return any(part.startswith(".") or part in SYSTEM for part in name.parts)


@contextmanager
def opened(path: Path) -> Iterator[Callable[[str], bytes]]:
    """Give a function that reads one member of an archive or folder; it may be called from several threads.

    The function raises ValueError where a member is larger than `MOST_BYTES`, before it reads it.
    """
    if path.is_dir():

        def read(name: str) -> bytes:
            _refuse_too_large((path / name).stat().st_size)
            return (path / name).read_bytes()

        yield read
    else:
        with zipfile.ZipFile(path) as archive:

            def unpack(name: str) -> bytes:
                _refuse_too_large(archive.getinfo(name).file_size)  # of which zipfile gives no more
                return archive.read(name)

            yield unpack


def _refuse_too_large(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes are too many for an image")


def split_by_hash(name: str, valid_share: float, test_share: float) -> int:
    """Index into SPLITS, decided by a name alone: its SHA-256, read as a number in [0, 1)."""
    position = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if position < test_share:
        return SPLITS.index("test")
    return SPLITS.index("valid" if position < test_share + valid_share else "train")


def fingerprint(members: Mapping[str, Member], files: Iterable[Path]) -> str:
    """Hex digest of all names and stamps, and of the content of the (small) annotation files."""
    digest = hashlib.sha256()
    for name in sorted(members):
        digest.update(f"{name}\0{members[name].stamp}\n".encode())
    for file in files:
        digest.update(f"{file.name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def check_splits(collection: Collection, fix: str) -> Collection:
    """Give the collection back if every split has `LEAST_IMAGES`.

    Raises:
        UserError: one has fewer; the message ends with `fix`.
    """
    for name, count in collection.counts.items():
        if count < LEAST_IMAGES:
            raise UserError(
                f"{collection.path}: {count or 'none'} of its {len(collection.members):,} images "
                f"{'are' if count > 1 else 'is'} in {name}, where {LEAST_IMAGES} are needed: {fix}"
            )
    return collection
