"""What a clone of the project holds: which code and parameters, and whether trainings can start in it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from visage.files import write_text

PROJECT = ("params.yaml", "dvc.yaml", "stages", "src/visage")
"""Parameters and code, which decide what every stage does; not dvc.lock, which says what it has done."""
PREPARED = ("configs", "data/processed/train", "data/reference")
"""Folders with the small files that trainings and evaluations depend on: settings, and hashes of all that is large."""
MARKER = "data/prepared"


def digest(root: Path) -> str:
    """Hex digest of the parameters and the code. Clones with the same one train and measure the same."""
    return _digest(root, _files(root, PROJECT))


def is_prepared(root: Path) -> bool:
    """Whether all that trainings need has been made, from the parameters and the code as they are now."""
    marker = root / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == _state(root)


def note_prepared(root: Path) -> None:
    """Remember that all that trainings need has been made."""
    write_text(root / MARKER, _state(root))


def _state(root: Path) -> str:
    small = (path for path in _files(root, PREPARED) if path.suffix == ".json")
    return _digest(root, [*_files(root, PROJECT), *small])


def _files(root: Path, names: Iterable[str]) -> list[Path]:
    """The named files, and the files in the named folders, as far as they are there."""
    places = [root / name for name in names]
    found = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix != ".pyc"]


def _digest(root: Path, files: Iterable[Path]) -> str:
    lines = {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return hashlib.sha256("".join(f"{name} {lines[name]}\n" for name in sorted(lines)).encode()).hexdigest()
