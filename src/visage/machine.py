"""What of this machine may be used, and where its processes meet."""

import math
import os
import sys
import tempfile
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container sees the limits of its control group."""


def cores() -> int:
    """The processor cores that this process may use: those that it is bound to, or its container's share of them."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota())))


def _quota() -> float:
    """How many cores' time the control group may use, infinite where it has no limit (version 2, then version 1)."""
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (CONTROL_GROUP / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (CONTROL_GROUP / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return math.inf
    return int(quota) / int(period) if quota.isdecimal() else math.inf  # "max" or -1: no limit


def peak_memory() -> int:
    """The most memory that this process has had so far, in bytes; pages of files that it has mapped count."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def private_folder() -> Path:
    """The folder where this user's processes meet: for locks and sockets, whose paths have 103 bytes at most.

    Raises:
        OSError: it cannot be made, or belongs to somebody else.
    """
    if not hasattr(os, "getuid"):  # Windows, where the folder for temporary files is this user's already
        folder = Path(tempfile.gettempdir()) / "visage"
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"visage-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    folder.chmod(0o700)
    return folder
