"""CelebA."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from visage.data.celeba_format import ATTRIBUTES

OTHER_IMAGES = "fashion_mnist"


@dataclass(frozen=True, slots=True)
class Settings:
    """`data.celeba`."""

    mirrors: tuple[str, ...]
    checksums: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]]


def check(settings: Settings, root: str | None) -> None:
    """Nothing can be wrong."""


def attribute_names(settings: Settings) -> Sequence[str] | None:
    """The 40 of CelebA."""
    return ATTRIBUTES
