"""Attributes as a person writes them."""

from visage.errors import UserError


def parse(text: str) -> dict[str, bool]:
    """Read `Smiling,-Eyeglasses` as {"Smiling": True, "Eyeglasses": False}.

    Raises:
        UserError: a name is empty, or there twice.
    """
    found: dict[str, bool] = {}
    for part in text.split(","):
        name = part.strip().lstrip("+-").strip()
        if not name:
            raise UserError(f"{text!r} names no attribute at {part!r}: write Smiling,-Eyeglasses")
        if name in found:
            raise UserError(f"{text!r} names {name} twice: name it once")
        found[name] = not part.strip().startswith("-")
    return found
