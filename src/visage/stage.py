"""What every stage shares: how it ends when the user can fix what went wrong."""

import errno
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from visage.errors import UserError
from visage.fork_server import Kind, run_forked
from visage.machine import peak_memory
from visage.redaction import redact_streams

EXPECTED = (UserError, MemoryError, OSError, RuntimeError, SafetensorError)
"""As what arrives that a user can do something about; which of these it is, `_line` says."""
ROOM = "free some space, or move the project, and run again"
WRITABLE = "make it readable and writable for this account, or move the project, and run again"
FIXES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EROFS: WRITABLE,
    errno.EACCES: WRITABLE,
    errno.EPERM: WRITABLE,
    errno.EMFILE: "allow more open files with `ulimit -n 1024`, and run again",
    errno.ENFILE: "end other programs, and run again",
}
"""What helps against the refusals of an operating system that are not the project's fault."""


def run_stage(main: Callable[[], None], *, fork: Kind | None = None, cost: Path | None = None) -> None:
    """Call `main`; a UserError, or Ctrl-C, becomes a line on stderr and an exit status, without a traceback.

    Set VISAGE_TRACEBACK=1 to see the traceback.

    fork: leave the call to a fork of the server for stages of this kind (`visage.fork_server`) where there is one; what
        takes long to import is imported by `main`, so that this process does not import it.
    cost: where to write what the stage took, a file of its own, because no two are the same.
    """
    redact_streams()
    try:
        if fork is not None:
            run_forked(fork)
        began = time.monotonic()
        main()
        if cost is not None:
            _write_cost(cost, time.monotonic() - began)
    except EXPECTED as error:
        line = _line(error)
        if os.environ.get("VISAGE_TRACEBACK") == "1" or not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: what was done is kept; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def _write_cost(path: Path, seconds: float) -> None:
    from visage.results import StageCost, write  # brings NumPy, which whoever starts a stage in a fork does without

    torch = sys.modules.get("torch")  # a stage that did without it has used no GPU
    on_gpu = torch is not None and torch.cuda.is_initialized()
    cost = StageCost(
        seconds=round(seconds, 1),
        peak_memory_mb=round(peak_memory() / 2**20),
        peak_gpu_memory_mb=round(torch.cuda.max_memory_allocated() / 2**20) if torch and on_gpu else None,
    )
    write(path, cost)


def _line(error: Exception) -> str:
    """What the user is told of an error that the user can do something about, "" of any other."""
    if isinstance(error, UserError):
        return str(error)
    if _out_of_memory(error):
        return _memory_line(error)
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename} is missing: `dvc repro`, in the project's root, makes what a stage needs"
    if isinstance(error, OSError) and error.errno in FIXES:
        return f"{error}: {FIXES[error.errno]}"
    if f"os error {errno.ENOSPC}" in str(error) or os.strerror(errno.ENOSPC) in str(error):  # as safetensors says it
        return f"{' '.join(str(error).split())}: {ROOM}"
    return ""


def _out_of_memory(error: BaseException) -> bool:
    """Whether this is Python's, PyTorch's or CUDA's way to say so; PyTorch is not imported for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def _memory_line(error: BaseException) -> str:
    """What was asked for, and which parameter asks for less."""
    told = re.search(r"(T|t)ried to allocate [\d.]+ \w+|Unable to allocate [\d.]+ \w+", " ".join(str(error).split()))
    asked = f" ({told[0]})" if told else ""
    training = "train.batch_size (of one recipe: recipes.<recipe>.train.batch_size)"
    fix = {
        "train": f"lower {training}, or the model's width",
        "evaluate": "lower evaluate.quality_samples or evaluate.images",
        "reference": "lower evaluate.images or data.limit",
        "attribute_network": "lower attribute_network.batch_size",
    }.get(Path(sys.argv[0]).stem, "give it more")
    return f"out of memory{asked}: {fix}, run fewer stages at once (make repro JOBS=1), or free some memory"
