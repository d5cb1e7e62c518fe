"""Which code a stage or a run depends on: the modules of this package that it imports, directly or not."""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path

PLUMBING = frozenset(
    {
        "visage.config",
        "visage.data.card",
        "visage.errors",
        "visage.files",
        "visage.fork_server",
        "visage.machine",
        "visage.measures.table",
        "visage.metrics",
        "visage.params",
        "visage.pictures",
        "visage.redaction",
        "visage.results",
        "visage.scratch",
        "visage.stage",
        "visage.tracking",
    }
)
"""Modules and packages that carry or describe numbers and make none: editing them trains and measures nothing again."""


def run_digest(model: str, source: Path) -> str:
    """Hex digest of the code that decides what a training yields: its model's file, the loop, and all that they import.

    source: the folder that holds the package `visage`.
    """
    roots = (f"visage.models.{model}", "visage.training.loop", "visage.inference.validation")
    return hashlib.sha256(json.dumps(_digests(roots, source, PLUMBING)).encode()).hexdigest()


def stage_digests(stage: Path, source: Path, loaded: Iterable[str] = ()) -> dict[str, str]:
    """Module -> the first 16 hex digits of its SHA-256, for all that a stage imports, directly or not, but PLUMBING.

    Templates and other files beside the modules count too, under their path in `source`. The report is made of words
    about numbers, so for that stage nothing is left out.

    stage: its file. source: the folder that holds the package `visage`.
    loaded: modules that it imports by a name which it reads in its config.
    """
    without = frozenset[str]() if stage.stem == "report" else PLUMBING
    return _digests([*_imports(stage, _modules(source)), *loaded], source, without)


def first_party_imports(roots: Iterable[str], source: Path, without: frozenset[str] = frozenset()) -> set[str]:
    """The named modules of `visage` and all that they import, as dotted names, read from the source text alone.

    The packages that hold a module count, since importing it runs their `__init__.py`.

    source: the folder that holds the package `visage`. without: modules and packages that are left out, unread.
    """
    modules = _modules(source)
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        holders = list(accumulate(module.split("."), "{}.{}".format))
        if module not in seen and not without.intersection(holders):
            seen.add(module)
            waiting += [holder for holder in holders if holder in modules]
            waiting += _imports(modules[module], modules)
    return seen


def _digests(roots: Iterable[str], source: Path, without: frozenset[str]) -> dict[str, str]:
    modules = _modules(source)
    files = {module: modules[module] for module in first_party_imports(roots, source, without)}
    folders = {path.parent for path in files.values()}
    files |= {path.relative_to(source).as_posix(): path for folder in folders for path in _other_files(folder)}
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest()[:16] for name in sorted(files)}


def _modules(source: Path) -> dict[str, Path]:
    """The dotted name of each module and package of `visage` -> its file."""
    files = {path.relative_to(source): path for path in (source / "visage").rglob("*.py")}
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): path for name, path in files.items()}


def _imports(path: Path, modules: Mapping[str, Path]) -> list[str]:
    """The modules of `visage` that a file names in its imports."""
    found = []
    for module, name in _import_statements(path.read_bytes()):
        # `from visage.maths import units` imports a module, `from visage.maths.units import x` a name in one
        found += [candidate for candidate in (f"{module}.{name}", module) if candidate in modules][:1]
    return found


@cache
def _import_statements(text: bytes) -> list[tuple[str, str]]:
    """(module, name) of each import from `visage`; the name is "" where the module itself is imported."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "visage"]


def _other_files(folder: Path) -> Iterator[Path]:
    """The files in a package's folder, and in folders in it that are no packages, that are not Python."""
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").is_file():
                yield from _other_files(path)
        elif path.suffix not in {".py", ".pyc"}:
            yield path
