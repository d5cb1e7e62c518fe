"""SVHN."""

TITLE = "SVHN"


def check(root: str | None) -> None:
    """There may be a root or none."""
