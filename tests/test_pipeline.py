"""The whole pipeline in a real DVC repository with a real MLflow store: what a user types, and what comes of it."""

import contextlib
import json
import os
import runpy
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from dvc.api import artifacts_show
from dvc.repo import Repo

from tests.conftest import ROOT
from visage.results import StageCost, read

SETTINGS = {
    "runs": ["beta_vae-16", "latent_diffusion-16"],
    "seeds": [0],
    "preprocess.sizes": [16],
    "data.synthetic.images": 140,
    "evaluate.images": 12,
    "evaluate.ood_images": 12,
    "evaluate.bootstrap": 100,
    "evaluate.samples": 4,
    "evaluate.gallery": 4,
    "evaluate.derived_images": 6,
    "evaluate.importance_draws": 2,
    "evaluate.quality_samples": 8,
    "attribute_network.kimg": 0.2,
    "train.batch_size": 16,
    "train.snapshots": 2,
    "recipes.vae.demo.train.warmup_kimg": 0,
    "recipes.beta_vae.demo.train.kimg": 0.16,
    "recipes.autoencoder.demo.train.kimg": 0.16,
    "recipes.latent_diffusion.demo.train.kimg": 0.16,
    "recipes.latent_diffusion.model.sampling_steps": 2,
    "runtime.threads": 1,
}
NAMES = ("beta_vae-16-0", "latent_diffusion-16-0")


def change(project: Path, settings: dict) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    for dotted, value in settings.items():
        *path, last = dotted.split(".")
        section = params
        for key in path:
            section = section[key]
        section[last] = value
    yaml.dump(params, project / "params.yaml")


def call(project: Path, *command: str, ok: bool = True) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VISAGE", "MLFLOW", "DVC"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text[-4000:]
    return text


def stages_run(text: str) -> set[str]:
    return {line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage")}


def configure(project: Path) -> None:
    """Run that stage, in this process: imports take seconds."""
    with contextlib.chdir(project), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path.copy())  # which a stage adds to
        runpy.run_path("stages/configure.py", run_name="__main__")


def stale(project: Path, settings: dict | None = None, edits: dict | None = None) -> set[str]:
    """The stages that DVC would run after a change of parameters, or of words in source files, besides `configure`.

    What `dvc status` tells, without a new process.
    """
    change(project, settings or {})
    for file, (before, after) in (edits or {}).items():
        text = (project / file).read_text()
        assert before in text, file
        (project / file).write_text(text.replace(before, after, 1))
    configure(project)
    with contextlib.chdir(project), Repo() as repo:
        names = set(repo.status())
    call(project, "git", "checkout", "-q", ".")
    call(project, "git", "clean", "-fdq", "configs")
    assert "configure" in names
    return names - {"configure"}


def origin(folder: Path, *more: str) -> Path:
    """A git repository that holds the project, and more of its folders, with tiny settings and without results."""
    folder.mkdir(parents=True)
    for name in ("src", "stages", "judged", *more):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    change(folder, SETTINGS)
    call(folder, "git", "init", "-q")
    call(folder, "git", "config", "user.email", "test@example.org")
    call(folder, "git", "config", "user.name", "test")
    call(folder, "dvc", "init", "-q")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-qm", "work")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A clone of the project with tiny settings, after the command behind `make repro`."""
    folder = origin(tmp_path_factory.mktemp("clone") / "visage")
    said = call(folder, sys.executable, "-m", "visage.pipeline")
    assert "ran again" not in said
    commit(folder)
    return folder


def test_everything_is_there(project):
    page = (project / "report" / "index.html").read_text()
    for name in NAMES:
        assert name.removesuffix("-0") in page
        metrics = json.loads((project / "metrics" / f"{name}.json").read_text())
        assert 0 <= metrics["ood_auroc"] <= 1
        history = pd.read_csv(project / "runs" / name / "train" / "history.csv")
        assert history["step"].iloc[-1] == (5 if name.startswith("latent") else 10)  # batches of 32, and of 16
        assert not history.isna().any().any()
    assert 0 < json.loads((project / "metrics" / "beta_vae-16-0.json").read_text())["recon_mse"] < 1
    for name in ("attribute_network", "reference"):
        assert "16" in json.loads((project / "metrics" / f"{name}.json").read_text())
    for name in ("download", "preprocess", "attribute_network", "reference", "report"):
        cost = read(project / "metrics" / "cost" / f"{name}.json", StageCost)
        assert 10 < cost.peak_memory_mb < 5000
        assert cost.seconds > 0
    assert not list(project.rglob("*.tmp*"))
    assert not list((project / ".scratch").glob("*/checkpoint.pt"))


def test_nothing_that_git_keeps_is_large_or_left_over(project):
    assert call(project, "git", "status", "--porcelain") == ""
    tracked = [project / name for name in call(project, "git", "ls-files").split()]
    assert sum(path.stat().st_size for path in tracked) < 2_000_000


def test_make_repro_leaves_the_report_to_dvc_and_then_nothing(project):
    assert stages_run((project / ".scratch" / "logs" / "repro.log").read_text()) == {"report"}
    assert stages_run(call(project, "dvc", "repro")) == set()


def test_a_run_trains_its_first_stage(project):
    """The latents that were learned are those of the autoencoder that the same stage trained, to the bit."""
    from safetensors.numpy import load_file

    folder = project / "runs" / "latent_diffusion-16-0" / "train"
    first, second = (load_file(folder / path / "model.safetensors") for path in ("first_stage", "."))
    assert all((second[f"first.{name}"] == weight).all() for name, weight in first.items())
    for recipe in ("latent_diffusion", "autoencoder"):
        stages = stale(project, {f"recipes.{recipe}.demo.train.kimg": 0.32})
        assert stages == {"train@latent_diffusion-16-0", "evaluate@latent_diffusion-16-0"}


def test_a_new_seed_or_a_shorter_list_leaves_the_other_runs_alone(project):
    new = {f"{stage}@{name[:-1]}1" for stage in ("train", "evaluate") for name in NAMES}
    assert stale(project, {"seeds": [0, 1]}) == {*new, "report"}
    assert stale(project, {"runs": ["beta_vae-16"]}) == {"report"}


def test_words_run_the_report_alone_and_measures_what_uses_them(project):
    edits = {
        "src/visage/report/captions.py": ("none was picked", "none of them was picked"),
        "src/visage/measures/table.py": ("1 = identical", "1 means identical"),
    }
    assert stale(project, edits=edits) == {"report"}
    evaluations = {f"evaluate@{name}" for name in NAMES}
    assert stale(project, edits={"src/visage/measures/ood.py": ("CHUNK = 250", "CHUNK = 200")}) == evaluations
    derived = {"src/visage/reference/derived_sets.py": ("TREMOR = 2.0", "TREMOR = 2.5")}
    assert stale(project, edits=derived) == {"reference", *evaluations}


def mlflow_runs(project):
    with sqlite3.connect(project / "mlflow.db") as db:
        runs = dict(db.execute("select name, status from runs").fetchall())
        metrics = {
            name: {
                key
                for (key,) in db.execute(
                    "select distinct key from metrics join runs using (run_uuid) where name = ?", (name,)
                )
            }
            for name in runs
        }
    return runs, metrics


def test_each_run_is_one_mlflow_run_with_curves_and_figures(project):
    runs, metrics = mlflow_runs(project)
    assert {name: runs[name] for name in NAMES} == dict.fromkeys(NAMES, "FINISHED")
    beta_vae, latent_diffusion = (metrics[name] for name in NAMES)
    assert {"train/autoencoder/loss", "valid/bits_per_dim", "eval/recon_mse", "eval/ood_auroc"} <= beta_vae
    assert {"first_stage/train/autoencoder/loss", "train/unet/loss", "eval/ood_auroc"} <= latent_diffusion


def test_beta_retrains_the_beta_vae_alone(project):
    assert stale(project, {"model.beta": 1.2}) == {"train@beta_vae-16-0", "evaluate@beta_vae-16-0"}


@pytest.mark.long
def test_beta_retrains_the_beta_vae_alone_under_the_experiments_name(project):
    text = call(project, "dvc", "exp", "run", "-n", "lighter", "-S", "model.beta=1.2")
    assert stages_run(text) == {"configure", "train@beta_vae-16-0", "evaluate@beta_vae-16-0", "report"}
    head = call(project, "dvc", "exp", "show", "--only-changed", "--md").splitlines()[0]
    assert "metrics/summary/beta_vae-16-0.json:fd_attr128" in head
    assert head.count("|") < 20, "a table that fits a pull request"
    assert "latent_diffusion-16-0" in call(project, "dvc", "metrics", "show", "--md")
    assert "1.2" in call(project, "dvc", "params", "diff", "--md")
    rows = [line for line in call(project, "dvc", "metrics", "diff", "--md").splitlines() if "metrics/" in line]
    assert {row.split()[1] for row in rows} == {"metrics/summary/beta_vae-16-0.json"}
    runs, _ = mlflow_runs(project)
    assert any("lighter" in name for name in runs)
    call(project, "git", "reset", "-q", "--hard")
    call(project, "dvc", "checkout", "-q")
    assert stages_run(call(project, "dvc", "repro")) == set()


def elsewhere(project: Path, folder: Path) -> Path:
    """A clone of the project as it was before anything ran: without results, without dvc.lock."""
    call(folder.parent, "git", "clone", "-q", str(project), folder.name)
    call(folder, "git", "checkout", "-q", "HEAD~1")
    assert not (folder / "dvc.lock").exists()
    return folder


def contents(project: Path, folder: str) -> dict[str, bytes]:
    paths = [path for path in (project / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(project)): path.read_bytes() for path in paths}


@pytest.mark.long
def test_a_clone_with_the_same_cache_runs_nothing_again(project, tmp_path):
    """As on the nodes of a cluster, each of which has a clone of its own, and which share a folder for the cache."""
    clone = elsewhere(project, tmp_path / "clone")
    call(clone, "dvc", "cache", "dir", "--local", str(project / ".dvc" / "cache"))
    assert stages_run(call(clone, "dvc", "repro", *(f"evaluate@{name}" for name in NAMES))) == {"configure"}
    assert "runs/latent_diffusion-16-0/evaluate/results.json" in contents(project, "runs")
    assert contents(clone, "runs") == contents(project, "runs")


@pytest.fixture(scope="module")
def remote(project, tmp_path_factory):
    """A folder that everything is pushed to; the project and its clones know it by name."""
    folder = tmp_path_factory.mktemp("remote")
    call(project, "dvc", "remote", "add", "--local", "-d", "far", str(folder))
    call(project, "dvc", "push", "--run-cache")
    return folder


@pytest.mark.long
def test_a_clone_on_another_machine_pulls_what_has_been_pushed_and_runs_nothing_again(project, remote, tmp_path):
    clone = elsewhere(project, tmp_path / "clone")
    call(clone, "dvc", "remote", "add", "--local", "-d", "far", str(remote))
    assert stages_run(call(clone, "dvc", "repro", "--pull")) == {"configure", "report"}
    here, there = (contents(folder, "metrics") for folder in (clone, project))
    report = "metrics/cost/report.json"  # of the one stage that ran again
    assert here | {report: there[report]} == there
    assert (clone / "report" / "index.html").is_file()
    assert contents(clone, "runs") == contents(project, "runs")


@pytest.mark.long
def test_weights_are_fetched_by_the_name_of_their_run_from_a_clone(project, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    clone, name, path = tmp_path / "clone", NAMES[0], f"runs/{NAMES[0]}/train/model.safetensors"
    call(tmp_path, "git", "clone", "-q", str(project), "clone")
    with (clone / "dvc.yaml").open("a") as file:
        file.write(f"  {name}: {{path: {path}, type: model}}\n")  # as for any run that is not shipped
    call(clone, "dvc", "remote", "add", "-d", "far", str(remote))
    for key, value in (("user.email", "test@example.org"), ("user.name", "test")):
        call(clone, "git", "config", key, value)
    commit(clone)
    call(clone, "git", "tag", "-a", f"{name}@v1.0.0", "-m", "the first one that is good")
    assert artifacts_show(name, repo=str(clone))["path"] == path
    call(tmp_path, "dvc", "artifacts", "get", str(clone), name, "-o", "fetched.safetensors")
    assert (tmp_path / "fetched.safetensors").read_bytes() == (project / path).read_bytes()
    assert not (clone / "runs" / name / "train").exists()


def test_a_mistake_stops_everything_at_once_and_costs_nothing(project):
    before = (project / "configs" / "beta_vae-16-0.json").read_bytes()
    change(project, {"recipes.beta_vae.demo.train.kimg": -1})
    text = call(project, "dvc", "repro", ok=False)
    assert stages_run(text) == {"configure"}
    assert "error: params.yaml" in text
    assert "kimg" in text
    assert "Traceback" not in text
    assert (project / "configs" / "beta_vae-16-0.json").read_bytes() == before
    call(project, "git", "checkout", "-q", "params.yaml")


def test_a_missing_gpu_is_said_before_anything_runs(project, capsys):
    change(project, {"runtime.device": "mps" if sys.platform == "linux" else "cuda"})
    with pytest.raises(SystemExit) as ended:  # and a stage that ends like this ends `dvc repro`, as above
        configure(project)
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: params.yaml: runtime.device")
    call(project, "git", "checkout", "-q", "params.yaml")


@pytest.mark.long
def test_an_unreachable_mlflow_server_stops_a_training_before_it_begins(project):
    environment = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PYTHONPATH": "src"}
    environment.pop("VISAGE_TRACKING", None)
    done = subprocess.run(
        [sys.executable, "stages/train.py", "beta_vae-16-0"],
        cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_plots_can_be_shown_and_compared(project):
    text = call(project, "dvc", "plots", "show")
    assert "index.html" in text
    assert "failed" not in text.lower()
