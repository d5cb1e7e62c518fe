"""Where faces come from: one file for each source, found by its name."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any, Protocol, cast


class Source(Protocol):
    """What a module of this package defines."""

    OTHER_IMAGES: str
    Settings: type

    def check(self, settings: Any, root: str | None) -> None:
        """Refuse what cannot work."""
        ...

    def attribute_names(self, settings: Any) -> Sequence[str] | None:
        """The attributes that every face will have; None where only the files tell."""
        ...


def names() -> list[str]:
    """The sources there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Source:
    """The module of a source."""
    return cast(Source, importlib.import_module(f"{__name__}.{name}"))


def settings_type(name: str) -> type:
    """The dataclass of a source's settings."""
    return find(name).Settings
