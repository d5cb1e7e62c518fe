"""A stage in a fork of the server is, to whoever started it, the process that it would have been without one."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.small_data import write_processed
from tests.small_runs import AUTOENCODER, CARD, RUNTIME, faces
from visage.config import ReportConfig
from visage.files import write_json
from visage.fork_server import ADDRESS, ForkServer

PYTHON = sys.executable
STAGE = """
import os, signal, sys, time
from pathlib import Path

loaded = [name for name in ("torch", "sklearn") if name in sys.modules]
from visage.errors import UserError
from visage.stage import run_stage


def main():
    if len(sys.argv) == 1:
        return
    what, *words = sys.argv[1:]
    if what == "tell":
        print(__name__, __file__, words, sys.orig_argv, sys.path, os.getcwd(), sys.stdin.read())
        print({k: v for k, v in os.environ.items()}, file=sys.stderr)
    if what == "source":
        import visage.errors
        print(visage.__file__, visage.errors.__file__)
    if what == "loaded":
        print(loaded)
    if what == "ends":
        sys.exit(int(words[0]))
    if what == "fails":
        raise UserError("its disk is full")
    if what == "breaks":
        raise ValueError("a mistake")
    if what == "leaves":
        import atexit, threading
        atexit.register(lambda: print("called at exit"))
        threading.Thread(target=lambda: (time.sleep(0.3), print("a thread that goes on"))).start()
        sys.exit({"text": "a reason", "none": None, "number": 7}[words[0]])
    if what == "killed":
        os.kill(os.getpid(), int(words[0]))
    if what == "waits":
        def save(*_):
            with open("saved", "a") as file:
                file.write("saved\\n")
            time.sleep(0.3)
            sys.exit(130)
        signal.signal(signal.SIGINT, save)
        Path("begun").write_text(str(os.getpid()))
        time.sleep(60)


run_stage(main, fork=os.environ["KIND"])
"""


@contextmanager
def running(server):
    """Start the server when somebody asks, as its owner does."""
    ended = threading.Event()

    def look():
        while not ended.wait(0.05):
            server.start_if_asked()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield os.environ[ADDRESS]
    finally:
        ended.set()
        thread.join()
        server.close()


@pytest.fixture(scope="module")
def address():
    with running(ForkServer()) as found:
        yield found


@pytest.fixture
def begin(tmp_path):
    """Start the script, at `address` or by itself."""
    (tmp_path / "stage.py").write_text(STAGE)

    def begin(*words, address=None, source=ROOT / "src", kind="training"):
        others = {name: value for name, value in os.environ.items() if name != ADDRESS}
        named = {ADDRESS: address} if address else {}
        return subprocess.Popen(
            [PYTHON, "stage.py", *words],
            cwd=tmp_path,
            env=others | {"PYTHONPATH": str(source), "OWN": "value", "KIND": kind} | named,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    return begin


def result(process):
    out, err = process.communicate("something to read", timeout=60)
    return process.returncode, out, err


def appears(path):
    end = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return path.read_text()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "words",
    [
        ("tell", "one", "two words"),
        pytest.param(("ends", "0"), marks=pytest.mark.long),
        ("ends", "3"),
        pytest.param(("fails",), marks=pytest.mark.long),
        ("leaves", "text"),
        pytest.param(("leaves", "none"), marks=pytest.mark.long),
        ("leaves", "number"),
        ("killed", str(int(signal.SIGKILL))),
        pytest.param(("killed", str(int(signal.SIGTERM))), marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("kind", ["training", pytest.param("evaluation", marks=pytest.mark.long)])
def test_a_fork_says_and_ends_as_the_process_itself_would(begin, address, words, kind):
    assert result(begin(*words, address=address, kind=kind)) == result(begin(*words, kind=kind))


def test_an_unforeseen_error_has_its_traceback(begin, address):
    status, _, err = result(begin("breaks", address=address))
    assert status == 1
    assert err.rstrip().endswith("ValueError: a mistake")


def test_a_fork_finds_imported_what_stages_of_its_kind_need_and_no_more(begin, address):
    assert result(begin("loaded", address=address, kind="evaluation"))[1] == "['torch', 'sklearn']\n"
    assert result(begin("loaded", address=address))[1] == "['torch']\n"
    assert result(begin("loaded"))[1] == "[]\n"


def test_a_fork_has_the_code_that_the_stage_finds_not_the_runners(begin, address, tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    told = [result(begin("source", address=where, source=tmp_path / "src")) for where in (address, None)]
    assert told[0] == told[1]
    assert told[0][1].split() == [str(tmp_path / "src" / "visage" / name) for name in ("__init__.py", "errors.py")]


@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_ctrl_c_reaches_the_stage_once_and_it_can_save(begin, address, tmp_path, kind):
    process = begin("waits", address=address, kind=kind)
    appears(tmp_path / "begun")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_a_stage_ends_with_the_process_that_stands_for_it(begin, address, tmp_path):
    process = begin("waits", address=address)
    pid = int(appears(tmp_path / "begun"))
    process.kill()
    end = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_a_server_the_stage_runs_by_itself(begin, monkeypatch, tmp_path):
    assert result(begin("ends", "3", address=str(tmp_path / "nobody")))[0] == 3
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    server = ForkServer()
    address = os.environ[ADDRESS]
    process = begin("ends", "3", address=address)  # which asks, and waits for a server that never starts
    server.close()
    assert result(process)[0] == 3
    assert not list(Path(address).parent.glob(f"{Path(address).name}*"))


def test_a_stage_does_not_wait_for_a_server_that_has_died(begin, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with running(ForkServer()) as address:
        for _ in range(2):  # the first one finds it starting, the second one finds it gone
            assert result(begin("ends", "3", address=address))[0] == 3


OWNER = """
import os, sys
from visage.fork_server import ADDRESS, ForkServer

server = ForkServer()
print(os.environ[ADDRESS], flush=True)
while server._process is None:
    server.start_if_asked()
print(server._process.pid, flush=True)
sys.stdin.read()
server.close()
"""


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "closed"])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_servers_end_with_their_owner_and_their_stages_go_on(begin, tmp_path, kind, how):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stage = begin("waits", address=owner.stdout.readline().strip(), kind=kind)
    server = psutil.Process(int(owner.stdout.readline()))
    fork = int(appears(tmp_path / "begun"))
    servers = [server, *(each for each in server.children() if fork not in {p.pid for p in each.children()})]
    assert len(servers) == (2 if kind == "evaluation" else 1)
    if how == "killed":
        owner.kill()
    owner.communicate()
    end = time.monotonic() + 20
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in servers):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert stage.poll() is None
    os.killpg(stage.pid, signal.SIGINT)
    assert stage.wait(20) == 130


@pytest.mark.long
def test_a_training_in_a_fork_gives_the_same_bytes(address, tmp_path):
    outputs = []
    for name, there in (("fork", address), ("alone", str(tmp_path / "nobody"))):
        root = tmp_path / name
        train, valid = faces(64, 1), faces(20, 2)
        write_processed(root / "data" / "processed", {"train": train.images, "valid": valid.images}, external={})
        write_json(root / "data" / "processed" / "train" / f"{AUTOENCODER.label}.json", CARD)
        for config in (RUNTIME, AUTOENCODER, ReportConfig((AUTOENCODER.name,))):
            config.save(root / "configs")
        command = [sys.executable, str(ROOT / "stages" / "train.py"), AUTOENCODER.name]
        environment = os.environ | {ADDRESS: there, "PYTHONPATH": str(ROOT / "src"), "VISAGE_TRACKING": "off"}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        folder = root / "runs" / AUTOENCODER.name / "train"
        outputs.append({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert outputs[0] == outputs[1]
    assert outputs[0]
