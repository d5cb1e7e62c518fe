"""How commands speak: tables on a terminal, plain text in a pipe, JSON for scripts."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visage.errors import UserError


def say(text: str) -> None:
    """A line for people, on standard error: standard output is for results."""
    print(text, file=sys.stderr)


def wrote(path: Path, what: str = "") -> None:
    """Say what was written; the path alone goes to standard output, where a script reads it."""
    if what and sys.stdout.isatty():
        print(f"{path}  ({what})")
    else:
        print(path)


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: lines and colours on a terminal, columns apart by tabs in a pipe."""
    if not sys.stdout.isatty():
        for row in (head, *rows):
            print("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*head, box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)


def suffix(path: Path, allowed: Sequence[str]) -> str:
    """The file's suffix in lower case.

    Raises:
        UserError: it is none of those that can be written.
    """
    found = path.suffix.lower()
    if found not in allowed:
        raise UserError(f"{path}: {found or 'a file without a suffix'} cannot be written: use {', '.join(allowed)}")
    return found
