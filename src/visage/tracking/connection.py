"""Where a stage and what logs it meet: a Unix socket for each project, store, account and state of the code.

A stage connects, and the process ends when it is idle, under one lock. So a stage reaches a process that will serve it,
or finds none and starts the next, and of two stages that begin at once one starts it. Where Python has no Unix sockets,
on Windows, each stage logs in a thread of its own process.
"""

import hashlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

from filelock import FileLock

from visage.machine import private_folder
from visage.tracking.store import ENVIRONMENT, sqlite_file, store_uri

SOURCE = Path(__file__).parents[2]
ACCOUNTS = ("MLFLOW_", "AWS_", "AZURE_", "DATABRICKS_", "GOOGLE_")
"""How the names of variables begin that tell MLflow where to log, as whom, and how."""
LOCK_SECONDS = 60
"""How long to wait for the lock, which is held for milliseconds."""


def connect(root: Path) -> socket.socket:
    """Connect to the process that logs what happens in the project in `root`, and start it where there is none.

    Raises:
        OSError: no socket can be made, or the process cannot be started.
    """
    if not hasattr(socket, "AF_UNIX"):
        return _connected_to_a_thread()
    path = private_folder() / _name(root)
    with _lock(path.parent):
        try:
            return _connected(path)
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)  # the process that made it was killed
            _start(path, root)
            return _connected(path)


def messages_file(path: Path) -> Path:
    """Where the process that listens at `path` writes what is no answer to a stage."""
    return path.with_suffix(".log")


class Listener:
    """The side of the process that logs: a socket that listens, and the path at which stages find it."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self._path = Path(listening.getsockname())
        self._inode = self._path.stat().st_ino

    def accept(self, seconds: float) -> socket.socket | None:
        """The next stage that connects, None where there is none within some seconds."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return None
        return self._socket.accept()[0]

    def is_lost(self) -> bool:
        """Whether no stage can come any more, because somebody deleted the socket's file."""
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def withdraw(self) -> socket.socket | None:
        """See to it that no stage can come any more; a stage that has come in the meantime is returned instead."""
        if self.is_lost():
            return self.accept(0)
        with _lock(self._path.parent):
            if stage := self.accept(0):
                return stage
            self._path.unlink(missing_ok=True)
            messages_file(self._path).unlink(missing_ok=True)
        return None


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=LOCK_SECONDS)


def _name(root: Path) -> str:
    """A short digest of all that a process that logs must have in common with a stage that it serves."""
    file = sqlite_file(store_uri(root))
    if file is not None:
        file.open("ab").close()  # so that it has a number, by which a store that was deleted differs from the next
    variables = ENVIRONMENT | os.environ
    common = {
        "root": str(root.resolve()),
        "file": file and file.stat().st_ino,
        "account": sorted((key, value) for key, value in variables.items() if key.startswith(ACCOUNTS)),
        "python": sys.executable,
        "code": [hashlib.sha256(module.read_bytes()).hexdigest() for module in sorted(SOURCE.glob("visage/**/*.py"))],
    }
    return hashlib.sha256(json.dumps(common).encode()).hexdigest()[:16]


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _connected_to_a_thread() -> socket.socket:
    from visage.tracking.process import log_run  # which needs this module

    ours, theirs = socket.socketpair()
    threading.Thread(target=log_run, args=(theirs,), daemon=True).start()
    return ours


def _start(path: Path, root: Path) -> None:
    """Start the process with a socket that listens already: whoever connects now is served when MLflow is imported."""
    with socket.socket(socket.AF_UNIX) as listening, messages_file(path).open("wb") as messages:
        listening.bind(str(path))
        listening.listen()
        paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "visage.tracking.process"],
            stdin=listening.fileno(),
            stdout=messages,
            stderr=messages,
            cwd=root,  # a working directory of DVC is deleted before the process ends
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the stage
        )
    process.returncode = 0  # it outlives the stage, and Python shall not miss its end
