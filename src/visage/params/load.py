"""Reads params.yaml."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from visage.errors import UserError
from visage.params.checking import check
from visage.params.sections import Params


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing, is no YAML, or a key or value in it is wrong: infinite numbers are so anywhere.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run from the project's root")
    try:
        raw = YAML(typ="safe").load(path)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path.name}, line {line}: {error.problem}") from error
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is no YAML in UTF-8: {' '.join(str(error).split())[:200]}") from error
    if wrong := list(_infinite(raw)):
        raise UserError("\n".join(f"{path.name}: {key}: {value} is no number to compute with" for key, value in wrong))
    return check(Params, raw, where=path.name)


def _infinite(raw: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The dotted keys, and the values, of all numbers that are infinite or NaN."""
    if isinstance(raw, float) and not math.isfinite(raw):
        yield key, raw
    elif isinstance(raw, dict | list):
        for name, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            yield from _infinite(value, f"{key}.{name}".lstrip("."))
