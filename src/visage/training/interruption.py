"""Ctrl-C and SIGTERM end a training between two steps, never inside one."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Remembers the first signal that asked to stop, 0 before there is one."""

    def __init__(self) -> None:
        self.signal = 0

    def raise_if_asked(self) -> None:
        """Raise what the signal means: KeyboardInterrupt for Ctrl-C, SystemExit(128 + number) otherwise."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal:
            raise SystemExit(128 + self.signal)


@contextmanager
def listening() -> Iterator[Interruption]:
    """While the block runs, SIGINT and SIGTERM are noted instead of obeyed; a second one is obeyed at once.

    Not under torchrun, which repeats every signal itself, and ends after half a minute what does not obey.
    """
    interruption = Interruption()
    repeats = "TORCHELASTIC_RUN_ID" in os.environ

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.signal and not repeats:
            interruption.signal = number
            interruption.raise_if_asked()
        interruption.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
