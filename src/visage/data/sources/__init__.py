"""Where faces come from: one file for each source, found by its name.

A source is a module that defines what `Source` lists. Its settings are `data.<name>` in params.yaml.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from visage.data import discovery
from visage.data.collection import Collection
from visage.data.request import Found, Request
from visage.errors import UserError


@runtime_checkable
class Source(Protocol):
    """What a module of this package defines.

    TITLE: what the faces are, for the page.
    OTHER_IMAGES: the file under visage/data/ood that `source: auto` in `ood` of params.yaml means beside these faces.
    Settings: a frozen dataclass, derived from `visage.files.Strict`; every field is a key of params.yaml.
    """

    TITLE: str
    OTHER_IMAGES: str
    Settings: type

    def check(self, settings: Any, root: str | None) -> None:
        """Refuse what cannot work, before anything runs; no file is looked at.

        root: `data.root` of params.yaml.

        Raises:
            UserError: the settings or the root do not suit this source.
        """
        ...

    def attribute_names(self, settings: Any) -> Sequence[str] | None:
        """The attributes that every face will have; None where only the files tell."""
        ...

    def get(self, settings: Any, request: Request) -> Found:
        """Draw, find or download the faces.

        Raises:
            UserError: they cannot be had.
        """
        ...

    def read(self, settings: Any, folder: Path) -> Collection:
        """List the faces in the folder that `get` found.

        Raises:
            UserError: something is missing or broken, or a split has too few images.
        """
        ...


def names() -> list[str]:
    """The sources there are, sorted."""
    return discovery.names(sys.modules[__name__])


def find(name: str) -> Source:
    """The module of a source.

    Raises:
        LookupError: there is none of this name; the message lists those that there are.
    """
    return cast(Source, discovery.find(sys.modules[__name__], name, Source))


def settings_type(name: str) -> type:
    """The dataclass of a source's settings.

    Raises:
        LookupError: there is no such source.
    """
    return find(name).Settings


def settings(name: str, values: Mapping[str, Any]) -> Any:
    """Build a source's settings from what JSON or YAML holds.

    Raises:
        LookupError: there is no such source.
        UserError: a value is missing, unknown or out of its range.
    """
    try:
        return TypeAdapter(settings_type(name)).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]))
        raise UserError(f"data.{place}: {first['msg'].removeprefix('Value error, ')}: correct params.yaml") from error
