"""One run by one command, on a real DVC project of small stages; several of them at once in one clone."""

import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from visage.pipeline.clone import digest, is_prepared, note_prepared

STAGE = textwrap.dedent(
    """
    import json, os, signal, sys, time
    from pathlib import Path

    stage, _, run = sys.argv[1].partition("@")


    def note(what):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{time.monotonic()} {what} {sys.argv[1]}\\n")


    def write(path, text):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)


    note("start")
    if Path(f"{run or stage}.fails").exists():
        sys.exit("error: it was asked to fail")
    if stage == "configure":
        for name in ("a-0", "b-0"):
            write(f"configs/{name}.json", "{}")
        write("configs/report.json", json.dumps({"runs": ["a-0", "b-0"]}))
    elif stage == "reference":
        write("data/reference/a.json", Path("params.yaml").read_text())
    elif stage == "train":
        begun = Path(f".scratch/{run}.steps")
        steps = int(begun.read_text()) if begun.exists() else 0
        note(f"step-{steps}")
        stop = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda got, _: sys.exit("told twice") if stop else stop.append(got))
        while steps < int(os.environ["STEPS"]):
            time.sleep(0.1)
            steps += 1
            if stop:
                note(f"told-{stop[0]}")
                time.sleep(float(os.environ["SAVING"]))
                for _ in range(600):  # a minute
                    if Path("saves-on").exists():
                        time.sleep(0.1)
                write(begun, str(steps))
                note("saved")
                sys.exit(130)
        write(f"runs/{run}/train/weights", run)
    else:
        write(f"runs/{run}/evaluate/results", Path(f"runs/{run}/train/weights").read_text())
    note("end")
    """
)


def dvc(project, *words):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=project, check=True, capture_output=True, text=True
    )
    return done.stdout


def dvc_yaml():
    """As the project's: a stage for each of the runs that params.yaml names."""

    def stage(name, deps, outs):
        return {"cmd": f"python stage.py {name}", "deps": ["stage.py", *deps], "outs": outs}

    def each(name, deps, out):
        return {"matrix": {"run": ["a-0", "b-0"]}, **stage(f"{name}@${{item.run}}", deps, [out])}

    return {
        "stages": {
            "configure": stage("configure", ["params.yaml"], [{"configs": {"cache": False, "persist": True}}]),
            "reference": stage("reference", ["configs/report.json"], ["data/reference"]),
            "train": each("train", ["configs/${item.run}.json"], "runs/${item.run}/train"),
            "evaluate": each(
                "evaluate", ["runs/${item.run}/train", "data/reference/a.json"], "runs/${item.run}/evaluate"
            ),
        }
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "clone"
    folder.mkdir()
    (folder / "stage.py").write_text(STAGE)
    (folder / "params.yaml").write_text("seed: 0\n")
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump(dvc_yaml(), file)
    dvc(folder, "init", "--no-scm", "--quiet")
    return folder


def surroundings(monkeypatch, folder):
    monkeypatch.setenv("NOTES", str(folder / "notes.txt"))
    monkeypatch.setenv("STEPS", "5")
    monkeypatch.setenv("SAVING", "1.5")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # a scheduler's, without this environment's `python`


@pytest.fixture(scope="module")
def prepared_template(template, tmp_path_factory):
    """The same, and all that trainings need has been made in it."""
    folder = shutil.copytree(template, tmp_path_factory.mktemp("prepared") / "clone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        surroundings(monkeypatch, folder.parent)
        status, out, err = end(begin(folder, "--list"))
    assert (status, out) == (0, "a-0\nb-0\n"), err
    assert started(folder) == ["configure", "reference"]
    return folder


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    """A clone in which nothing has been run."""
    surroundings(monkeypatch, tmp_path)
    return shutil.copytree(template, tmp_path / "clone")


@pytest.fixture
def prepared(prepared_template, tmp_path, monkeypatch):
    """A clone that is ready for trainings."""
    surroundings(monkeypatch, tmp_path)
    return shutil.copytree(prepared_template, tmp_path / "clone")


BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Ray starts its workers like this."""


def begin(project, *words):
    return subprocess.Popen(
        [sys.executable, "-c", BLOCKED, sys.executable, "-m", "visage.pipeline.one", *words],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def end(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def notes(project):
    path = project.parent / "notes.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(what, stage) for _, what, stage in sorted((float(at), what, stage) for at, what, stage in lines)]


def started(project):
    return [stage for what, stage in notes(project) if what == "start"]


def wait_for(project, note):
    until = time.monotonic() + 60
    while note not in notes(project):
        assert time.monotonic() < until, notes(project)
        time.sleep(0.05)


@pytest.mark.long
def test_two_at_once_in_one_clone_prepare_it_once_and_train_at_the_same_time(project, monkeypatch):
    monkeypatch.setenv("STEPS", "30")
    both = [begin(project, name) for name in ("a-0", "b-0")]
    errors = []
    for process in both:
        status, _, err = end(process)
        assert status == 0, err
        errors.append(err)
    assert sum("reference: done" in err for err in errors) == 1
    assert sorted(started(project)) == sorted(
        ["configure", "reference", *(f"{stage}@{name}" for stage in ("train", "evaluate") for name in ("a-0", "b-0"))]
    )
    first, second = (
        [at for at, note in enumerate(notes(project)) if note[1] == f"train@{name}"] for name in ("a-0", "b-0")
    )
    assert first[0] < second[-1]
    assert second[0] < first[-1]
    (project.parent / "notes.txt").unlink()
    assert "Data and pipelines are up to date." in dvc(project, "repro")
    assert notes(project) == []


@pytest.mark.long
def test_a_clone_is_prepared_again_when_what_it_was_prepared_from_changes_or_what_was_made_is_gone(prepared):
    project = prepared
    assert is_prepared(project)
    for name in ("params.yaml", "configs/report.json"):
        (project / name).write_text((project / name).read_text() + "\n")
        assert not is_prepared(project)
        note_prepared(project)
    (project / "data" / "reference" / "a.json").unlink()
    assert not is_prepared(project)
    status, out, err = end(begin(project, "--list"))
    assert (status, out) == (0, "a-0\nb-0\n")
    assert "reference: done" in err
    assert is_prepared(project)
    assert started(project) == ["configure"]  # and DVC's cache has the rest


def test_the_digest_is_that_of_parameters_and_code(project):
    assert end(begin(project, "--digest"))[:2] == (0, f"{digest(project)}\n")
    first = digest(project)
    for name in ("dvc.lock", "data/reference/a.json", "src/visage/__pycache__/files.pyc"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
        assert digest(project) == first, name
    for name in ("params.yaml", "dvc.yaml", "stages/train.py", "src/visage/files.py", "src/visage/report/page.html"):
        before = digest(project)
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        with (project / name).open("a") as file:
            file.write("# a comment\n")
        assert digest(project) != before, name


@pytest.mark.long
def test_a_failing_stage_is_one_line_and_the_next_attempt_goes_on_from_there(project):
    for failing, stage in (("reference", "reference"), ("a-0", "train@a-0")):
        (project / f"{failing}.fails").touch()
        status, _, err = end(begin(project, "a-0"))
        assert status == 1
        line = err.splitlines()[-1]
        assert line.startswith(f"error: {stage} failed: it was asked to fail; its log: ")
        assert "asked to fail" in (project / line.rpartition(": ")[2]).read_text()
        (project / f"{failing}.fails").unlink()
    assert "evaluate@a-0" not in started(project)
    assert end(begin(project, "a-0"))[0] == 0
    assert started(project) == ["configure", "reference", "reference", "train@a-0", "train@a-0", "evaluate@a-0"]
    assert end(begin(project, "--list"))[1] == "b-0\n"


def test_a_run_that_does_not_exist_is_refused(prepared):
    status, _, err = end(begin(prepared, "c-0"))
    assert status == 1
    assert "error: params.yaml has no run c-0: `python -m visage.pipeline.one --list` names them" in err


def everyone(process):
    """As Slurm signals a job: each of its processes."""
    one = psutil.Process(process.pid)
    return [one, *one.children(recursive=True)]


@pytest.mark.long
@pytest.mark.parametrize("told", [lambda process: [process], everyone], ids=["itself", "everyone"])
def test_told_to_stop_a_training_saves_and_the_next_attempt_continues(prepared, told, monkeypatch):
    monkeypatch.setenv("STEPS", "100000")
    process = begin(prepared, "a-0")
    wait_for(prepared, ("step-0", "train@a-0"))
    time.sleep(0.5)
    for one in told(process):
        one.send_signal(signal.SIGTERM)
    status, _, err = end(process)
    assert status == 128 + signal.SIGTERM
    assert err.splitlines()[-1] == "stopped by SIGTERM: what was done is kept; run it again to continue"
    assert notes(prepared)[-1] == ("saved", "train@a-0")  # before the command ended
    # DVC leaves SIGINT to the stage; SIGTERM ends DVC, and reaches the stage only where it is sent to everyone
    how = signal.SIGTERM if told is everyone else signal.SIGINT
    assert (f"told-{int(how)}", "train@a-0") in notes(prepared)
    steps = int((prepared / ".scratch" / "a-0.steps").read_text())
    monkeypatch.setenv("STEPS", str(steps + 1))
    assert end(begin(prepared, "a-0"))[0] == 0
    assert notes(prepared).count((f"step-{steps}", "train@a-0")) == 1


@pytest.mark.long
def test_a_training_whose_task_is_killed_saves_and_ends_too(prepared, monkeypatch):
    monkeypatch.setenv("STEPS", "100000")
    (prepared / "saves-on").touch()
    process = begin(prepared, "a-0")
    wait_for(prepared, ("step-0", "train@a-0"))
    process.kill()
    monkeypatch.setenv("STEPS", "30")
    again = begin(prepared, "a-0")  # at once, while the stage still saves
    assert "waiting for another task in this clone" in again.stderr.readline()
    assert ("saved", "train@a-0") not in notes(prepared)
    (prepared / "saves-on").unlink()
    status, _, err = end(again)
    assert status == 0, err
    whats = [what for what, stage in notes(prepared) if stage == "train@a-0"]
    assert whats.index("saved") < len(whats) - 1 - whats[::-1].index("start")
    steps = int((prepared / ".scratch" / "a-0.steps").read_text())
    assert steps > 0
    assert f"step-{steps}" in whats


@pytest.mark.long
def test_a_second_signal_ends_a_training_that_does_not_end_by_itself(prepared, monkeypatch):
    monkeypatch.setenv("STEPS", "100000")
    process = begin(prepared, "a-0")
    wait_for(prepared, ("step-0", "train@a-0"))
    stage = next(one for one in everyone(process) if one.cmdline()[-2:] == ["stage.py", "train@a-0"])
    (prepared / "saves-on").touch()
    process.send_signal(signal.SIGINT)
    wait_for(prepared, (f"told-{int(signal.SIGINT)}", "train@a-0"))
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 128 + signal.SIGINT
    assert not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE
    assert ("saved", "train@a-0") not in notes(prepared)


@pytest.mark.long
def test_the_same_run_twice_at_once_is_trained_once(prepared):
    first = begin(prepared, "a-0")
    wait_for(prepared, ("start", "train@a-0"))
    second = begin(prepared, "a-0")
    third = begin(prepared, "a-0")
    assert "waiting for another task in this clone" in third.stderr.readline()
    third.send_signal(signal.SIGTERM)
    assert end(third)[0] == 128 + signal.SIGTERM
    for process in (first, second):
        status, _, err = end(process)
        assert status == 0, err
    assert started(prepared).count("train@a-0") == started(prepared).count("evaluate@a-0") == 1


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """A server that speaks S3, with a bucket; as the words that add it as a remote."""
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    import boto3
    from botocore.exceptions import EndpointConnectionError

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with (tmp_path / "s3.txt").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 60
    while True:
        try:
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket="bucket")
            break
        except EndpointConnectionError:
            assert time.monotonic() < until
            time.sleep(0.2)
    yield [["remote", "add", "-d", "far", "s3://bucket/visage"], ["remote", "modify", "far", "endpointurl", url]]
    server.terminate()
    server.wait()


@pytest.fixture
def folder(tmp_path):
    return [["remote", "add", "-d", "far", str(tmp_path / "remote")]]


@pytest.mark.cluster
@pytest.mark.parametrize("remote", ["folder", "s3"])
def test_with_a_default_remote_a_clone_elsewhere_runs_nothing_again(project, tmp_path, remote, request):
    other = tmp_path / "other"
    shutil.copytree(project, other)
    for clone in (project, other):
        for words in request.getfixturevalue(remote):
            dvc(clone, *words)
    assert end(begin(project, "a-0"))[0] == 0
    before = len(started(project))
    status, _, err = end(begin(other, "a-0"))
    assert status == 0, err
    assert started(project)[before:] == ["configure"]  # git keeps what it makes
    assert (other / "runs" / "a-0" / "evaluate" / "results").read_text() == "a-0"
    for path in (".dvc/cache", "data/reference", "runs"):
        shutil.rmtree(project / path)
    dvc(project, "repro", "--pull", "evaluate@a-0")
    assert started(project)[before:] == ["configure"]


def test_a_folder_that_is_no_clone_is_an_error_in_one_line(project):
    shutil.rmtree(project / ".dvc")
    status, _, err = end(begin(project, "a-0"))
    assert status == 1
    assert err.startswith("error: reference failed: you are not inside of a DVC repository")
    assert len(err.splitlines()) == 1
