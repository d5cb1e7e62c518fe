"""Writing so that a crash leaves either the old file or the new one, and reading that checks what it reads."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psutil
from pydantic import ConfigDict, TypeAdapter, ValidationError

from visage.errors import UserError

T = TypeVar("T")


class Strict:
    """Base of the dataclasses stored as JSON: `read_typed` refuses unknown keys, other types, NaN and infinity."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it takes `path`'s name, otherwise it is removed.

    The temporary name keeps the suffix (matplotlib and numpy choose a format by it). What a killed process has left of
    an earlier attempt is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
        owner = abandoned.name.removeprefix(f".{path.stem}.").partition(".")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            abandoned.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as f:  # Windows syncs only what may be written
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline, whole or not at all. NaN and infinity are refused: JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_typed(path: Path, kind: type[T], fix: str) -> T:
    """Read a JSON file that `write_json` wrote from a dataclass (derived from `Strict`).

    fix: what the user can do about a file that is missing or damaged, for the error.

    Raises:
        UserError: the file is missing, is not JSON, or holds something else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {fix}") from error
    try:
        value: T = _adapter(kind).validate_json(content)  # type: ignore[arg-type]  # types are hashable
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise UserError(f"{path}: {f'{place}: ' * bool(place)}{message}: {fix}") from error
    return value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def expanded(name: str) -> Path:
    """A path that a user wrote, where `~` at its beginning is a home folder.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name}: there is no such user: write the path without ~") from error


def project_path(name: str) -> Path:
    """Where a path in params.yaml leads: a relative one starts at the project's root, also in DVC's temporary copies.

    Raises:
        UserError: it begins with `~` and a name that no user has.
    """
    return Path(os.environ.get("DVC_ROOT", ".")) / expanded(name)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; when the block ends well it takes its place, else it is removed.

    So is what a killed process has left there: whoever writes a folder is alone in that, by DVC's locks or our own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
