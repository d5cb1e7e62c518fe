"""Any folder of images."""

from visage.errors import UserError

TITLE = ""


def check(root: str | None) -> None:
    """The images are the user's, so there must be a root."""
    if root is None:
        raise UserError("params.yaml: ood: source folder needs a root, the folder that holds the images")
