"""Files over plain HTTP: every one verified, every transfer resumable.

Partial files stay in the scratch folder between runs; nothing reaches its final name before its checksum is right.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import requests
from tqdm import tqdm

from visage.errors import UserError

CHUNK = 1 << 14
"""Bytes that a broken connection may lose: small, so that a bad line makes progress between breaks."""
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be different in a moment."""


class MirrorError(Exception):
    """This server cannot give the file; the message says why. Another one may."""


def fetch(url: str, target: Path, md5: str, timeout: float = 30, attempts: int = 4) -> None:
    """Download one file to `target`, continuing `<target>.part` where a former attempt ended.

    timeout: seconds to wait for a connection, and for the next bytes.
    attempts: how often in a row to try without receiving anything.

    Raises:
        MirrorError: the server lacks the file, sends a web page instead or never all of it, or its checksum is wrong.
    """
    if target.is_file() and not wrong_checksum(target, md5):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    resumed = part.is_file()
    _receive(url, part, timeout, attempts)
    if resumed and wrong_checksum(part, md5):  # the older part may have come from elsewhere
        part.unlink()
        _receive(url, part, timeout, attempts)
    if wrong := wrong_checksum(part, md5):
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
                raise MirrorError(f"{url}: {_size(part):,} bytes arrived, then: {reason(error)}") from error
            time.sleep(min(timeout, 0.1 * 2**failures))
        except requests.RequestException as error:
            raise MirrorError(f"{url}: {reason(error)}") from error


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


def wrong_checksum(path: Path, md5: str) -> str:
    """What is wrong with a file's MD5, "" if nothing is."""
    got = _md5(path)
    return "" if got == md5 else f"checksum {got}, expected {md5}"


def _is_web_page(beginning: bytes) -> bool:
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))


def reason(error: Exception) -> str:
    """The message of the innermost of an exception that often wraps three others, in one line."""
    return " ".join(str(error).split()).rpartition("Caused by ")[2][:200] or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch_set(title: str, urls: Iterable[str], target: Path, md5: str) -> None:
    """Download the file of a set of other images from the first of several addresses that works.

    Raises:
        UserError: none does; the message gives every reason, and says what to do by hand.
    """
    reasons = []
    for url in urls:
        try:
            return fetch(url, target, md5)
        except MirrorError as error:
            reasons.append(str(error))
    raise UserError(
        f"{title} could not be downloaded ({'; '.join(reasons)}): put {target.name} into a folder "
        "and name that folder as the set's root, in `ood` of params.yaml"
    )


def scratch_folder() -> Path:
    """Where partial downloads live: outside every folder that DVC empties before a stage."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch" / "downloads"
