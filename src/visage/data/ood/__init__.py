"""Images that are no faces, which scores must tell from faces: one file for each source, found by its name.

A source is a module that defines what `OodSource` lists. params.yaml lists the sets in `ood`.
"""

import re
import sys
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from visage.data import discovery
from visage.data.collection import Files
from visage.data.request import Found, Request
from visage.errors import UserError

Images = NDArray[np.uint8] | Files
"""(N, 28, 28) uint8 grey images, (N, H, H, 3) uint8 colour images, or image files of any size."""


@runtime_checkable
class OodSource(Protocol):
    """What a module of this package defines.

    TITLE: what the images are, for the page; "" where the name of the set says it.
    """

    TITLE: str

    def check(self, root: str | None) -> None:
        """Refuse a root that cannot work, before anything runs; no file is looked at.

        root: that of the set in params.yaml.

        Raises:
            UserError: this source needs a root, or takes none.
        """
        ...

    def get(self, request: Request) -> Found:
        """Draw, find or download the images.

        Raises:
            UserError: they cannot be had.
        """
        ...

    def images(self, folder: Path) -> Images:
        """The images in the folder that `get` found, in a fixed order.

        Raises:
            UserError: something is missing or broken.
        """
        ...


def names() -> list[str]:
    """The sources there are, sorted."""
    return discovery.names(sys.modules[__name__])


def find(name: str) -> OodSource:
    """The module of a source.

    Raises:
        LookupError: there is none of this name; the message lists those that there are.
    """
    return cast(OodSource, discovery.find(sys.modules[__name__], name, OodSource))


def default_name(source: str, root: str | None) -> str:
    """What a set is called that params.yaml gives no name: as its source, or as its folder where that says more.

    Raises:
        LookupError: there is no such source.
        UserError: the folder's name has no letters from a to z.
    """
    if find(source).TITLE or root is None:
        return source
    name = re.sub(r"[^a-z0-9]+", "_", Path(root).name.lower()).lstrip("_0123456789").rstrip("_")
    if not name:
        raise UserError(f"ood: the folder {root} has no letters from a to z in its name: give the set a name")
    return name
