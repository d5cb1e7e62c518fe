"""Any folder of images, cut to their centred square."""

from pathlib import Path

from visage.data.collection import Files, find_images, fingerprint
from visage.data.request import Found, Request
from visage.errors import UserError

TITLE = ""
NEEDS_ROOT = "params.yaml: ood: source folder needs a root, the folder that holds the images"


def check(root: str | None) -> None:
    """The images are the user's, so there must be a root."""
    if root is None:
        raise UserError(NEEDS_ROOT)


def get(request: Request) -> Found:
    """The images stay where they are."""
    if request.root is None:
        raise UserError(NEEDS_ROOT)
    return Found(request.root, "a folder of images, cut to their centred square")


def images(folder: Path) -> Files:
    """The images in the folder and in all folders below it."""
    members = find_images(folder, "ood")
    return Files(folder, sorted(members), aligned=False, fingerprint=fingerprint(members, []))
