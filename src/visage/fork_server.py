"""Processes that have imported libraries and fork for each stage: a fork takes no time, an import seconds.

A runner of many stages keeps one for trainings and, forked from it, one for evaluations, which import more. A stage
that finds their address in the environment sends all that makes a process: arguments, environment, working directory,
standard streams. It passes signals on to the fork and ends as the fork ends, so that whoever started the stage sees no
difference. Of this project's own modules the servers import none but this one and what it needs: each fork reads the
others as they are by then.
"""

import atexit
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
from typing import Literal

from visage.machine import private_folder

ADDRESS = "VISAGE_FORK_SERVER"
"""The variable that tells a stage where the servers listen: what their sockets' paths begin with."""
Kind = Literal["training", "evaluation"]
IMPORTS: dict[Kind, tuple[str, ...]] = {
    "training": ("torch", "torch._dynamo", "torch.utils.flop_counter"),
    "evaluation": (
        *("scipy.fft", "scipy.ndimage", "scipy.special", "scipy.stats"),
        *("sklearn.covariance", "sklearn.decomposition", "sklearn.ensemble", "sklearn.linear_model"),
        *("sklearn.metrics", "sklearn.neighbors", "sklearn.preprocessing", "sklearn.tree"),
    ),
}
"""What the server of each kind imports, without starting CUDA, in addition to what those before it import. PyTorch's
compiler is there because its optimisers import it. There are two kinds, so that a training does not seem to need the
memory of what only evaluations import.
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
    """Keeps the servers as long as it is open; the processes that are started meanwhile find them.

    They end when this process ends, in whatever way.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: list[socket.socket] = []
        """Those that wait for a server to start."""
        self._paths: list[Path] = []
        self._address = ""
        if not hasattr(os, "pidfd_open"):
            return  # not Linux; elsewhere a fork may not use all libraries
        try:
            self._address = str(private_folder() / f"fork-{os.getpid()}")
            for kind in IMPORTS:
                self._sockets.append(socket.socket(socket.AF_UNIX))
                self._paths.append(_place(self._address, kind))
                self._paths[-1].unlink(missing_ok=True)
                self._sockets[-1].bind(str(self._paths[-1]))
                self._sockets[-1].listen()
        except OSError:  # a folder that can hold no socket; then each stage imports what it needs
            self._hand_over()
            return
        os.environ[ADDRESS] = self._address

    def start_if_asked(self) -> None:
        """Start if a stage waits for a server."""
        if self._sockets and select.select(self._sockets, [], [], 0)[0]:
            self.start()

    def start(self) -> None:
        """Start importing what all stages need, whether one has asked or not; what evaluations need, when one asks."""
        if not self._sockets:
            return
        numbers = [listening.fileno() for listening in self._sockets]
        with suppress(OSError):  # no room for another process; then each stage imports what it needs
            self._process = subprocess.Popen(
                [sys.executable, "-m", "visage.fork_server", *map(str, numbers)],
                stdin=subprocess.PIPE,  # its end tells the servers that this process has ended
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=numbers,
                process_group=0,  # Ctrl-C is for the stages
            )
        self._hand_over()

    def _hand_over(self) -> None:
        """The sockets are the servers' now: if those end, or have not begun, no stage shall wait for an answer."""
        _close(*self._sockets)
        self._sockets = []

    def close(self) -> None:
        """End the servers; forks that still run are kept."""
        self._hand_over()
        for path in self._paths:
            path.unlink(missing_ok=True)
        if os.environ.get(ADDRESS) == self._address:
            del os.environ[ADDRESS]
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


# --- the stage's side


def run_forked(kind: Kind) -> None:
    """Have this process's script run by a fork of a server, and end as it ends; return where there is no server."""
    address = os.environ.pop(ADDRESS, None)
    if address is None:
        return
    request = _Request(sys.orig_argv, sys.argv, sys.path, str(Path.cwd()), dict(os.environ))
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(str(_place(address, kind)))
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


# --- the servers' side


def _serve(sockets: dict[Kind, socket.socket]) -> _Request | None:
    """Fork for each stage that connects; return what to run in each fork, and None in a server when it may end.

    This process serves the first kind, and forks for the others when the first of them is asked for.
    """
    kind, *_ = sockets
    listening = sockets.pop(kind)
    for name in IMPORTS[kind]:
        importlib.import_module(name)
    gc.freeze()  # garbage collection in a fork shall not write to the memory that all of them share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([sys.stdin, listening, *sockets.values()], [], [])
        if sys.stdin in ready:
            return None
        if listening in ready:
            connection, _ = listening.accept()
            if os.fork() == 0:
                _close(listening, *sockets.values())
                return _attend(connection)
            connection.close()
        elif os.fork() == 0:
            listening.close()
            return _serve(sockets)
        else:
            _close(*sockets.values())  # they are the other server's now
            sockets = {}


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()


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


@dataclass
class _Ending:
    """The last thing that a process does: the system takes it apart, for which Python would need two seconds.

    status: of the process; None: it ends as Python ends.
    """

    status: int | None = None

    def __call__(self) -> None:
        if self.status is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)


def _run(request: _Request, ending: _Ending) -> None:
    """Be the process that asked."""
    for name in [name for name in sys.modules if name.split(".")[0] == "visage"]:
        del sys.modules[name]  # the stage's are those that its own path leads to
    sys.orig_argv, sys.argv, sys.path = request.command, request.argv, request.path
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    try:
        runpy.run_path(str(Path(request.argv[0]).absolute()), run_name="__main__")
        ending.status = 0
    except SystemExit as asked:
        code = asked.code or 0
        ending.status = code if isinstance(code, int) else None
        raise
    finally:
        gc.unfreeze()  # where Python takes it apart after all, libraries complain of objects that are left over


def _place(address: str, kind: Kind) -> Path:
    """The socket of a kind of stages."""
    return Path(f"{address}-{kind}")


if __name__ == "__main__":
    ending = _Ending()
    atexit.register(ending)  # before all others, and so called after them
    handed = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
    request = _serve(dict(zip(IMPORTS, handed, strict=True)))
    if request is None:
        ending.status = 0
    else:
        _run(request, ending)
