"""What to say when the disk is full."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visage.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk, or a spent quota, into a UserError that names what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"{path}: no space left on the disk: free some, or move the project, and run again") from error
