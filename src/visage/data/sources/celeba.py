"""CelebA (Liu et al., ICCV 2015): files that are there, or a download from the first mirror that has them.

Plain HTTP goes through `visage.data.download`, Google Drive through `gdown`, Kaggle through `kagglehub`.
"""

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import requests
from pydantic import Field
from tqdm import tqdm

from visage.data import celeba_files
from visage.data.celeba_format import ARCHIVE, ATTRIBUTE_FILE, ATTRIBUTES, IDENTITY_FILE, PARTITION_FILE
from visage.data.collection import Collection
from visage.data.disk import naming_a_full_disk
from visage.data.download import MirrorError, fetch, reason, wrong_checksum
from visage.data.request import Found, Request
from visage.errors import UserError
from visage.files import Strict, replacing

TITLE = "CelebA photographs"
OTHER_IMAGES = "fashion_mnist"
TOTAL = 202_599
"""Images of the whole data set."""
GOOGLE_DRIVE = {
    ARCHIVE: "0B7EVK8r0v71pZjFTYXZWM3FlRnM",
    ATTRIBUTE_FILE: "0B7EVK8r0v71pblRyaVFSWGxPY0U",
    IDENTITY_FILE: "1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS",
    PARTITION_FILE: "0B7EVK8r0v71pY0NSMzRuSXJEVkk",
}
"""Ids of the published files, as in torchvision's list. Their daily quota is often spent."""
KAGGLE = "jessicali9530/celeba-dataset"
"""The images loose and the annotations as CSV, without identities."""
HUGGING_FACE = "https://huggingface.co/datasets/Yuehao/celeba/resolve/main"
"""A copy of the published files under their published names. Others use it so; it was never tried here."""


@dataclass(frozen=True, slots=True)
class Settings(Strict):
    """`data.celeba`.

    mirrors: folders on HTTP servers that hold the four files, tried before the public mirrors.
    checksums: file name -> MD5 of each of the four files.
    """

    mirrors: tuple[str, ...]
    checksums: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]]

    def __post_init__(self) -> None:
        """Refuse a list that lacks a file, which nobody would then download, or names another one."""
        if missing := [name for name in GOOGLE_DRIVE if name not in self.checksums]:
            raise ValueError(f"checksums lacks {', '.join(missing)}: add the MD5 of each")
        if other := [name for name in self.checksums if name not in GOOGLE_DRIVE]:
            raise ValueError(f"checksums: {other[0]} is none of CelebA's files: take it out")


def check(settings: Settings, root: str | None) -> None:
    """Nothing more can be wrong; without a root, the files are downloaded."""


def attribute_names(settings: Settings) -> Sequence[str] | None:
    """The 40 of CelebA."""
    return ATTRIBUTES


def get(settings: Settings, request: Request) -> Found:
    """Find the files in the root, or download them where there is none."""
    if request.root is not None:
        return Found(request.root, str(celeba_files.find(request.root)))
    name = download_celeba(request.arriving, celeba_mirrors(settings.mirrors, settings.checksums))
    return Found(request.arriving, f"{celeba_files.find(request.arriving)}, from {name}")


def read(settings: Settings, folder: Path) -> Collection:
    """List the images that are there, all of CelebA or some of it."""
    faces = celeba_files.read(folder)
    whole = "all of CelebA" if len(faces.members) == TOTAL else "a subset"
    return replace(faces, remarks=[f"{len(faces.members):,} of {TOTAL:,} images: {whole}", *faces.remarks])


# --- mirrors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mirror:
    """fetch: fills a folder with verified files in a layout that `celeba_files.find` knows, or raises MirrorError."""

    name: str
    fetch: Callable[[Path], None]


def celeba_mirrors(base_urls: Iterable[str], checksums: Mapping[str, str]) -> list[Mirror]:
    """The ladder: the user's servers first, then Google Drive, Kaggle, Hugging Face.

    base_urls: folders on HTTP servers that hold the four files.
    checksums: the MD5 of each of the four files.
    """
    return [
        *(http_mirror(url, url, checksums) for url in base_urls),
        Mirror("Google Drive", lambda folder: _from_google_drive(folder, checksums)),
        Mirror(f"Kaggle ({KAGGLE})", _from_kaggle),
        http_mirror("Hugging Face (Yuehao/celeba)", HUGGING_FACE, checksums),
    ]


def http_mirror(name: str, base_url: str, checksums: Mapping[str, str]) -> Mirror:
    """A folder on an HTTP server that holds every file named in `checksums`."""

    def fetch_all(folder: Path) -> None:
        for file, md5 in sorted(checksums.items(), key=lambda item: item[0] == ARCHIVE):  # the small ones first
            fetch(f"{base_url.rstrip('/')}/{file}", folder / file, md5)

    return Mirror(name, fetch_all)


def download_celeba(folder: Path, mirrors: Sequence[Mirror]) -> str:
    """Fill `folder` from the first mirror that works, and give its name.

    Raises:
        UserError: none does; a line for each says why, and then what to do by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for mirror in mirrors:
        print(f"CelebA: trying {mirror.name}")
        try:
            with naming_a_full_disk(folder):
                mirror.fetch(folder)
            return mirror.name
        except MirrorError as error:
            print(f"CelebA: {mirror.name}: {error}")
            reasons.append(f"  {mirror.name}: {error}")
    files = ", ".join(GOOGLE_DRIVE)
    raise UserError(
        "\n".join(
            [
                "CelebA could not be downloaded. Tried:",
                *reasons,
                f"What arrived is kept in {folder}; run the same command later to continue.",
                "By hand: get the files from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (or any place above),",
                f"put {files}",
                "into one folder, unchanged and packed, and name that folder in params.yaml: data.root",
            ]
        )
    )


def _from_google_drive(folder: Path, checksums: Mapping[str, str]) -> None:
    import gdown
    from gdown.exceptions import DownloadError

    partial = folder / "google-drive.part"  # gdown names its partial files itself
    partial.mkdir(exist_ok=True)
    for file, file_id in sorted(GOOGLE_DRIVE.items(), key=lambda item: item[0] == ARCHIVE):
        target, arriving = folder / file, partial / file
        if target.is_file() and not wrong_checksum(target, checksums[file]):
            continue
        try:
            gdown.download(id=file_id, output=str(arriving), resume=True, timeout=60, retries=3)
        except (DownloadError, requests.RequestException) as error:
            raise MirrorError(f"{file}: {reason(error)}") from error
        if wrong := wrong_checksum(arriving, checksums[file]):
            arriving.unlink()
            raise MirrorError(f"{file}: {wrong}")
        arriving.replace(target)


def _from_kaggle(folder: Path) -> None:
    import kagglehub
    from kagglehub import exceptions

    try:
        cached = Path(kagglehub.dataset_download(KAGGLE))  # resumes, and verifies
    except (
        exceptions.BackendError,
        exceptions.CredentialError,
        exceptions.DataCorruptionError,
        exceptions.NotFoundError,
        exceptions.UnauthenticatedError,
        requests.RequestException,
    ) as error:
        raise MirrorError(reason(error)) from error
    try:
        layout = celeba_files.find(cached)
    except UserError as error:
        raise MirrorError(str(error)) from error
    images = sorted(layout.images.glob("*.jpg"))
    if len(images) != TOTAL:
        raise MirrorError(f"{layout.images} holds {len(images):,} of {TOTAL:,} images")
    for path in layout.annotations:
        with replacing(folder / path.name) as temporary:
            temporary.write_bytes(path.read_bytes())
    pack(images, folder / ARCHIVE)


def pack(images: Iterable[Path], archive: Path) -> None:
    """Put images into a zip archive without compressing them again: 200,000 files are slow to hash, copy and open."""
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as packed:
        for image in tqdm(list(images), desc=archive.name, unit="img"):
            packed.writestr(zipfile.ZipInfo(f"{archive.stem}/{image.name}"), image.read_bytes())
