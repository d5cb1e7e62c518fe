"""Commands that give a model to others."""

from collections.abc import Callable

COMMANDS: tuple[Callable[..., None], ...] = ()
