import shutil
from dataclasses import replace

import pytest

from tests.factory import CARD, EVALUATE, write_run
from visage.errors import UserError
from visage.results import Training, read, write
from visage.tracking.identity import RunIdentity
from visage.tracking.log import Store
from visage.tracking.sync import sync_all
from visage.training.outputs import build_model
from visage.weights import save_weights


@pytest.fixture(scope="module")
def config(run_config):
    return run_config("vae")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One store for all tests here: creating its tables takes seconds."""
    home = tmp_path_factory.mktemp("home")
    Store(home, "faces")
    return home


def project(root, config, **changes):
    """A working copy with one finished run, unlike every other one's."""
    changed = replace(config, **changes)
    write_run(root, changed)
    return changed


def find(home, config):
    store = Store(home, "faces")
    wanted = f"tags.`visage.config_key` = '{config.key({})}'"
    return store.client, store.client.search_runs([store.experiment_id], wanted)


def test_a_lost_run_is_rebuilt_once(home, tmp_path, config):
    config = project(tmp_path, config, seed=1)
    done = sync_all(tmp_path, home)["vae-32-0"]
    assert done.startswith("rebuilt, ")
    assert "16 metrics" in done  # 7 of the evaluation, 9 numbers of cost
    assert "13 points" in done  # 3 rows of kimg, lr, loss; 2 rows of kimg, bits_per_dim
    assert sync_all(tmp_path, home) == {"vae-32-0": "up to date"}

    client, (run,) = find(home, config)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval/ood/nll"] == 0.75
    assert run.data.params["parameters.total"] == "7"
    assert run.data.tags["selected_step"] == "20"
    assert run.data.tags["train.device"] == "cpu"
    history = client.get_metric_history(run.info.run_id, "train/autoencoder/loss")
    assert [(point.step, point.value) for point in history] == [(10, 10.0), (20, 5.0), (30, 3.333333)]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"evaluate", "images", "train"}


def test_a_first_stage_is_rebuilt_with_its_run(home, tmp_path, run_config):
    config = project(tmp_path, run_config("latent_diffusion"))
    assert "26 points" in sync_all(tmp_path, home)[config.name]
    assert sync_all(tmp_path, home) == {config.name: "up to date"}

    client, (run,) = find(home, config)
    for stage in ("", "first_stage/"):
        history = client.get_metric_history(run.info.run_id, f"{stage}train/autoencoder/loss")
        assert [point.step for point in history] == [10, 20, 30]
        assert run.data.metrics[f"{stage}valid/bits_per_dim"] == 4.75
    assert run.data.metrics["cost/train/first_stage/seconds"] == 12.5
    assert run.data.metrics["cost/train/first_stage/threads"] == 2.0
    assert run.data.tags["train.first_stage.device"] == "cpu"
    paths = {item.path for item in client.list_artifacts(run.info.run_id, "train/first_stage")}
    assert paths == {f"train/first_stage/{name}" for name in ("run.json", "history.csv", "validation.csv")}
    pictures = [item.path for item in client.list_artifacts(run.info.run_id, "images") if item.path.endswith(".png")]
    assert len(pictures) == 2


def test_a_run_that_broke_off_is_completed(home, tmp_path, config):
    config = project(tmp_path, config, seed=2)
    log = Store(home, "faces").resume(RunIdentity.of(config, CARD, None), 0)
    log.points([(0, 10, {"train/autoencoder/loss": 10.0})])
    log.end("FAILED", "the disk is full")
    assert "12 points" in sync_all(tmp_path, home)["vae-32-0"]
    client, (run,) = find(home, config)
    assert run.info.status == "FINISHED"
    assert "visage.reason" not in run.data.tags
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/autoencoder/loss")]
    assert steps == [10, 20, 30]
    assert sync_all(tmp_path, home) == {"vae-32-0": "up to date"}


def test_a_fresh_clone_gives_figures_and_dvc_pull_the_rest(home, tmp_path, config):
    config = project(tmp_path, config, seed=3)
    for folder in ("runs", "data"):
        (tmp_path / folder).rename(tmp_path / f"{folder}.remote")
    assert "figures only" in sync_all(tmp_path, home)["vae-32-0"]
    client, (run,) = find(home, config)
    assert run.data.metrics["eval/recon_mse"] == 0.0125
    assert run.data.params["train.lr"] == str(config.train.lr)
    assert sync_all(tmp_path, home)["vae-32-0"].startswith("up to date")
    for folder in ("runs", "data"):
        (tmp_path / f"{folder}.remote").rename(tmp_path / folder)
    assert "completed, " in sync_all(tmp_path, home)["vae-32-0"]
    client, (run,) = find(home, config)
    assert run.data.params["data.source"] == "synthetic"
    assert len(client.get_metric_history(run.info.run_id, "train/lr")) == 3
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "data")
    assert sync_all(tmp_path, home)["vae-32-0"].startswith("up to date")  # another clone, the same server


def test_figures_of_other_weights_are_left_out(home, tmp_path, config):
    config = project(tmp_path, config, seed=4)
    weights = tmp_path / "runs" / "vae-32-0" / "train" / "model.safetensors"
    save_weights(weights, build_model(config).state_dict())
    assert "figures are of other weights" in sync_all(tmp_path, home)["vae-32-0"]
    _, (run,) = find(home, config)
    assert "train/lr" in run.data.metrics
    assert not any(key.startswith("eval/") for key in run.data.metrics)


def test_results_of_other_settings_are_left_alone(home, tmp_path, config):
    config = project(tmp_path, config, seed=5)
    path = tmp_path / "runs" / "vae-32-0" / "train" / "run.json"
    write(path, replace(read(path, Training), config=replace(config, seed=6)))
    assert "trained with other settings" in sync_all(tmp_path, home)["vae-32-0"]
    assert find(home, config)[1] == []


def test_new_evaluation_settings_are_a_new_run(home, tmp_path, config):
    config = project(tmp_path, config, seed=7)
    sync_all(tmp_path, home)
    replace(EVALUATE, images=50).save(tmp_path / "configs")
    assert sync_all(tmp_path, home)["vae-32-0"].startswith("rebuilt")
    _, runs = find(home, config)
    assert {run.data.params["evaluate.images"] for run in runs} == {"50", "100"}


def test_it_names_what_is_missing(home, tmp_path, config):
    with pytest.raises(UserError, match=r"configs is missing: run .* after `dvc repro`"):
        sync_all(tmp_path, home)
    project(tmp_path, config, seed=8)
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "metrics")
    assert sync_all(tmp_path, home) == {
        "vae-32-0": "no results here: run `dvc repro evaluate@vae-32-0`, or `dvc pull` where there is a remote"
    }
