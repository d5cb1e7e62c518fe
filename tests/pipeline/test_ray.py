"""Two nodes of a real Ray cluster on this machine, each with a clone of its own; the driver has a third one."""

import signal
import time

import psutil
import pytest

from tests.pipeline.clones import begin, clone, end
from tests.test_pipeline import NAMES, call, change, origin, stages_run

pytest.importorskip("ray", reason="Ray is not installed: uv sync --extra ray")
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def clones(tmp_path_factory):
    """The driver's clone, in which all that the runs need is made, and those of two nodes."""
    folder = tmp_path_factory.mktemp("ray")
    source = origin(folder / "origin")
    found = [clone(source, folder / name, folder / "cache") for name in ("driver", "one", "two")]
    status, _, err = end(begin(found[0], "visage.pipeline.one", "--list"))
    assert status == 0, err
    return found


@pytest.fixture
def cluster():
    """A function that starts a cluster of nodes with one core each, by their environments; the head runs no tasks."""
    from ray.cluster_utils import Cluster

    started = []

    def start(*environments):
        started.append(Cluster(initialize_head=True, head_node_args={"num_cpus": 0}))
        for environment in environments:
            started[-1].add_node(num_cpus=1, env_vars={key: str(value) for key, value in environment.items()})
        return started[-1].address

    yield start
    for one in started:
        one.shutdown()


def drive(driver, address, **environment):
    return begin(driver, "visage.pipeline.ray", RAY_ADDRESS=address, **environment)


def wait_for(text, *logs, seconds=120):
    until = time.monotonic() + seconds
    while not any(text in path.read_text(errors="replace") for log in logs for path in log.parent.glob(log.name)):
        assert time.monotonic() < until, text
        time.sleep(0.2)


def test_nodes_that_would_do_something_else_are_refused_by_name_before_anything_runs(clones, cluster, tmp_path):
    driver, one, _ = clones
    other = clone(driver.parent / "origin", tmp_path / "other")
    change(other, {"model.beta": 1.5})
    apart = clone(driver.parent / "origin", tmp_path / "apart")
    places = (one, other, apart, tmp_path / "nowhere")
    address = cluster(*({"VISAGE_CLONE": place} for place in places))
    status, out, err = end(drive(driver, address))
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: node ")
    assert line.count("node ") == 3
    assert f"{other} has other code or parameters than the driver: " in line
    assert f"{tmp_path / 'nowhere'} is no clone of this project: " in line
    assert f"{apart} keeps what it makes in {apart}/.dvc/cache, which is not the driver's cache: " in line
    assert str(one) not in line
    assert "runs on" not in out
    assert not (one / "runs").exists()


def test_a_run_that_fails_is_named_and_the_others_end_and_then_dvc_has_only_the_report_to_run(clones, cluster):
    """On one of the nodes the MLflow server cannot be reached; then on none."""
    driver, one, two = clones
    good, bad = (
        {"VISAGE_CLONE": one},
        {"VISAGE_CLONE": two, "VISAGE_TRACKING": "", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    )
    status, out, err = end(drive(driver, cluster(good, bad)))
    assert status == 1
    (failed,) = [name for name in NAMES if f"] {name}: FAILED after " in out]
    (done,) = set(NAMES) - {failed}
    assert f"error: {failed}: train@{failed} failed: " in err
    assert "http://127.0.0.1:9" in err
    assert f"] {done}: " in out
    assert (one / "runs" / done / "evaluate" / "results.json").is_file()
    assert not (driver / "runs").exists()

    status, out, err = end(drive(driver, cluster(good, {"VISAGE_CLONE": two})))
    assert status == 0, out + err
    assert all(f"{name}: runs on " in out for name in NAMES)
    assert "ran again" not in err
    (log,) = (driver / ".scratch" / "logs").glob("repro.*.log")
    assert stages_run(log.read_text()) <= {"configure", "report"}
    assert (driver / "report" / "index.html").is_file()
    for name in NAMES:
        assert (driver / "runs" / name / "evaluate" / "results.json").is_file()
    assert (driver / "metrics" / f"{NAMES[0]}.json").is_file()
    assert stages_run(call(driver, "dvc", "repro")) == set()
    assert end(drive(driver, "127.0.0.1:1"))[:2] == (0, "0 runs to do\n")  # which needs no cluster


def test_a_task_whose_worker_is_killed_starts_again_and_continues(clones, cluster):
    driver, one, _ = clones
    for project in clones:
        change(project, {"seeds": [3], "runs": ["beta_vae-16"], "recipes.beta_vae.demo.train.kimg": 16})
    process = drive(driver, cluster({"VISAGE_CLONE": one}))
    log = one / ".scratch" / "logs" / "train@beta_vae-16-3.*.log"
    wait_for("step/s", log)
    command = ["-m", "visage.pipeline.one", "beta_vae-16-3"]
    (task,) = [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [])[1:] == command]
    task.parent().kill()
    status, out, err = end(process)
    assert status == 0, out + err
    assert "beta_vae-16-3: continuing at step" in next(log.parent.glob(log.name)).read_text()
    assert "ran again" not in err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_driver_saves_the_trainings(clones, cluster, how):
    driver, *nodes = clones
    seed = int(how)  # a training that nobody has done before
    for project in clones:
        change(project, {"seeds": [seed], "runs": ["beta_vae-16"], "recipes.beta_vae.demo.train.kimg": 200})
    process = drive(driver, cluster({"VISAGE_CLONE": nodes[0]}, {"VISAGE_CLONE": nodes[1]}))
    logs = [node / ".scratch" / "logs" / f"train@beta_vae-16-{seed}.*.log" for node in nodes]
    wait_for("step/s", *logs)
    started = time.monotonic()
    process.send_signal(how)
    status, out, err = end(process)
    assert status == 128 + how
    assert time.monotonic() - started < 60
    assert "FAILED" not in out
    assert "what was done is kept" in err
    assert any(list((node / ".scratch").glob(f"beta_vae-16-{seed}-*/checkpoint.pt")) for node in nodes)
    assert not [one for one in psutil.process_iter(["cmdline"]) if f"beta_vae-16-{seed}" in (one.info["cmdline"] or [])]


def test_a_cluster_that_is_not_there_is_an_error_that_says_how_to_start_one(clones):
    driver = clones[0]
    change(driver, {"seeds": [7]})
    status, _, err = end(drive(driver, "127.0.0.1:1"))
    assert status == 1
    assert "error: no Ray cluster answers at 127.0.0.1:1: `ray start --head`" in err


def test_without_ray_the_error_names_the_extra(clones, tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError")
    status, _, err = end(begin(clones[0], "visage.pipeline.ray", PYTHONPATH=f"src:{tmp_path}"))
    assert (status, err) == (1, "error: Ray is not installed: `uv sync --extra ray`\n")
