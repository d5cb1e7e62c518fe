import contextlib
import dataclasses
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.finished_run import CARD, EVALUATE, METRICS, write_run
from visage.errors import UserError
from visage.pictures import grid, save
from visage.tracking import Store, Subject, Tracker, check_store, flat, now, store_uri

ROWS = 300
SOURCE = Path(__file__).resolve().parents[1] / "src"

# --- before MLflow is needed


def test_flat_joins_keys():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}


def test_the_default_store_lies_in_the_root_and_so_does_a_relative_one(monkeypatch, tmp_path):
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/there/x.db")
    assert store_uri(Path("/elsewhere")) == f"sqlite:///{tmp_path}/there/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert store_uri(tmp_path) == "http://host:5000"


@contextlib.contextmanager
def serving(status: int):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_usable_stores_pass(tmp_path):
    check_store(f"sqlite:///{tmp_path}/mlflow.db")
    for status in (200, 401):
        with serving(status) as uri:
            check_store(uri)


def test_unusable_stores_are_refused_with_a_mend(tmp_path):
    (tmp_path / "notes.db").write_text("these are notes, not tables")
    port = closed_port()
    for uri, words in (
        (
            f"http://anna:secret@127.0.0.1:{port}",
            f"http://127.0.0.1:{port} cannot be reached .* start the server, or unset",
        ),
        ("./mlruns", "./mlruns is no store"),
        (f"file://{tmp_path}", "no store .*sqlite:///mlflow.db"),
        (f"sqlite:///{tmp_path}/no/such/mlflow.db", "no/such, .* does not exist: create it"),
        (f"sqlite:///{tmp_path}/notes.db", "notes.db is not an SQLite file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            check_store(uri)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    with serving(404) as uri, pytest.raises(UserError, match="answers 404 instead of being an MLflow server"):
        check_store(uri)


def test_switched_off_it_does_nothing(run_config, tmp_path):
    with Tracker.open(run_config("vae"), CARD, root=tmp_path, experiment="faces", mode="train") as tracker:
        tracker.metrics(1, {"train/loss": 1.0})
        tracker.image("samples", tmp_path / "none.png", 1)
        tracker.finish_training(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


# --- with MLflow: every tracker is a process of its own, so that several work at once

KILLED_TRAINING = """
import json, sys, time
from pathlib import Path
from visage.config import RunConfig
from visage.tracking import Tracker
folder, name = Path(sys.argv[1]), sys.argv[2]
with Tracker.open(RunConfig.load(name, folder / "configs"), json.loads(sys.argv[3]), root=folder, experiment="faces",
                  mode="train") as tracker:
    tracker.metrics(10, {"train/loss": 10.0})
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def tracking():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VISAGE_TRACKING")
        yield patch


@pytest.fixture(scope="module")
def configs(run_config):
    return {seed: run_config("vae").seeded(seed) for seed in range(4)}


def opened(root: Path, config, mode="train", evaluate=None) -> Tracker:
    return Tracker.open(config, CARD, root=root, experiment="faces", mode=mode, evaluate=evaluate)


def end_with(tracker: Tracker, error: BaseException) -> None:
    with contextlib.suppress(type(error)), tracker:
        raise error


@pytest.fixture(scope="module")
def root(tracking, tmp_path_factory, configs):
    """A store that four trainings at once have created: one finished, one failed, one interrupted, one killed."""
    root = tmp_path_factory.mktemp("my project")
    save(grid(np.zeros((2, 32, 32, 3), np.uint8), columns=2), root / "grid.png")
    dataclasses.replace(configs[3]).save(root / "configs")
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED_TRAINING, str(root), configs[3].name, json.dumps(CARD)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
    )
    assert killed.stdout.readline() == b"ready\n"
    trackers = [opened(root, configs[seed]) for seed in range(3)]
    for step in range(1, ROWS + 1):
        for tracker in trackers:
            tracker.metrics(step, {"train/loss": 1 / step, "train/kimg": step * 0.064})
    trackers[0].image("samples", root / "grid.png", 100)
    trackers[0].metrics(ROWS + 1, {"train/loss": float("inf"), "train/kimg": 20.0})
    (root / "grid.png").unlink()  # what was handed over may go
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    end_with(trackers[1], UserError("training diverged at step 7: lower train.lr"))
    end_with(trackers[2], KeyboardInterrupt())
    trackers[0].close("FINISHED")
    return root


@pytest.fixture(scope="module")
def runs(root):
    """A function: seed -> its MLflow runs as they are now, the latest first."""
    store = Store(root, "faces")

    def of(seed):
        order = ["attributes.start_time DESC"]
        return store.client.search_runs([store.experiment_id], f"params.seed = '{seed}'", order_by=order)

    of.client = store.client
    return of


def curve(runs, run, key):
    return [(point.step, point.value) for point in runs.client.get_metric_history(run.info.run_id, key)]


def test_four_processes_create_one_store_without_loss(runs):
    for seed in range(3):
        (run,) = runs(seed)
        assert curve(runs, run, "train/loss") == [(step, 1 / step) for step in range(1, ROWS + 1)]
    (killed,) = runs(3)
    assert curve(runs, killed, "train/loss") == [(10, 10.0)]


def test_a_run_says_how_it_ended(runs):
    status = {seed: runs(seed)[0].info.status for seed in range(3)}
    assert status == {0: "FINISHED", 1: "FAILED", 2: "KILLED"}
    assert runs(1)[0].data.tags["visage.reason"] == "training diverged at step 7: lower train.lr"
    assert "visage.reason" not in runs(0)[0].data.tags


def test_a_training_that_is_killed_leaves_a_killed_run(runs):
    (run,) = runs(3)
    assert run.info.status == "KILLED"
    assert run.data.tags["visage.reason"] == "the process died"


def test_a_run_tells_everything_about_itself(runs, configs):
    (run,) = runs(0)
    config = configs[0]
    assert run.info.run_name == "vae-32-0"
    params = run.data.params
    assert params["train.betas"] == "[0.9, 0.999]"
    assert params["model"] == "vae"
    assert params["model.latent_dim"] == str(config.settings["latent_dim"])
    assert params["code"] == config.code
    assert params["data.source"] == "synthetic"
    assert len(params) == 7 + len(config.settings) + len(dataclasses.fields(config.train)) + len(CARD)
    tags = run.data.tags
    assert tags["visage.run_key"] == config.key(CARD)
    assert (tags["run"], tags["recipe"], tags["size"], tags["dataset"]) == ("vae-32-0", "vae", "32", "synthetic")
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.digest == tags["data_hash"][:36]
    assert json.loads(dataset.source) == {"uri": "data/processed/train/vae-32.json"}


def test_runs_of_one_label_are_found_together(runs, root):
    found = runs.client.search_runs([Store(root, "faces").experiment_id], "tags.`visage.label` = 'vae-32'")
    assert {(run.info.run_name, run.data.tags["seed"]) for run in found} == {
        (f"vae-32-{seed}", str(seed)) for seed in range(4)
    }


def test_values_that_are_not_finite_stay_out_of_charts(runs):
    (run,) = runs(0)
    assert run.data.metrics["train/loss"] == 1 / ROWS
    assert run.data.metrics["train/kimg"] == 20.0
    assert run.data.tags["not_finite"] == f"train/loss at step {ROWS + 1}"


def test_sample_grids_come_with_a_slider(runs, root):
    (run,) = runs(0)
    names = [Path(item.path).name for item in runs.client.list_artifacts(run.info.run_id, "images")]
    assert any(name.startswith("samples+step+100+") and name.endswith(".png") for name in names)
    assert Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")).is_relative_to(root / "mlartifacts")


def test_training_resumes_and_evaluation_joins(root, runs, configs, tracking):
    write_run(root, configs[0])
    out = root / "runs" / "vae-32-0" / "evaluate"
    tracking.setenv("DVC_STAGE", "evaluate@vae-32-0")
    tracking.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    resumed = opened(root, configs[2])
    joined = opened(root, configs[0], "evaluate", EVALUATE)
    for step in range(ROWS - 5, ROWS + 3):
        resumed.metrics(step, {"train/loss": 1 / step})
    joined.finish_evaluation(out, METRICS, {"seconds": 3.0})
    resumed.close("FINISHED")
    joined.close("FINISHED")

    (run,) = runs(2)
    assert run.info.status == "FINISHED"
    assert "visage.reason" not in run.data.tags
    assert curve(runs, run, "train/loss") == [(step, 1 / step) for step in range(1, ROWS + 3)]

    (run,) = runs(0)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/ood/elbo"] == METRICS["ood"]["elbo"]
    assert run.data.metrics["cost/evaluate/seconds"] == 3.0
    assert run.data.metrics["valid/bits_per_dim"] == 4.75
    assert run.data.params["evaluate.images"] == "100"
    assert run.data.tags["evaluate.dvc_stage"] == "evaluate@vae-32-0"
    assert any(key.startswith("system/cpu") for key in run.data.metrics)
    paths = {item.path for item in runs.client.list_artifacts(run.info.run_id, "evaluate")}
    assert paths == {"evaluate/records.json", "evaluate/samples.png"}

    store = Store(root, "faces")
    assert not store.join(Subject.of(configs[0], CARD, EVALUATE), now()).new
    other = Subject.of(configs[0], CARD, dataclasses.replace(EVALUATE, images=50))
    log = store.join(other, now())
    assert log.new  # a run's parameters cannot change: other settings, other run
    log.end("FINISHED", "")
    assert store.resume(Subject.of(configs[0], CARD, None), now()).new  # a finished training that runs again


def test_a_server_that_dies_costs_one_warning(tracking, tmp_path, run_config, capfd):
    with serving(200) as uri:
        tracking.setenv("MLFLOW_TRACKING_URI", uri)
        tracking.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker = opened(tmp_path, run_config("vae"))
    with tracker:
        for step in range(100):
            tracker.metrics(step, {"train/loss": 1.0})
    tracking.delenv("MLFLOW_TRACKING_URI")
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1
    assert warning.startswith("warning: MLflow logs no more of this run (MlflowException: ")
    assert "python -m visage.sync" in warning
