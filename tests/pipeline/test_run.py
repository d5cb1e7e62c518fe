"""The runner on a real DVC project of small stages."""

import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

STAGE = textwrap.dedent(
    """
    import os, signal, sys, time
    from pathlib import Path

    name, *reads = sys.argv[1:]
    log = Path(os.environ["TIMES"])


    def note(what):
        with log.open("a") as file:
            file.write(f"{time.monotonic()} {what} {name}\\n")


    def interrupted(*_):
        note("saved")
        sys.exit(130)


    signal.signal(signal.SIGINT, interrupted)
    note("start")
    time.sleep(float(os.environ["SECONDS"]))
    for _ in range(1200):  # two minutes
        if reads and Path("hold").exists():
            time.sleep(0.1)
    if Path(f"{name}.fails").exists():
        sys.exit("error: it was asked to fail")
    Path(f"{name}.out").write_text(name + "".join(Path(f"{one}.out").read_text() for one in reads))
    note("end")
    """
)
NEEDS = {
    "data": [],
    **{f"train-{i}": ["data"] for i in range(2)},
    "reference": ["data"],  # ends while others run, and others wait for it
    **{f"evaluate-{i}": [f"train-{i}", "reference"] for i in range(2)},
    "report": [f"evaluate-{i}" for i in range(2)],
}


def dvc(project, *words):
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project, check=True, capture_output=True)


@pytest.fixture(scope="module")
def initialized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initialized")
    dvc(folder, "init", "--no-scm", "--quiet")
    return folder


@pytest.fixture
def make(tmp_path, monkeypatch, initialized):
    monkeypatch.setenv("TIMES", str(tmp_path / "times.txt"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    monkeypatch.setenv("SECONDS", "0")

    def project(name="project"):
        folder = shutil.copytree(initialized, tmp_path / name)
        (folder / "stage.py").write_text(STAGE)
        stages = {
            stage: {
                "cmd": " ".join([sys.executable, "stage.py", stage, *reads]),
                "deps": [f"{read}.out" for read in reads] or ["stage.py"],
                "outs": [f"{stage}.out"],
            }
            for stage, reads in NEEDS.items()
        }
        with (folder / "dvc.yaml").open("w") as file:
            YAML().dump({"stages": stages}, file)
        return folder

    return project


def begin(project, jobs=2, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "visage.pipeline", "--jobs", str(jobs)],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def go(project, jobs=2):
    process = begin(project, jobs)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def times(project):
    path = project.parent / "times.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(float(at), what, stage) for at, what, stage in lines]


def most_at_once(project):
    running = most = 0
    for _, what, _ in sorted(times(project)):
        running += {"start": 1, "end": -1}[what]
        most = max(most, running)
    return most


def lock(project):
    return YAML(typ="safe").load(project / "dvc.lock")


@pytest.mark.long
def test_what_can_run_at_once_does_and_dvc_agrees_that_all_is_done(make, monkeypatch):
    project = make()
    monkeypatch.setenv("SECONDS", "1")
    status, out, err = go(project)
    assert status == 0, err
    assert most_at_once(project) == 2
    assert [stage for _, what, stage in times(project) if what == "start"].count("report") == 1
    assert all(f"{stage}: " in out for stage in NEEDS)
    assert "ran again" not in out
    (project.parent / "times.txt").unlink()
    dvc(project, "repro")
    assert times(project) == []


@pytest.mark.long
def test_dvc_s_own_repro_leaves_the_same_lock(make):
    project, serial = make(), make("serial")
    assert go(project)[0] == 0
    dvc(serial, "repro")
    assert lock(serial) == lock(project)


@pytest.mark.long
def test_only_what_is_out_of_date_runs(make):
    project = make()
    assert go(project)[0] == 0
    assert go(project)[1] == "Everything is up to date.\n"
    (project.parent / "times.txt").unlink()
    (project / "train-1.out").unlink()
    (project / "report.out").unlink()
    assert go(project)[0] == 0
    assert times(project) == []  # DVC's cache has them
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("stage.py train-1", "-B stage.py train-1"))
    assert go(project)[0] == 0
    assert {stage for _, _, stage in times(project)} == {"train-1"}  # its output is as before


@pytest.mark.long
def test_a_failed_stage_stops_only_what_needs_it(make):
    project = make()
    (project / "train-1.fails").touch()
    status, out, err = go(project)
    assert status == 1
    assert "train-1: FAILED" in out
    assert "it was asked to fail" in out
    assert "train-1 failed; its log: .scratch/logs/train-1.log" in err
    assert "not run, because they need what failed: evaluate-1" in err
    assert (project / "evaluate-0.out").exists()
    (project / "train-1.fails").unlink()
    (project.parent / "times.txt").unlink()
    assert go(project)[0] == 0
    assert {stage for _, _, stage in times(project)} == {"train-1", "evaluate-1", "report"}


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_ends_the_stages_gently_and_what_was_done_is_kept(make, how):
    project = make()
    (project / "hold").touch()
    process = begin(project)
    end = time.monotonic() + 60
    while sum(what == "start" for _, what, _ in times(project)) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + how
    assert "what was done is kept" in err
    saved = {stage for _, what, stage in times(project) if what == "saved"}
    assert len(saved) == 2
    assert "data" in lock(project)["stages"]


@pytest.mark.long
def test_stages_that_outlive_a_killed_runner_are_waited_for_and_not_run_again(make):
    project = make()
    (project / "hold").touch()
    process = begin(project)
    end = time.monotonic() + 60
    while sum(what == "start" for _, what, _ in times(project)) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    process.kill()
    process.wait()
    again = begin(project)
    assert again.stderr.readline() == "waiting for a stage that another DVC runs here\n"
    (project / "hold").unlink()
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    started = [stage for _, what, stage in times(project) if what == "start"]
    assert sorted(started) == sorted(NEEDS)


def test_a_folder_without_its_git_repository_is_named_with_the_way_out(make):
    project = make()
    (project / ".dvc" / "config").write_text("")  # which has allowed it
    status, _, err = go(project)
    assert status == 1
    assert err.startswith(f"error: {project} is no git repository, which DVC needs: use `git clone`")
    assert len(err.splitlines()) == 1


def test_a_project_that_dvc_cannot_read_is_an_error_in_one_line(make):
    project = make()
    (project / "dvc.yaml").write_text("stages: [")
    status, _, err = go(project)
    assert status == 1
    assert err.startswith("error: `dvc dag")
    assert len(err.splitlines()) == 1
