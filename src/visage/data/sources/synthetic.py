"""Drawn faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from visage.data.celeba_format import ATTRIBUTES

OTHER_IMAGES = "drawn_clothes"


@dataclass(frozen=True, slots=True)
class Settings:
    """`data.synthetic`."""

    images: Annotated[int, Ge(20)]
    images_per_identity: Annotated[float, Ge(1)]


def check(settings: Settings, root: str | None) -> None:
    """Nothing can be wrong."""


def attribute_names(settings: Settings) -> Sequence[str] | None:
    """The 40 of CelebA."""
    return ATTRIBUTES
