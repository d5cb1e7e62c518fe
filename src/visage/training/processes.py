"""The processes of one training: the stage's own, which is the first rank, and those that it starts beside it."""

import atexit
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import IO

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from visage.errors import UserError

STARTED = "VISAGE_RANK"
"""The variable that tells a process which rank the first one has started it as: `<index>/<count>/<port>`."""
PATIENCE = timedelta(days=30)
"""How long a rank waits for another: as long as the first one may validate, or wait for a first stage. One that has
ended is noticed at once."""
GRACE_SECONDS = 20.0
"""How long a rank may take to end after the others. As a rule it fails at their next exchange, or is done anyway."""


def refuse_devices(devices: int, device: torch.device) -> None:
    """Refuse more ranks than there are GPUs.

    Raises:
        UserError: there are more.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, devices)
    there = there if ":" not in str(device) else 1  # runtime.device names one
    if devices > there:
        raise UserError(
            f"params.yaml: runtime.devices is {devices}, but PyTorch finds {there} of type {device.type} here: "
            f"set it to {there}"
        )


def place_on_host() -> int | None:
    """Which rank of those on this host this process has been started as, and by that, on which GPU; None: as none."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["LOCAL_RANK"])
    return int(os.environ[STARTED].split("/")[0]) if STARTED in os.environ else None


@contextmanager
def together(devices: int, device: torch.device) -> Iterator[None]:
    """Run the block as one of `devices` ranks, each on a GPU of its own or on its share of the processor's threads.

    This process becomes the first rank. It starts the others, which run the command of this process up to this very
    block and are silent; if one of them fails, this one ends too, and says why. What torchrun has started, on one host
    or several, becomes the ranks that torchrun says, whatever `devices` is.

    Raises:
        UserError: there are not so many devices, or another rank has failed.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        index, count, here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        with _joined(device, here, None, index, count):
            yield
    elif STARTED in os.environ:
        index, count, port = map(int, os.environ[STARTED].split("/"))
        threading.Thread(target=_end_with_the_first, daemon=True).start()
        with _joined(device, count, _store(count, port), index, count):
            yield
    elif devices > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")  # all on this host
        store = _store(devices)
        with _others(devices, store.port), _joined(device, devices, store, 0, devices):
            yield
    else:
        yield


def _store(count: int, port: int = 0) -> TCPStore:
    """Where the ranks of this host find each other; without a port, the first rank opens one."""
    return TCPStore("127.0.0.1", port, count, is_master=not port, wait_for_workers=False)


@contextmanager
def _joined(device: torch.device, neighbours: int, store: Store | None, index: int, count: int) -> Iterator[None]:
    """Be rank `index` of `count`, of which `neighbours` are on this host. store: None = torchrun's."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=index, world_size=count)
    try:
        yield
    except BaseException as error:
        # gloo's threads may still ask for the interpreter while it ends, which aborts the process: leave before that
        atexit.register(_leave, _status(error))
        raise
    dist.destroy_process_group()  # not after an error: it would wait for ranks that are gone


def _status(error: BaseException) -> int:
    """The exit status of a process that an error ends, as `run_stage` has it."""
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(status: int) -> None:
    """End this process, with all that it has said written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def _others(count: int, port: int) -> Iterator[None]:
    """While the block runs, so do ranks 1 to `count` - 1; they hold nothing that could be lost when they are ended."""
    others = [_Other(index, count, port) for index in range(1, count)]
    finished = threading.Event()
    threading.Thread(target=_watch, args=(others, finished), daemon=True).start()
    try:
        yield
        finished.set()
        for other in others:
            other.leave()
    except RuntimeError as error:  # as an exchange with a rank that is gone raises it
        finished.wait(1.0)  # until that rank is seen to have ended
        if reasons := [other.failure() for other in others if other.failure()]:
            raise UserError(reasons[0]) from error
        raise
    finally:
        finished.set()
        for other in others:
            other.end()


class _Other:
    """A rank that this process has started: the same command, in a session of its own that Ctrl-C does not reach."""

    def __init__(self, index: int, count: int, port: int) -> None:
        self.name = f"rank {index} of {count}"
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {STARTED: f"{index}/{count}/{port}"},
            stdin=subprocess.PIPE,  # its end tells the rank that this process has ended
            stdout=self.output,
            stderr=self.output,
            start_new_session=True,
        )

    def failure(self) -> str:
        """Why it has failed, in one line; "" while it has not."""
        if not self.process.poll():
            return ""
        self.output.seek(0)
        lines = [line for line in self.output.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1].removeprefix("error: ") if lines else "it said nothing"
        return f"{self.name} ended with status {self.process.returncode}: {last}"

    def leave(self) -> None:
        """Let it come to its own end, after the last exchange."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)

    def end(self) -> None:
        """End it, if it has not ended by itself."""
        self.process.kill()
        self.process.communicate()
        self.output.close()


def _watch(others: list[_Other], finished: threading.Event) -> None:
    """The body of a thread: an exchange that waits for a rank which is gone must not wait forever."""
    while not finished.wait(0.5):
        if reasons := [other.failure() for other in others if other.failure()]:
            if not finished.wait(GRACE_SECONDS):
                print(f"error: {reasons[0]}", file=sys.stderr, flush=True)
                os._exit(1)
            return


def _end_with_the_first() -> None:
    """The body of a thread: read until the first rank ends, however it does."""
    while os.read(0, 1):
        pass
    os._exit(1)
