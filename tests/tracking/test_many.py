"""Several people's stages log at once to one MLflow server that keeps its runs in PostgreSQL."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.factory import CARD, EVALUATE, EVALUATION_COST, TRAINING_COST, write_run
from tests.tracking.conftest import loggers, wait_until
from visage.pictures import grid, save
from visage.tracking import Tracker

WRITERS = 8
ROWS = 40


def programs() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def database():
    """The URI of an empty PostgreSQL database on this machine."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg, the driver of PostgreSQL, is not installed: uv sync")
    user = "nobody" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    port, folder = free_port(), Path(tempfile.mkdtemp(dir="/tmp"))  # where that user may go
    if user:
        shutil.chown(folder, user)

    def run(program, *arguments):
        subprocess.run([programs() / program, "-D", folder / "data", *arguments], user=user, cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    run("initdb", "--no-sync", "--auth=trust", "--username=mlflow")
    run("pg_ctl", "-w", "-l", folder / "log", "-o", f"-F -p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    yield f"postgresql+psycopg://mlflow@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """The address of an MLflow server, started as docs/tracking.md says."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database,
             "--artifacts-destination", folder / "files", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def answers():
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return True

    try:
        wait_until(answers)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
def test_nothing_is_lost_when_many_log_at_once(tracking, server, run_config, tmp_path, capfd):
    from mlflow import MlflowClient

    tracking.setenv("MLFLOW_TRACKING_URI", server)
    tracking.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")  # as stages do; the server has enough to do
    homes = [tmp_path / name for name in ("anna", "ben")]
    configs = [run_config("vae").seeded(seed) for seed in range(WRITERS)]
    found = [write_run(homes[seed % 2], config) for seed, config in enumerate(configs)]
    save(grid(np.zeros((2, 32, 32, 3), np.uint8), columns=2), tmp_path / "grid.png")

    def train(seed: int) -> None:
        home, config = homes[seed % 2], configs[seed]
        with Tracker.open(config, CARD, root=home, experiment="faces", mode="train") as tracker:
            for step in range(1, ROWS + 1):
                tracker.metrics(step, {"train/loss": seed + 1 / step, "train/kimg": step * 0.064})
            tracker.image("samples", tmp_path / "grid.png", 7)
            tracker.finish_training(home / "runs" / config.name / "train", TRAINING_COST)
        with Tracker.open(config, CARD, root=home, experiment="faces", mode="evaluate", evaluate=EVALUATE) as tracker:
            tracker.finish_evaluation(home / "runs" / config.name / "evaluate", found[seed], EVALUATION_COST)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(train, range(WRITERS)))
    assert capfd.readouterr().err == ""
    assert [len(loggers(home)) for home in homes] == [1, 1]

    client = MlflowClient(server)
    (experiment,) = client.search_experiments(filter_string="name = 'faces'")
    every = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in every if "visage.parent_key" in run.data.tags]  # of all seeds, by two machines at once
    assert parent.data.metrics["eval/recon_mse"] == pytest.approx(0.0125)
    runs = {int(run.data.params["seed"]): run for run in every if run is not parent}
    assert sorted(runs) == list(range(WRITERS))
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    for seed, run in runs.items():
        points = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(point.step, point.value) for point in points] == [(i, seed + 1 / i) for i in range(1, ROWS + 1)]
        assert run.data.metrics["eval/recon_mse"] == 0.0125
        assert run.data.metrics["cost/train/seconds"] == 12.5
        assert run.data.params["evaluate.images"] == "100"
        assert run.data.tags["tripwire.posterior_collapse"] == "ok: the KL is 20 nats"
        assert len(run.inputs.dataset_inputs) == 1
        assert run.info.status == "FINISHED"
        pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images")]
        assert any("samples+step+7+" in path for path in pictures)
        files = {item.path for item in client.list_artifacts(run.info.run_id, "evaluate")}
        assert "evaluate/results.json" in files
