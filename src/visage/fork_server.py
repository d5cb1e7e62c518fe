"""A process that has imported PyTorch and forks for each stage: a fork takes no time, an import seconds.

A runner of many stages keeps one. A stage that finds its address in the environment sends it all that makes a process:
arguments, environment, working directory, standard streams. It passes signals on to the fork and ends as the fork ends,
so that whoever started the stage sees no difference. Of this project's own modules the server imports none but this one
and what it needs: each fork reads the others as they are by then.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from visage.machine import private_folder

ADDRESS = "VISAGE_FORK_SERVER"
"""The variable that tells a stage where the server listens."""
PRELOADED = ("torch", "torch._dynamo", "torch.utils.flop_counter")
"""What all of them import, without starting CUDA; PyTorch's optimisers import its compiler. No more than that, so that
a training does not seem to need the memory of what only evaluations import.
"""
STREAMS = (0, 1, 2)
STATUS = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class _Request:
    """What a fork becomes. command: as the process was called; argv: as its script sees it; path: of modules."""

    command: list[str]
    argv: list[str]
    path: list[str]
    folder: str
    environment: dict[str, str]


# --- the runner's side


class ForkServer:
    """Keeps the server as long as it is open; the processes that are started meanwhile find it.

    The server starts when the first stage asks for it, and ends when this process ends, in whatever way.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._path: Path | None = None
        self._socket: socket.socket | None = None
        if not hasattr(os, "pidfd_open"):
            return  # not Linux; elsewhere a fork may not use all libraries
        self._socket = socket.socket(socket.AF_UNIX)
        with suppress(OSError):  # a folder that can hold no socket; then each stage imports what it needs
            path = private_folder() / f"fork-{os.getpid()}"
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            self._socket.listen()
            self._path = path
            os.environ[ADDRESS] = str(path)

    def start_if_asked(self) -> None:
        """Start the server if a stage waits for it."""
        if self._socket is None or self._path is None or self._process is not None:
            return
        if not select.select([self._socket], [], [], 0)[0]:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "visage.fork_server", str(self._socket.fileno())],
            stdin=subprocess.PIPE,  # its end tells the server that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._socket.fileno()],
            process_group=0,  # Ctrl-C is for the stages
        )
        self._socket.close()  # it is the server's now: if that ends, no stage shall wait for an answer

    def close(self) -> None:
        """End the server; forks that still run are kept."""
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            os.environ.pop(ADDRESS, None)
            self._path.unlink(missing_ok=True)
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


# --- the stage's side


def run_forked() -> None:
    """Have this process's script run by a fork of the server, and end as it ends; return where there is no server."""
    address = os.environ.pop(ADDRESS, None)
    if address is None:
        return
    request = _Request(sys.orig_argv, sys.argv, sys.path, str(Path.cwd()), dict(os.environ))
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(address)
            socket.send_fds(server, [b"\n"], STREAMS)
            server.sendall(json.dumps(asdict(request)).encode() + b"\n")
            if not server.recv(1):
                return  # the server has ended, and nothing has begun
        except OSError:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        answer = server.recv(STATUS.size)
    (status,) = STATUS.unpack(answer) if answer else (-signal.SIGKILL,)
    if status < 0:  # it was ended by a signal
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


# --- the server's side


def _serve(listening: socket.socket) -> _Request | None:
    """Fork for each stage that connects; return what to run in each fork, and None in this process when it may end."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # garbage collection in a fork shall not write to the memory that all of them share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            return _attend(connection)
        connection.close()


def _attend(connection: socket.socket) -> _Request:
    """Fork once more and return what to run in that fork; this process only waits for it, and ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, len(STREAMS))
    with connection.makefile("rb") as lines:
        request = _Request(**json.loads(lines.readline()))
    stage = os.fork()
    if stage == 0:
        connection.close()
        os.setpgid(0, 0)  # apart from the other stages
        for stream, own in zip(streams, STREAMS, strict=True):
            os.dup2(stream, own)
            os.close(stream)
        return request
    ended, asking = os.pidfd_open(stage), connection.fileno()
    try:
        connection.sendall(b"\n")
        while ended not in select.select([asking, ended], [], [])[0]:
            (number,) = connection.recv(1)
            os.kill(stage, number)
    except (OSError, ValueError):  # the process that asked was killed, and says nothing more
        os.kill(stage, signal.SIGKILL)
    _, status = os.waitpid(stage, 0)
    with suppress(OSError):
        connection.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _run(request: _Request) -> None:
    """Be the process that asked."""
    for name in [name for name in sys.modules if name.split(".")[0] == "visage"]:
        del sys.modules[name]  # the stage's are those that its own path leads to
    sys.orig_argv, sys.argv, sys.path = request.command, request.argv, request.path
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    try:
        runpy.run_path(str(Path(request.argv[0]).absolute()), run_name="__main__")
    finally:
        gc.unfreeze()  # libraries complain of objects that are left over when the process ends


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        request = _serve(listening)
    if request is not None:
        _run(request)
