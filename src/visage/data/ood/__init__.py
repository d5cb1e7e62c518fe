"""Images that are no faces: one file for each source, found by its name."""

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

from visage.errors import UserError


def names() -> list[str]:
    """The sources there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Any:
    """The module of a source."""
    return importlib.import_module(f"{__name__}.{name}")


def default_name(source: str, root: str | None) -> str:
    """What a set is called that params.yaml gives no name."""
    if find(source).TITLE or root is None:
        return source
    name = re.sub(r"[^a-z0-9]+", "_", Path(root).name.lower()).lstrip("_0123456789").rstrip("_")
    if not name:
        raise UserError(
            f"params.yaml: ood: the folder {root} has no letters from a to z in its name: give the set a name"
        )
    return name
