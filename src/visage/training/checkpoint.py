"""Where an unfinished training is kept, so that any kill costs seconds and none costs the run."""

import shutil
import time
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from visage.errors import UserError
from visage.files import replacing

EVERY_SECONDS = 20.0
"""Least time between two saves."""
COST = 50.0
"""And at least this many times what the last save took: saving costs less than 2 % of the time."""


class Checkpoint:
    """A folder with one file, `checkpoint.pt`, under a lock: two trainings of one run cannot mix.

    It lives outside of what DVC manages, because DVC deletes a stage's outputs before it runs the stage. Used as a
    context manager that holds the lock.

    wait: for another process that holds the lock, instead of failing.

    Raises (on entering):
        UserError: another process trains this run.
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        self.folder = folder
        self.path = folder / "checkpoint.pt"
        self._lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=-1 if wait else 0)
        self._next = time.monotonic() + EVERY_SECONDS

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UserError(
                f"another process is training this run (it holds {self._lock.lock_file}): wait for it, or stop it"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint, whole or not at all.

        Raises:
            UserError: the disk is full or not writable.
        """
        started = time.monotonic()
        try:
            with replacing(self.path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
            raise UserError(f"cannot write {self.path} ({error}): make room on the disk, then run again") from error
        now = time.monotonic()
        self._next = now + max(EVERY_SECONDS, COST * (now - started))

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The saved state, None if there is none. Random number states stay on the CPU, where PyTorch wants them.

        Raises:
            UserError: the file cannot be read.
        """
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
            raise UserError(f"{self.path} cannot be read, it is damaged: delete it to train from the start") from error
        return state

    def remove(self) -> None:
        """Forget it: the training is finished and its outputs are in place."""
        shutil.rmtree(self.folder, ignore_errors=True)
