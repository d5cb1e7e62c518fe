"""Models, sets of images, seeds and the registry in MLflow: what a user finds and loads there."""

import json
import re
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.entities import LoggedModelStatus

from tests.conftest import ROOT
from tests.factory import write_run
from visage.config import RunConfig, RuntimeConfig
from visage.data.card import DataCard, ExternalSet
from visage.errors import UserError
from visage.files import read_json
from visage.maths.pixels import to_uint8
from visage.maths.streams import torch_generator
from visage.results import Record, Results, Tripwire, read, write
from visage.tracking import announce, models, seeds
from visage.tracking.identity import PARENT_KEY
from visage.tracking.log import Store
from visage.tracking.standings import best_runs
from visage.tracking.sync import sync_all
from visage.training.outputs import build_model, load_trained
from visage.weights import save_weights

DATA = DataCard(
    source="synthetic",
    title="drawn faces",
    note="",
    crop=(),
    filter="bicubic",
    sizes=(32,),
    counts={"train": 400, "valid": 40, "test": 50},
    ood=(ExternalSet("drawn_clothes", "drawn_clothes", "drawn clothes", "drawn", 60),),
    skipped=[],
    hashes={"32": {"train": "1" * 64, "valid": "2" * 64, "test": "3" * 64, "ood/drawn_clothes": "4" * 64}},
    label_hashes={},
    data_hash={"32": "0f" * 32},  # that of the factory's results
)
SEEDS = (0, 1)
BITS = {"vae-32-0": 3.5, "vae-32-1": 3.0, "mae-32-0": None}
"""Bits per dimension of the runs in the project; the first and the last one have a tripped wire below."""


def measured(root, config, bits, fd, tripped=False):
    """A run of the project, with figures of its own."""
    found = write_run(root, config)
    records = [record for record in found.records if record.metric != "bits_per_dim"]
    records += [Record("fd_attr128", "estimate", fd, 100)]
    if bits is not None:
        records += [Record("bits_per_dim", "upper_bound", bits, 100)]
    wires = [Tripwire("mode_collapse", "tripped" if tripped else "ok", "what was looked at")]
    write(root / "runs" / config.name / "evaluate" / "results.json", replace(found, records=records, tripwires=wires))


@pytest.fixture(scope="module")
def project(tmp_path_factory, run_config):
    """The working directory: a project of three runs, two of which differ in their seed alone, after `make sync`."""
    root = tmp_path_factory.mktemp("project")
    write(root / "data" / "processed" / "card.json", DATA)
    for seed, bits, fd in ((0, 3.5, 20.0), (1, 3.0, 30.0)):
        measured(root, run_config("vae").seeded(seed), bits, fd)
    measured(root, run_config("mae"), None, 10.0, tripped=True)
    done = sync_all(root, root)
    assert all(done[name].startswith("rebuilt") for name in BITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("DVC_ROOT", raising=False)
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        yield root
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def store(project):
    return Store(project, "faces")


def run_of(store, name):
    (run,) = store.client.search_runs([store.experiment_id], f"tags.run = '{name}'")
    return run


def model_of(store, name):
    (output,) = run_of(store, name).outputs.model_outputs
    return store.client.get_logged_model(output.model_id)


def counts(store):
    """How much there is of everything."""
    client, experiments = store.client, [store.experiment_id]
    runs = client.search_runs(experiments)
    histories = [len(client.get_metric_history(run.info.run_id, key)) for run in runs for key in run.data.metrics]
    return (
        len(runs),
        sum(histories),
        len(client.search_logged_models(experiments)),
        len(client.search_model_versions()),
        sum(len(run.inputs.dataset_inputs) for run in runs),
    )


def test_a_second_sync_adds_nothing(project, store):
    before = counts(store)
    assert sync_all(project, project) == dict.fromkeys(BITS, "up to date")
    assert counts(store) == before


def test_a_model_names_the_weights_that_dvc_keeps_and_holds_none(project, store):
    model = model_of(store, "vae-32-0")
    assert model.status == LoggedModelStatus.READY
    assert (model.name, model.model_type) == ("vae-32-0", "vae")
    assert model.params["train.lr"] == run_of(store, "vae-32-0").data.params["train.lr"]
    files = {item.path for item in store.client.list_logged_model_artifacts(model.model_id)}
    assert files <= {"MLmodel", "weights.json", "registered_model_meta"}
    folder = project / "mlartifacts" / "models" / model.model_id / "artifacts"
    pointer = read_json(folder / "weights.json")
    assert pointer["folder"] == "runs/vae-32-0/train"
    assert pointer["sha256"] == run_of(store, "vae-32-0").data.tags["weights_sha256"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2000


def test_a_loaded_model_draws_what_the_weights_draw(project, store):
    import torch

    loaded = mlflow.pyfunc.load_model(f"models:/{model_of(store, 'vae-32-0').model_id}")
    images = loaded.predict({"n": 70, "seed": 5})
    assert (images.shape, images.dtype) == ((70, 32, 32, 3), np.uint8)
    trained = load_trained(project / "runs" / "vae-32-0" / "train", read_config(project, "vae-32-0"))
    trained = trained.to(memory_format=torch.channels_last)  # as evaluations have it
    with torch.no_grad():
        expected = to_uint8(trained.sample(70, torch_generator(5, "samples 0"))).numpy()  # those of an evaluation
    assert (images == expected).all()
    two = loaded.predict(pd.DataFrame({"n": [2, 3], "seed": [5, 0]}))
    assert (two == np.concatenate([loaded.predict({"n": 2, "seed": 5}), loaded.predict({"n": 3})])).all()
    with pytest.raises(UserError, match=r"n must be at least 1 and seed at least 0, got n=0"):
        loaded.predict({"n": 0})


def read_config(project, name):
    return RunConfig.load(name, project / "configs")


def test_a_model_that_draws_no_samples_says_why(store):
    loaded = mlflow.pyfunc.load_model(f"models:/{model_of(store, 'mae-32-0').model_id}")
    with pytest.raises(UserError, match=r"mae-32-0 cannot draw samples: .*patches"):
        loaded.predict({"n": 1})


def test_missing_and_other_weights_are_named(project, store, tmp_path, monkeypatch):
    uri = f"models:/{model_of(store, 'vae-32-0').model_id}"
    weights = project / "runs" / "vae-32-0" / "train" / "model.safetensors"
    mlflow.set_tracking_uri(f"sqlite:///{project / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"runs/vae-32-0/train/model\.safetensors is neither in .*dvc pull train@vae"):
        mlflow.pyfunc.load_model(uri)
    shutil.copytree(weights.parent, tmp_path / "runs" / "vae-32-0" / "train")
    other = tmp_path / "runs" / "vae-32-0" / "train" / weights.name
    save_weights(other, build_model(read_config(project, "vae-32-1")).state_dict())
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    with pytest.raises(UserError, match=r"holds other weights than this model of vae-32-0"):
        mlflow.pyfunc.load_model(uri)
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert mlflow.pyfunc.load_model(uri).predict({"n": 1}).shape == (1, 32, 32, 3)


def test_figures_belong_to_the_model_and_to_the_images_that_they_were_measured_on(store):
    metrics = {metric.key: metric for metric in model_of(store, "vae-32-0").metrics}
    assert metrics["eval/recon_mse"].value == 0.0125
    sets = {key: (metric.dataset_name, metric.dataset_digest) for key, metric in metrics.items()}
    assert sets["eval/recon_mse"] == sets["eval/sets/blur"] == ("synthetic-test", "3" * 36)
    assert sets["eval/ood_auroc"] == sets["eval/ood/kl"] == ("drawn_clothes", "4" * 36)
    inputs = run_of(store, "vae-32-0").inputs.dataset_inputs
    found = {one.tags[0].value: json.loads(one.dataset.source)["uri"] for one in inputs}
    assert found == {
        "training": "data/processed/32/train.npy",
        "testing": "data/processed/32/test.npy",
        "ood": "data/processed/32/ood/drawn_clothes.npy",
    }
    assert json.loads(inputs[-1].dataset.profile or "{}").get("num_rows") in (50, 60)


def test_a_run_says_who_made_it_of_which_commit_and_what_was_found(store):
    tags = run_of(store, "vae-32-0").data.tags
    assert tags["mlflow.source.type"] == "LOCAL"
    assert re.fullmatch(r"[0-9a-f]{40}", tags.get("mlflow.source.git.commit", "0" * 40))
    assert tags["mlflow.user"]
    assert "| Recon. MSE ↓ | 0.0125 | 0.0115 to 0.0135 |" in tags["mlflow.note.content"]
    assert "No tripwire is tripped" in tags["mlflow.note.content"]
    assert "Tripped: mode_collapse" in run_of(store, "mae-32-0").data.tags["mlflow.note.content"]


def test_a_note_that_was_edited_stays(project, store):
    run = run_of(store, "mae-32-0")
    store.client.set_tag(run.info.run_id, "mlflow.note.content", "my own words")
    sync_all(project, project)
    assert run_of(store, "mae-32-0").data.tags["mlflow.note.content"] == "my own words"


# --- seeds


def parents(store):
    return [run for run in store.client.search_runs([store.experiment_id]) if PARENT_KEY in run.data.tags]


def test_two_seeds_stand_below_one_run_with_their_mean_and_range(store):
    (parent,) = parents(store)
    assert (parent.info.run_name, parent.info.status) == ("vae-32", "FINISHED")
    metrics = parent.data.metrics
    assert metrics["eval/bits_per_dim"] == 3.25
    assert (metrics["lowest/bits_per_dim"], metrics["highest/bits_per_dim"]) == (3.0, 3.5)
    assert parent.data.tags["seeds"] == "0, 1"
    assert "train.lr" in parent.data.params
    assert "seed" not in parent.data.params
    children = [run_of(store, f"vae-32-{seed}") for seed in SEEDS]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert "mlflow.parentRunId" not in run_of(store, "mae-32-0").data.tags  # it has one seed


def test_of_two_runs_that_were_made_for_the_same_seeds_one_stays(project, store):
    """As two machines may make them at the same moment."""
    (parent,) = parents(store)
    twin = store.client.create_run(
        store.experiment_id, run_name="vae-32", start_time=parent.info.start_time + 1, tags={
            PARENT_KEY: parent.data.tags[PARENT_KEY]
        }
    )  # fmt: skip
    store.client.set_tag(run_of(store, "vae-32-1").info.run_id, seeds.PARENT, twin.info.run_id)
    sync_all(project, project)
    assert [run.info.run_id for run in parents(store)] == [parent.info.run_id]
    assert run_of(store, "vae-32-1").data.tags[seeds.PARENT] == parent.info.run_id


def test_a_clone_that_gets_its_data_later_keeps_the_run_above_its_seeds(project, tmp_path, run_config):
    for seed in SEEDS:
        measured(tmp_path, run_config("dcgan").seeded(seed), None, 20.0)
    runtime = RuntimeConfig(device="cpu", threads=1, deterministic=False, experiment="clone")
    runtime.save(tmp_path / "configs")
    found = []
    for there in (False, True):
        for folder in ("runs", "data"):
            (tmp_path / (f"{folder}.remote" if there else folder)).rename(
                tmp_path / (folder if there else f"{folder}.remote")
            )
        sync_all(tmp_path, project)
        found += [run.info.run_id for run in parents(Store(project, "clone"))]
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_model_that_was_cut_off_while_it_was_made_is_completed(project, store, run_config):
    config = run_config("autoencoder")
    measured(project, config, None, 50.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_add_files", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sync_all(project, project)
    sync_all(project, project)
    wanted = f"tags.run = '{config.name}'"
    (model,) = store.client.search_logged_models([store.experiment_id], wanted)
    assert model.status == LoggedModelStatus.READY
    assert model_of(store, config.name).model_id == model.model_id
    for path in (project / "runs" / config.name, project / "configs" / f"{config.name}.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# --- the registry


def aliases(store):
    registered = store.client.search_registered_models("name LIKE 'faces-%'")
    runs = {}
    for model in registered:
        for alias, version in model.aliases.items():
            runs[f"{model.name}@{alias}"] = store.client.get_model_version(model.name, version).tags["run"]
    return runs


def test_aliases_name_the_best_runs_of_a_size_that_set_no_wire_off(store):
    """The masked autoencoder's distance is the lowest, but it collapsed."""
    assert aliases(store) == {"faces-32@best-fd": "vae-32-0", "faces-32@best-bpd": "vae-32-1"}
    assert mlflow.pyfunc.load_model("models:/faces-32@best-bpd").predict({"n": 2}).shape == (2, 32, 32, 3)


def test_an_estimate_of_bits_per_dim_is_no_guarantee(project, tmp_path, run_config):
    measured(tmp_path, run_config("vae"), 3.5, 1.0)
    file = tmp_path / "runs" / "vae-32-0" / "evaluate" / "results.json"
    found = read(file, Results)
    guess = [record if record.value is None else replace(record, kind="estimate") for record in found.records]
    write(file, replace(found, records=guess))
    assert [one.alias for one in best_runs(tmp_path, ["vae-32-0"])] == ["best-fd"]


def test_the_reports_stage_moves_an_alias_and_wont_fail(project, store, monkeypatch, capfd):
    monkeypatch.delenv("VISAGE_TRACKING")
    names = ["vae-32-0", "vae-32-1"]
    file = project / "runs" / "vae-32-0" / "evaluate" / "results.json"
    before, found = file.read_bytes(), read(file, Results)
    lower = [replace(one, value=2.0) if one.metric == "bits_per_dim" else one for one in found.records]
    write(file, replace(found, records=lower))
    announce(project, "faces", best_runs(project, names))
    assert capfd.readouterr().err == ""
    assert aliases(store)["faces-32@best-bpd"] == "vae-32-0"
    versions = store.client.search_model_versions("name = 'faces-32'")
    assert len(versions) == 2  # it has been a best one before
    file.write_bytes(before)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    announce(project, "faces", best_runs(project, names))
    warning = capfd.readouterr().err
    assert warning.startswith("warning: MLflow's registry does not name the best runs (the MLflow server http://127")
    assert warning.count("\n") == 1
    monkeypatch.setenv("VISAGE_TRACKING", "off")
    announce(project, "faces", best_runs(project, names))
    assert capfd.readouterr().err == ""


def test_everything_is_found_after_the_project_was_moved(project, tmp_path_factory, monkeypatch):
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(project, moved)
    store = Store(moved, "faces")
    model = model_of(store, "vae-32-1")
    assert model.artifact_location.startswith((moved / "mlartifacts").as_uri())
    (version,) = [one for one in store.client.search_model_versions() if one.tags["run"] == "vae-32-1"]
    assert version.source == model.artifact_location


# --- the documentation


def examples():
    """The Python in docs/tracking.md."""
    text = (ROOT / "docs" / "tracking.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_examples_of_the_documentation_run(project, capsys):
    code = "\n".join(examples()).replace("visage-", "faces-").replace('"visage"', '"faces"')
    exec(compile(code, "docs/tracking.md", "exec"), found := {"__name__": "examples"})
    assert list(found["best"]["tags.run"]) == ["vae-32-1", "vae-32-0"]
    assert set(found["seeds"]["tags.seed"]) == {"0", "1"}
    assert found["images"].shape == (16, 32, 32, 3)
    assert found["means"]["metrics.eval/bits_per_dim"].tolist() == [3.25]
