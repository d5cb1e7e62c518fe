"""Any folder of images as faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from visage.errors import UserError

OTHER_IMAGES = "fashion_mnist"


@dataclass(frozen=True, slots=True)
class Settings:
    """`data.folder`."""

    attributes: str | None
    valid_share: Annotated[float, Gt(0), Lt(1)]
    test_share: Annotated[float, Gt(0), Lt(1)]

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing."""
        if self.valid_share + self.test_share >= 1:
            raise ValueError("valid_share + test_share must leave images to train on (sum below 1)")


def check(settings: Settings, root: str | None) -> None:
    """The images are the user's, so there must be a root."""
    if root is None:
        raise UserError("params.yaml: data.root is empty: source folder needs it, the folder that holds the images")


def attribute_names(settings: Settings) -> Sequence[str] | None:
    """None of them, or those of a file that is read later."""
    return () if settings.attributes is None else None
