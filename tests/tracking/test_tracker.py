import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import ROOT
from tests.factory import CARD, EVALUATE, EVALUATION_COST, TRAINING_COST, write_run
from tests.tracking.conftest import loggers, wait_until
from visage.errors import UserError
from visage.machine import private_folder
from visage.pictures import grid, save
from visage.tracking import Tracker, client
from visage.tracking.events import now
from visage.tracking.identity import RunIdentity, flat
from visage.tracking.log import RunLog, Store

ROWS = 300


def test_flat_joins_keys():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}


def test_switched_off_it_does_nothing(run_config, tmp_path):
    with Tracker.open(run_config("vae"), CARD, root=tmp_path, experiment="faces", mode="train") as tracker:
        tracker.metrics(1, {"train/loss": 1.0})
        tracker.image("samples", tmp_path / "none.png", 1)
        tracker.finish_training(tmp_path, TRAINING_COST)
    assert list(tmp_path.iterdir()) == []


# --- Two trainings at once, and the process that logs both.

KILLED_TRAINING = """
import json, sys, time
from pathlib import Path
from visage.config import RunConfig
from visage.tracking import Tracker, client, events

def cut(event):
    if not isinstance(event, events.Image):
        return events.encode(event)
    if event.step == 20:  # everything before it is in the pipe
        print("ready", flush=True)
        time.sleep(600)
    return events.encode(event)[:20]  # the kill comes in the middle of a line

client.encode = cut
folder, name = Path(sys.argv[1]), sys.argv[2]
with Tracker.open(RunConfig.load(name, folder / "configs"), json.loads(sys.argv[3]), root=folder, experiment="faces",
                  mode="train") as tracker:
    tracker.metrics(10, {"train/loss": 10.0})
    tracker.image("samples", folder / "grid.png", 10)
    tracker.image("samples", folder / "grid.png", 20)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def configs(run_config):
    return {seed: run_config("vae").seeded(seed) for seed in range(11)}


def opened(root: Path, config, mode="train", evaluate=None) -> Tracker:
    return Tracker.open(config, CARD, root=root, experiment="faces", mode=mode, evaluate=evaluate)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("my project")


@pytest.fixture(scope="module")
def runs(tracking, root, configs):
    """A function: seed -> its MLflow runs as they are now, the latest first.

    Two trainings and this process create the store at once. Training 0 has finished, and training 1 was killed.
    """
    save(grid(np.zeros((2, 32, 32, 3), np.uint8), columns=2), root / "grid.png")
    configs[1].save(root / "configs")
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED_TRAINING, str(root), configs[1].name, json.dumps(CARD)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
    )
    tracker = opened(root, configs[0])
    for step in range(1, ROWS + 1):
        tracker.metrics(step, {"train/loss": 1 / step, "train/kimg": step * 0.064})
    tracker.metrics(ROWS + 1, {"train/loss": float("inf"), "train/kimg": 20.0})
    tracker.image("samples", root / "grid.png", 100)
    assert killed.stdout.readline() == b"ready\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (root / "grid.png").unlink()  # what was handed over may go
    store = Store(root, "faces")

    def found(seed):
        order = ["attributes.start_time DESC"]
        return store.client.search_runs([store.experiment_id], f"params.seed = '{seed}'", order_by=order)

    found.client = store.client
    wait_until(lambda: found(0) and measured(found(0)[0]))
    tracker.close("FINISHED")
    wait_until(lambda: found(1) and found(1)[0].info.status != "RUNNING")
    return found


def measured(run) -> bool:
    """Whether it shows what the machine did meanwhile."""
    return any(key.startswith("system/cpu") for key in run.data.metrics)


def curve(runs, run, key):
    return [(point.step, point.value) for point in runs.client.get_metric_history(run.info.run_id, key)]


def test_two_trainings_and_another_process_create_one_store_at_once_without_loss(runs):
    (run,) = runs(0)
    assert curve(runs, run, "train/loss") == [(step, 1 / step) for step in range(1, ROWS + 1)]
    (killed,) = runs(1)
    assert curve(runs, killed, "train/loss") == [(10, 10.0)]


def test_one_process_serves_all(runs, root):
    assert len(loggers(root)) == 1


def test_a_finished_training_leaves_a_finished_run(runs):
    (run,) = runs(0)
    assert run.info.status == "FINISHED"
    assert "visage.reason" not in run.data.tags


def test_a_training_that_is_killed_leaves_a_killed_run(runs):
    (run,) = runs(1)
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
    assert json.loads(dataset.source) == {"uri": "data/processed/32/train.npy"}


def test_the_machine_is_measured_for_each_of_several_runs(runs, root, configs):
    with opened(root, configs[4]) as one, opened(root, configs[5]) as two:
        one.metrics(1, {"train/loss": 1.0})
        two.metrics(1, {"train/loss": 2.0})
        wait_until(lambda: all(runs(seed) and measured(runs(seed)[0]) for seed in (4, 5)))


def test_runs_of_one_label_are_found_together(runs, root):
    found = runs.client.search_runs([Store(root, "faces").experiment_id], "tags.`visage.label` = 'vae-32'")
    assert {("vae-32-0", "0"), ("vae-32-1", "1")} <= {(run.info.run_name, run.data.tags["seed"]) for run in found}


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


# --- More trainings, logged by the same process


def test_an_interrupted_training_is_killed_and_resumes_without_a_gap(runs, root, configs):
    with contextlib.suppress(KeyboardInterrupt), opened(root, configs[2]) as tracker:
        for step in range(1, 8):
            tracker.metrics(step, {"train/loss": 1 / step})
        raise KeyboardInterrupt
    (run,) = runs(2)
    assert run.info.status == "KILLED"
    assert run.data.tags["visage.reason"] == "KeyboardInterrupt"

    with opened(root, configs[2]) as tracker:
        for step in range(5, 12):
            tracker.metrics(step, {"train/loss": 1 / step})
    (run,) = runs(2)
    assert run.info.status == "FINISHED"
    assert "visage.reason" not in run.data.tags
    assert curve(runs, run, "train/loss") == [(step, 1 / step) for step in range(1, 12)]


def test_a_training_that_fails_says_why(runs, root, configs):
    with contextlib.suppress(UserError), opened(root, configs[3]):
        raise UserError("training diverged at step 7: lower train.lr")
    (run,) = runs(3)
    assert run.info.status == "FAILED"
    assert run.data.tags["visage.reason"] == "training diverged at step 7: lower train.lr"


def test_evaluation_joins_the_training(runs, root, configs, monkeypatch):
    results = write_run(root, configs[0])
    monkeypatch.setenv("DVC_STAGE", "evaluate@vae-32-0")
    with opened(root, configs[0], "evaluate", EVALUATE) as tracker:
        tracker.finish_evaluation(root / "runs" / "vae-32-0" / "evaluate", results, EVALUATION_COST)

    (run,) = runs(0)
    assert run.info.status == "FINISHED"
    assert {key: value for key, value in run.data.metrics.items() if key.startswith("eval/")} == {
        "eval/recon_mse": 0.0125,
        "eval/bits_per_dim": 3.5,
        "eval/ood_auroc": 0.75,
        "eval/ood/nll": 0.75,
        "eval/ood/kl": 0.5,
        "eval/sets/blur": 0.625,
        "eval/tripwires/posterior_collapse": 0.0,
    }
    assert run.data.metrics["cost/evaluate/seconds"] == 3.0
    assert run.data.metrics["cost/evaluate/peak_memory_mb"] == 800.0
    assert run.data.metrics["valid/bits_per_dim"] == 4.75
    assert run.data.params["evaluate.images"] == "100"
    assert run.data.tags["evaluate.dvc_stage"] == "evaluate@vae-32-0"
    assert run.data.tags["evaluate.device"] == "cpu"
    assert run.data.tags["tripwire.posterior_collapse"] == "ok: the KL is 20 nats"
    paths = {item.path for item in runs.client.list_artifacts(run.info.run_id, "evaluate")}
    assert paths == {f"evaluate/{name}" for name in ("results.json", "samples.png", "worst_recon_mse.png")}

    store = Store(root, "faces")
    assert not store.join(RunIdentity.of(configs[0], CARD, EVALUATE), now()).new
    other = RunIdentity.of(configs[0], CARD, dataclasses.replace(EVALUATE, images=50))
    log = store.join(other, now())
    assert log.new  # a run's parameters cannot change: other settings, other run
    log.end("FINISHED", "")
    assert store.resume(RunIdentity.of(configs[0], CARD, None), now()).new  # a finished training that runs again


def test_an_experiment_of_dvc_names_its_run(runs, root, configs, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "small-beta")
    opened(root, configs[6]).close("FINISHED")
    (run,) = runs(6)
    assert run.info.run_name == "vae-32-6 [small-beta]"
    assert run.data.tags["train.dvc_experiment"] == "small-beta"


# --- when logging fails


def test_a_run_that_breaks_ends_alone(runs, root, configs, capfd):
    with opened(root, configs[4]) as other:
        with opened(root, configs[5]) as broken:
            broken.finish_training(root / "nowhere", TRAINING_COST)
        warning = capfd.readouterr().err
        assert warning.count("\n") == 1
        assert "nowhere/run.json is missing" in warning
        other.metrics(7, {"train/loss": 7.0})
    assert capfd.readouterr().err == ""
    assert runs(4)[0].data.metrics["train/loss"] == 7.0
    assert len(loggers(root)) == 1


def killed(root):
    """Kill the process that logs, without a word."""
    (logger,) = loggers(root)
    logger.kill()
    wait_until(lambda: not logger.is_running() or logger.status() == psutil.STATUS_ZOMBIE)


def test_a_process_that_is_killed_is_replaced_and_nothing_is_missing_or_doubled(runs, root, configs, capfd):
    with opened(root, configs[7]) as tracker:
        tracker.metrics(1, {"train/loss": 1.0})
        wait_until(lambda: runs(7) and "train/loss" in runs(7)[0].data.metrics)
        tracker.metrics(2, {"train/loss": 2.0})
        killed(root)
        for step in range(3, 100):
            tracker.metrics(step, {"train/loss": float(step)})
    assert capfd.readouterr().err == ""
    (run,) = runs(7)
    assert run.info.status == "FINISHED"
    assert curve(runs, run, "train/loss") == [(step, float(step)) for step in range(1, 100)]


@pytest.mark.long
def test_a_process_that_is_killed_again_and_again_costs_one_warning(runs, root, configs, capfd, monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    tracker = opened(root, configs[8])
    wait_until(lambda: runs(8))
    killed(root)
    with tracker:
        for step in range(100):
            tracker.metrics(step, {"train/loss": 1.0})
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1
    assert "(the process that logs was killed 1 times; " in warning

    with opened(root, configs[8]) as tracker:
        tracker.metrics(1, {"train/loss": 0.5})
    assert capfd.readouterr().err == ""
    (run,) = runs(8)
    assert run.info.status == "FINISHED"


def test_a_training_that_had_finished_goes_on_in_its_run(runs, root, configs):
    """As after a kill between the end of a training and DVC's note of it."""
    for again in (False, True):
        with Tracker.open(configs[9], CARD, root=root, experiment="faces", mode="train", again=again) as tracker:
            tracker.metrics(1, {"train/loss": 1.0})
    (run,) = runs(9)
    assert run.info.status == "FINISHED"
    assert curve(runs, run, "train/loss") == [(1, 1.0)]


def test_a_run_that_was_cut_off_while_it_was_made_is_completed(runs, root, configs):
    identity, store = RunIdentity.of(configs[10], CARD, None), Store(root, "faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "describe", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            store.resume(identity, now())
    with opened(root, configs[10]) as tracker:
        tracker.metrics(1, {"train/loss": 1.0})
    found = store.client.search_runs([store.experiment_id], f"tags.`visage.run_key` = '{identity.key}'")
    (run,) = found
    assert run.info.status == "FINISHED"
    assert run.data.params == identity.params
    assert run.inputs.dataset_inputs[0].dataset.name == "synthetic"


def test_without_a_socket_a_training_goes_on(tracking, configs, tmp_path, capfd):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "no" / "such" / "folder"))
        with opened(tmp_path, configs[0]) as tracker:
            tracker.metrics(1, {"train/loss": 1.0})
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1
    assert "no/such/folder" in warning
    assert "python -m visage.tracking.sync" in warning


def test_a_server_that_dies_costs_one_warning(tracking, serving, tmp_path, run_config, capfd, monkeypatch):
    with serving(200) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//anna:planted@"))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracker = opened(tmp_path, run_config("vae"))
    with tracker:
        for step in range(100):
            tracker.metrics(step, {"train/loss": 1.0})
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1
    assert warning.startswith("warning: MLflow logs no more of this run (MLflow cannot use the store http://***@127")
    assert "planted" not in warning + "".join(path.read_text() for path in private_folder().glob("*.log"))
    assert "python -m visage.tracking.sync" in warning
