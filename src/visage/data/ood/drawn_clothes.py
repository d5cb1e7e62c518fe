"""drawn clothes."""

TITLE = "drawn clothes"


def check(root: str | None) -> None:
    """There may be a root or none."""
