"""CelebA from the first mirror that has it: every file verified, every transfer resumable.

Partial files stay in the scratch folder between runs; nothing reaches its final place before its checksum is right.
Plain HTTP goes through `requests`, Google Drive through `gdown`, Kaggle through `kagglehub`.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from visage.data import celeba
from visage.data.celeba_format import ARCHIVE, ATTRIBUTE_FILE, IDENTITY_FILE, PARTITION_FILE
from visage.data.disk import naming_a_full_disk
from visage.errors import UserError
from visage.files import replacing

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
"""A copy of the published files under their own names. Others use it so; it was not tried from here."""

CHUNK = 1 << 14
"""Bytes that a broken connection may lose: small, so that a bad line makes progress between breaks."""
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be different in a moment."""


class MirrorError(Exception):
    """This mirror cannot give the file; the message says why. The next one may."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """fetch: fills a folder with verified files in a layout that `celeba.find` knows, or raises MirrorError."""

    name: str
    fetch: Callable[[Path], None]


def celeba_mirrors(base_urls: Iterable[str], checksums: Mapping[str, str]) -> list[Mirror]:
    """The ladder: your own servers first, then Google Drive, Kaggle, Hugging Face.

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


# --- plain HTTP -------------------------------------------------------------------------------------------------------


def fetch(url: str, target: Path, md5: str | None, timeout: float = 30, attempts: int = 4) -> None:
    """Download one file to `target`, continuing `<target>.part` where a former attempt ended.

    timeout: seconds to wait for a connection, and for the next bytes.
    attempts: how often in a row to try without receiving anything.

    Raises:
        MirrorError: the server lacks the file, sends a web page instead or never all of it, or its checksum is wrong.
    """
    if target.is_file() and not _wrong(target, md5):
        return
    part = target.with_name(f"{target.name}.part")
    resumed = part.is_file()
    _receive(url, part, timeout, attempts)
    if resumed and _wrong(part, md5):  # the older part may have come from elsewhere
        part.unlink()
        _receive(url, part, timeout, attempts)
    if wrong := _wrong(part, md5):
        part.unlink()
        raise MirrorError(f"{url}: {wrong}")
    part.replace(target)


def _receive(url: str, part: Path, timeout: float, attempts: int) -> None:
    """Append to `part` until it is whole."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _receive_once(url, part, timeout)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            failures = failures + 1 if _size(part) <= before else 0
            if failures == attempts:
                raise MirrorError(f"{url}: {_size(part):,} bytes arrived, then: {_reason(error)}") from error
            time.sleep(min(timeout, 0.1 * 2**failures))
        except requests.RequestException as error:
            raise MirrorError(f"{url}: {_reason(error)}") from error


def _receive_once(url: str, part: Path, timeout: float) -> None:
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:  # nothing is left to send
            if response.headers.get("Content-Range") == f"bytes */{start}":
                return
            part.unlink()
            raise requests.ConnectionError("the part on disk is longer than the file; starting again")
        if response.status_code in TRANSIENT:
            raise requests.ConnectionError(f"{response.status_code} {response.reason}")
        if not response.ok:
            raise MirrorError(f"{url}: {response.status_code} {response.reason}")
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # the server sends the whole file again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = tqdm(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True)
        with bar, part.open("ab" if start else "wb") as f:
            for chunk in response.iter_content(CHUNK):
                if f.tell() == 0 and _is_web_page(chunk):
                    raise MirrorError(f"{url} sent a web page instead of the file: a spent quota, or a page to sign in")
                f.write(chunk)
                bar.update(len(chunk))


def _wrong(path: Path, md5: str | None) -> str:
    """What is wrong with a file's checksum, "" if nothing is."""
    got = _md5(path)
    return "" if md5 in (None, got) else f"checksum {got}, expected {md5}"


def _is_web_page(beginning: bytes) -> bool:
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


def _reason(error: Exception) -> str:
    """The innermost of an exception that often wraps three others, in one line."""
    return " ".join(str(error).split()).rpartition("Caused by ")[2][:200] or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# --- the others -------------------------------------------------------------------------------------------------------


def _from_google_drive(folder: Path, checksums: Mapping[str, str]) -> None:
    import gdown
    from gdown.exceptions import DownloadError

    partial = folder / "google-drive"  # gdown names its partial files itself
    partial.mkdir(exist_ok=True)
    for file, file_id in sorted(GOOGLE_DRIVE.items(), key=lambda item: item[0] == ARCHIVE):
        target, arriving = folder / file, partial / file
        if target.is_file() and not _wrong(target, checksums[file]):
            continue
        try:
            gdown.download(id=file_id, output=str(arriving), resume=True, timeout=60, retries=3)
        except (DownloadError, requests.RequestException) as error:
            raise MirrorError(f"{file}: {_reason(error)}") from error
        if wrong := _wrong(arriving, checksums[file]):
            arriving.unlink()
            raise MirrorError(f"{file}: {wrong}")
        arriving.replace(target)


def _from_kaggle(folder: Path) -> None:
    import kagglehub
    from kagglehub import exceptions

    try:
        cached = Path(kagglehub.dataset_download(KAGGLE))  # resumes, and checks its own checksums
    except (
        exceptions.BackendError,
        exceptions.CredentialError,
        exceptions.DataCorruptionError,
        exceptions.NotFoundError,
        exceptions.UnauthenticatedError,
        requests.RequestException,
    ) as error:
        raise MirrorError(_reason(error)) from error
    try:
        layout = celeba.find(cached)
    except UserError as error:
        raise MirrorError(str(error)) from error
    images = sorted(layout.images.glob("*.jpg"))
    if len(images) != celeba.TOTAL:
        raise MirrorError(f"{layout.images} holds {len(images):,} of {celeba.TOTAL:,} images")
    for path in layout.annotations:
        with replacing(folder / path.name) as temporary:
            temporary.write_bytes(path.read_bytes())
    pack(images, folder / ARCHIVE)


def pack(images: Iterable[Path], archive: Path) -> None:
    """Put images into a zip archive without compressing them again: 200,000 files are slow to hash, copy and open."""
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as packed:
        for image in tqdm(list(images), desc=archive.name, unit="img"):
            packed.writestr(zipfile.ZipInfo(f"{archive.stem}/{image.name}"), image.read_bytes())


def scratch_folder() -> Path:
    """Where partial downloads live: outside every folder that DVC empties before a stage."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch" / "downloads"
