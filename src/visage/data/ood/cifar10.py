"""CIFAR-10."""

TITLE = "CIFAR-10"


def check(root: str | None) -> None:
    """There may be a root or none."""
