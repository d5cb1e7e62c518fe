"""Where an unfinished training is kept, so that any kill costs seconds and none costs the run."""

import shutil
import time
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from visage.errors import UserError
from visage.files import replacing

EVERY_SECONDS = 20.0
"""Least time between two saves."""
KEYS = {"training", "log"}
"""What a checkpoint holds."""
COST = 50.0
"""And at least this many times what the last save took: saving costs less than 2 % of the time."""


class Checkpoint:
    """A folder with the state of one training, under a lock: two trainings of one run take turns.

    It lives outside of what DVC manages, because DVC deletes a stage's outputs before it runs the stage. While the
    training goes on the folder holds `checkpoint.pt`; when it has ended, its outputs in `finished`, until DVC has
    recorded those in their own place. Used as a context manager that holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "checkpoint.pt"
        self.finished = folder / "finished"
        self._lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        self._next = time.monotonic() + EVERY_SECONDS

    def __enter__(self) -> Self:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            tqdm.write(f"waiting for another process that trains this run (it holds {self._lock.lock_file})")
            self._lock.acquire()
        self.folder.mkdir(exist_ok=True)
        for abandoned in self.folder.glob(".checkpoint.*.tmp.pt"):  # by a process that was killed while it saved
            abandoned.unlink()
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
            UserError: the file cannot be read, has changed since it was written, or is no checkpoint.
        """
        if not self.path.is_file():
            return None
        fix = "delete it to train from the start"
        try:
            with zipfile.ZipFile(self.path) as parts:
                damaged = parts.testzip()  # the checksums that PyTorch writes, and does not look at
            if damaged is not None:
                raise UserError(f"{self.path} is damaged, its part {damaged} is not as it was written: {fix}")
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} cannot be read, it is damaged: {fix}") from error
        if not isinstance(state, dict) or state.keys() != KEYS:
            raise UserError(f"{self.path} is no checkpoint of a training: {fix}")
        return state

    def forget_progress(self) -> None:
        """Delete all but what has been finished."""
        for path in self.folder.iterdir():
            if path.is_dir() and path != self.finished:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                path.unlink()

    def remove(self) -> None:
        """Delete the folder: the outputs are in their own place, and DVC knows them."""
        shutil.rmtree(self.folder, ignore_errors=True)
