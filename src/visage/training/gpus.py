"""A GPU for each stage: whoever starts the stages, two that choose for themselves never choose the same one."""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 1.0
_held: list[FileLock] = []
"""The locks of this process; the system releases them when it ends, in whatever way."""


def take_free(uuids: Sequence[str], folder: Path | None = None) -> int:
    """Take one of the GPUs that no other stage on this machine has taken, waiting for one if need be; return its index.

    It is this process's until the process ends. A process takes one GPU; when it asks again, it is given the same one.

    uuids: of the GPUs that this process sees, in order. folder: of the locks, one for each user and machine.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"visage-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = [FileLock(folder / f"{uuid}.lock") for uuid in uuids]
    waiting = False
    while True:
        for index, lock in enumerate(locks):
            if any(lock.lock_file == held.lock_file for held in _held):
                return index
        for index, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _held.append(lock)
            return index
        if not waiting:
            print(f"waiting: other stages use all {len(locks)} GPUs (locks in {folder})", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)
