"""What a source of images is asked for, and what it answers."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Request:
    """Where a source may look for files, and where it may put some.

    root: the folder that params.yaml names, absolute; None where it names none.
    target: a folder for images that are drawn; it does not exist yet.
    arriving: a folder for downloads, kept until they are complete; it may hold those of an earlier attempt.
    seed: of whatever is drawn.
    """

    root: Path | None
    target: Path
    arriving: Path
    seed: int


@dataclass(frozen=True, slots=True)
class Found:
    """Where the images are: `Request.root`, `Request.target` or `Request.arriving`.

    note: how they came there, for readers of the page.
    """

    folder: Path
    note: str
