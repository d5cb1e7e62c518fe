"""GPUs for each stage: whoever starts the stages, two that choose for themselves never choose the same one."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from visage.machine import private_folder

POLL_SECONDS = 1.0
_held: dict[str, FileLock] = {}
"""The locks of this process, by the GPU's name; the system releases them when it ends, in whatever way."""


def take_free(uuids: Sequence[str], count: int, folder: Path | None = None) -> list[int]:
    """Take `count` GPUs that no other stage on this machine has, waiting for them if need be; return their places.

    They are this process's until it ends; when it asks again, it is given the same ones.

    uuids: of the GPUs that this process sees, in order, at least `count`. folder: of the locks, one for each user.
    """
    folder = folder or private_folder()
    waiting = False
    while len(_held) < count:
        free = _locked(uuids, count, folder)
        if len(free) == count:
            _held.update(free)
            break
        for lock in free.values():  # another stage may wait for these, and this one for its
            lock.release()
        if not waiting:
            print(f"waiting for {count} of {len(uuids)} GPUs, which other stages use", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(POLL_SECONDS)
    return [place for place, uuid in enumerate(uuids) if uuid in _held]


def _locked(uuids: Sequence[str], most: int, folder: Path) -> dict[str, FileLock]:
    """The locks of the first GPUs that are free, no more than `most`, acquired."""
    found: dict[str, FileLock] = {}
    for uuid in uuids:
        lock = FileLock(folder / f"{uuid}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        found[uuid] = lock
        if len(found) == most:
            break
    return found
