"""Reads params.yaml."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from visage.errors import UserError
from visage.params.checking import check
from visage.params.sections import Params


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing, is no YAML, or a key or value in it is wrong.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run from the project's root")
    try:
        raw = YAML(typ="safe").load(path)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path.name}, line {line}: {error.problem}") from error
    return check(Params, raw, where=path.name)
