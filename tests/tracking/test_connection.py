import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT
from tests.tracking.conftest import loggers
from visage.tracking.connection import Listener, connect
from visage.tracking.process import serve

REFUSED = "ValidationError"
"""How the answer begins to what is no event: the shortest way to see that somebody answers."""


def ask(connection: socket.socket) -> str:
    connection.settimeout(60)
    connection.sendall(b"hello\n")
    connection.shutdown(socket.SHUT_WR)
    with connection, connection.makefile() as answer:
        return answer.read()


def address(root: Path) -> str:
    with connect(root) as connection:
        return connection.getpeername()


def test_stages_that_begin_at_once_share_one_process(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        connections = list(pool.map(connect, [tmp_path] * 8))
        assert all(answer.startswith(REFUSED) for answer in pool.map(ask, connections))
    (logger,) = loggers(tmp_path)  # it has answered, so another one would be there too
    assert os.getsid(logger.pid) == logger.pid  # Ctrl-C in the terminal does not reach it
    logger.terminate()


def test_a_stage_waits_while_another_one_starts_the_process(tmp_path):
    with connect(tmp_path) as first, ThreadPoolExecutor() as pool:
        folder = Path(first.getpeername()).parent
        with FileLock(folder / "lock"):  # as a stage does that connects, or a process that ends
            second = pool.submit(connect, tmp_path)
            time.sleep(0.5)
            assert not second.done()
        assert ask(second.result(timeout=60)).startswith(REFUSED)
    (logger,) = loggers(tmp_path)
    logger.terminate()


def test_the_sockets_lie_in_a_short_folder_that_is_private(tmp_path):
    path = Path(address(tmp_path))
    assert len(str(path)) - len(tempfile.gettempdir()) < 40
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"visage-{os.getuid()}").symlink_to(tmp_path / "theirs")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        connect(tmp_path)
    assert list((tmp_path / "theirs").iterdir()) == []


@pytest.mark.long
def test_what_decides_where_and_how_it_is_logged_decides_which_process_logs(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    found = [address(tmp_path / name) for name in ("one", "two")]

    (tmp_path / "one" / "mlflow.db").rename(tmp_path / "one" / "lost.db")
    found.append(address(tmp_path / "one"))  # the old process would write to the file that was taken away

    for name, value in (
        ("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"),
        ("MLFLOW_TRACKING_USERNAME", "anna"),
        ("AWS_PROFILE", "faces"),
    ):
        monkeypatch.setenv(name, value)
        found.append(address(tmp_path / "one"))

    same = found[-1]
    found.append(address(tmp_path / "two"))  # the same server and user, another project

    shutil.copytree(ROOT / "src", tmp_path / "src")
    with (tmp_path / "src" / "visage" / "tracking" / "log.py").open("a") as f:
        f.write("# edited\n")
    code = (
        "import sys; from pathlib import Path; from visage.tracking.connection import connect;"
        "print(connect(Path(sys.argv[1])).getpeername())"
    )
    for source in (tmp_path / "src", ROOT / "src"):
        environment = os.environ | {"PYTHONPATH": str(source), "DVC_STAGE": "train@vae-32-0"}
        command = [sys.executable, "-c", code, str(tmp_path / "one")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())

    assert found.pop() == same
    assert len(set(found)) == len(found)
    for logger in [*loggers(tmp_path / "one"), *loggers(tmp_path / "two")]:
        logger.terminate()


# --- how a process ends, seen with a thread in its place


@contextlib.contextmanager
def serving(folder: Path, idle_seconds: float):
    """A thread that serves at a path; both."""
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=serve, args=(Listener(listening), idle_seconds))
        thread.start()
        yield path, thread
        thread.join(60)
        assert not thread.is_alive()


def reach(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


@pytest.fixture
def folder():
    """A folder with a short name."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_it_ends_when_nobody_has_been_there_for_a_while(folder):
    with serving(folder, 0.5) as (path, thread):
        time.sleep(0.3)
        visitor = reach(path)
        time.sleep(0.7)  # somebody is there
        assert ask(visitor).startswith(REFUSED)
        time.sleep(0.3)
        assert thread.is_alive()
    assert not path.exists()


def test_a_stage_that_comes_in_the_last_moment_is_served(folder):
    with serving(folder, 0.2) as (path, _):
        with FileLock(folder / "lock"):  # as a stage does that connects
            time.sleep(1)  # long after the process wanted to end
            visitor = reach(path)
        assert ask(visitor).startswith(REFUSED)
    assert not path.exists()


@pytest.mark.long
def test_it_ends_when_its_socket_was_deleted_but_serves_who_is_there(folder):
    with serving(folder, 60) as (path, thread):
        visitor = reach(path)
        time.sleep(0.3)
        path.unlink()
        time.sleep(1.5)
        assert thread.is_alive()
        assert ask(visitor).startswith(REFUSED)


def test_it_leaves_the_socket_of_its_successor_alone(folder):
    with serving(folder, 0.5) as (path, _):
        path.rename(folder / "taken")
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()
