"""A training that has ended is kept until DVC has recorded it, whatever happens in between."""

import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.small_data import SETTINGS, write_data
from tests.small_runs import AUTOENCODER, CARD, WHERE, faces
from visage.errors import UserError
from visage.evaluate_run import evaluate_run
from visage.results import TrainingCost, cost_file, read
from visage.scratch import is_recorded, scratch_folder
from visage.train_run import train_run

STAGE = f"train@{AUTOENCODER.name}"
PIPED = {"stdout": subprocess.PIPE, "text": True}
TRAIN = f"runs/{AUTOENCODER.name}/train"


def go(root):
    train_run(AUTOENCODER, CARD, *WHERE, faces(64, 1), faces(20, 2), root)


def outputs(root):
    return {path.relative_to(root): path.read_bytes() for path in (root / "runs").rglob("*") if path.is_file()}


def lock(root, md5):
    """A dvc.lock in which the training was run with a config of this checksum, between two other stages."""
    text = "schema: '2.0'\nstages:\n"
    for stage, checksum in (("train@other-16-0", "0" * 32), (STAGE, md5), ("report", "1" * 32)):
        text += f"  {stage}:\n    cmd: python stages/train.py\n    deps:\n"
        text += f"    - path: configs/{AUTOENCODER.name}.json\n      hash: md5\n      md5: {checksum}\n      size: 1\n"
        text += f"    outs:\n    - path: {TRAIN}\n      hash: md5\n      md5: {'2' * 32}.dir\n"
    (root / "dvc.lock").write_text(text)


@pytest.fixture
def config_md5(tmp_path):
    AUTOENCODER.save(tmp_path / "configs")
    return hashlib.md5((tmp_path / "configs" / f"{AUTOENCODER.name}.json").read_bytes()).hexdigest()


def test_outputs_that_dvc_deletes_are_restored_without_training(tmp_path, capsys):
    """DVC deletes the outputs of a stage that it has not recorded before it runs the stage again."""
    go(tmp_path)
    before = outputs(tmp_path)
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    go(tmp_path)
    shown = "".join(capsys.readouterr())
    assert "was finished before" in shown
    assert "step" not in shown
    assert outputs(tmp_path) == before  # and what it cost


def test_a_disk_that_is_full_when_the_outputs_are_written_costs_no_training(tmp_path, monkeypatch):
    copytree = shutil.copytree

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        go(tmp_path)
    monkeypatch.setattr(shutil, "copytree", copytree)
    go(tmp_path)
    assert (tmp_path / TRAIN / "model.safetensors").is_file()


def test_it_is_recorded_where_the_lock_names_the_files_as_they_are(tmp_path, config_md5):
    assert not is_recorded(tmp_path, STAGE)
    lock(tmp_path, "3" * 32)
    assert not is_recorded(tmp_path, STAGE)
    lock(tmp_path, config_md5)
    assert is_recorded(tmp_path, STAGE)
    assert not is_recorded(tmp_path, "train@unknown-16-0")
    (tmp_path / "configs" / f"{AUTOENCODER.name}.json").write_text("{}")
    assert not is_recorded(tmp_path, STAGE)


def test_an_evaluation_deletes_it_once_it_is_recorded_and_not_before(tmp_path, config_md5):
    write_data(tmp_path / "data")
    go(tmp_path)
    kept = scratch_folder(tmp_path, AUTOENCODER, CARD)
    for md5, there in (("3" * 32, True), (config_md5, False)):
        lock(tmp_path, md5)
        evaluate_run(AUTOENCODER, CARD, SETTINGS, *WHERE, tmp_path)
        assert kept.is_dir() == there


@pytest.mark.long
def test_two_that_train_the_same_run_train_it_once(tmp_path, monkeypatch, capsys):
    """As two experiments do that share a run; each has a working copy of its own, and the scratch folder is shared."""
    copies = [tmp_path / "one", tmp_path / "two"]
    for copy in copies:
        copy.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    script = (
        "import sys; from pathlib import Path; from tests.small_runs import *; from visage.train_run import train_run;"
        "print('ready', flush=True);"
        "train_run(AUTOENCODER, CARD, *WHERE, faces(64, 1), faces(20, 2), Path(sys.argv[1]))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-c", script, copies[0]]
    with subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT, **PIPED) as other:
        assert other.stdout.readline() == "ready\n"
        go(copies[1])
        texts = [other.communicate(timeout=120)[0], "".join(capsys.readouterr())]
    assert other.returncode == 0, texts
    assert sorted("was finished before" in text for text in texts) == [False, True], texts
    assert outputs(copies[0]) == outputs(copies[1])
    assert read(cost_file(copies[0], AUTOENCODER.name, "train"), TrainingCost).seconds > 0
