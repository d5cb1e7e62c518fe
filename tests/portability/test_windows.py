"""What another system can show of Windows: the project's code where the names that Windows lacks are missing."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipeline import test_run
from tests.pipeline.test_run import initialized, make  # noqa: F401 (fixtures)
from tests.small_data import write_processed
from tests.small_runs import AUTOENCODER, CARD, RUNTIME, faces
from visage.config import ReportConfig
from visage.files import read_json, write_json

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this is what stands in for Windows elsewhere")
WINDOWS = Path(__file__).parent / "windows"
PATHS = os.pathsep.join([str(WINDOWS), str(ROOT / "src")])
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src").rglob("*.py")
)


def python(*words, folder=ROOT, **more):
    environment = {k: v for k, v in os.environ.items() if k != "VISAGE_TRACKING"} | {"PYTHONPATH": PATHS} | more
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.long
def test_every_module_and_every_stage_can_be_imported():
    code = (
        "import importlib, runpy\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        f"for name in {sorted(map(str, (ROOT / 'stages').glob('*.py')))!r}: runpy.run_path(name, run_name='stage')\n"
        "from visage.machine import os\n"
        "assert not hasattr(os, 'getuid')\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with a training, and with what its stage said."""
    root = tmp_path_factory.mktemp("project")
    train, valid = faces(64, 1), faces(20, 2)
    write_processed(root / "data" / "processed", {"train": train.images, "valid": valid.images}, external={})
    write_json(root / "data" / "processed" / "train" / f"{AUTOENCODER.label}.json", CARD)
    for config in (RUNTIME, AUTOENCODER, ReportConfig((AUTOENCODER.name,))):
        config.save(root / "configs")
    done = python(str(ROOT / "stages" / "train.py"), AUTOENCODER.name, folder=root)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return root


@pytest.mark.long
def test_a_training_runs_and_tells_its_memory(trained):
    cost = read_json(trained / "runs" / AUTOENCODER.name / "cost" / "train.json")
    assert cost["footprint"]["peak_memory_mb"] == 123


@pytest.mark.long
def test_a_training_logs_to_mlflow_in_its_own_process(trained):
    with sqlite3.connect(trained / "mlflow.db") as db:
        ((status,),) = db.execute("select status from runs").fetchall()
        keys = {key for (key,) in db.execute("select distinct key from metrics")}
    assert status == "FINISHED"
    assert "train/autoencoder/loss" in keys


@pytest.fixture
def project(make, monkeypatch):  # noqa: F811
    """Three stages, whose runner and DVC are as on Windows."""
    needs = {"data": [], "train": ["data"], "report": ["train"]}
    monkeypatch.setattr(test_run, "NEEDS", needs)
    monkeypatch.setenv("PYTHONPATH", PATHS)
    return make()


def group_lives(number):
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
def test_ctrl_c_reaches_all_in_the_console_and_a_second_one_ends_them(project):
    (project / "hold").touch()  # for which `train` waits
    script = (project / "stage.py").read_text()
    (project / "stage.py").write_text(script.replace("sys.exit(130)", "return"))  # which goes on
    process = test_run.begin(project, start_new_session=True)
    end = time.monotonic() + 60
    while sum(what == "start" for _, what, _ in test_run.times(project)) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a console does it
    while not any(what == "saved" for _, what, _ in test_run.times(project)):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "what was done is kept" in err
    while group_lives(process.pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert test_run.lock(project)["stages"].keys() == {"data"}

    (project / "hold").unlink()
    status, _, err = test_run.go(project)
    assert status == 0, err
    assert test_run.lock(project)["stages"].keys() == {"data", "train", "report"}


def test_a_task_of_a_cluster_says_what_to_use_instead(tmp_path):
    done = python("-m", "visage.pipeline.one", "vae-32-0", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: tasks of a cluster need Linux or macOS: on Windows, use `python -m visage.pipeline`\n"
    )
