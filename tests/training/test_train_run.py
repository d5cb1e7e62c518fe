"""What a run's training refuses before it starts, and what it says that it cost."""

import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.small_data import write_processed
from tests.small_runs import AUTOENCODER, CARD, LATENT_DIFFUSION, RUNTIME, SIZE, WHERE, faces
from visage import train_run as module
from visage.config import ReportConfig
from visage.errors import UserError
from visage.files import write_json
from visage.inference.flops import flops_per_iteration
from visage.models.base import Batch
from visage.results import TrainingCost, cost_file, read
from visage.train_run import refuse_large_batches, train_run
from visage.training.outputs import build_model


def with_batch(config, size):
    return replace(config, train=replace(config.train, batch_size=size))


def hairy(config, black, blond, bald):
    """Faces of which so many have black hair, so many blond, and so many neither."""
    names = list(build_model(config).attributes)
    rows = [[name == kind for name in names] for kind, n in (
        ("Black_Hair", black), ("Blond_Hair", blond), ("", bald)
    ) for _ in range(n)]  # fmt: skip
    return replace(faces(len(rows), 1), attributes=np.array(rows, np.uint8), names=names)


def test_every_run_whose_batch_is_too_large_is_named_at_once(run_config):
    cyclegan = run_config("cyclegan")
    train = hairy(cyclegan, black=60, blond=6, bald=34)
    enough = [AUTOENCODER, with_batch(AUTOENCODER, 100), with_batch(cyclegan, 12)]
    refuse_large_batches(enough, train)
    second = replace(LATENT_DIFFUSION, first_stage=replace(with_batch(AUTOENCODER, 101), recipe="ae"))
    with pytest.raises(UserError) as error:
        refuse_large_batches([*enough, with_batch(AUTOENCODER, 102), with_batch(cyclegan, 14), second], train)
    assert str(error.value) == (
        "params.yaml: autoencoder-16: train.batch_size is 102, but there are 100 training images; "
        "cyclegan-32: train.batch_size is 14, 7 of each group, but there are 6 training images of group 1 of 2; "
        "ae-16: train.batch_size is 101, but there are 100 training images: lower train.batch_size, or use more images"
    )


def test_the_first_training_refuses_for_all_runs(tmp_path, monkeypatch):
    write_processed(tmp_path / "data" / "processed")  # 30 training images
    write_json(tmp_path / "data" / "processed" / "train" / f"{AUTOENCODER.label}.json", CARD)
    other = replace(with_batch(AUTOENCODER, 31), recipe="large", name=f"large-{SIZE}-0")
    for config in (RUNTIME, AUTOENCODER, other, ReportConfig((AUTOENCODER.name, other.name))):
        config.save(tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", AUTOENCODER.name])
    with pytest.raises(UserError, match=f"large-{SIZE}: train.batch_size is 31, but there are 30"):
        runpy.run_path(str(ROOT / "stages" / "train.py"))["main"]()
    assert not (tmp_path / "runs").exists()


def trained_cost(root):
    train_run(AUTOENCODER, CARD, *WHERE, faces(64, 1), faces(20, 2), root)
    return read(cost_file(root, AUTOENCODER.name, "train"), TrainingCost)


def test_operations_are_those_of_all_steps_and_whole_batches(tmp_path):
    batch = Batch(torch.zeros(16, 3, SIZE, SIZE), torch.zeros(16, 0))
    once = flops_per_iteration(build_model(AUTOENCODER), batch)
    assert trained_cost(tmp_path).train_pflop == pytest.approx(12 * once / 1e15, rel=1e-3)


def test_a_count_that_fails_costs_the_figure_and_not_the_training(tmp_path, monkeypatch, capsys):
    def fails(model, batch):
        raise torch.OutOfMemoryError("a GPU is full")

    monkeypatch.setattr(module, "flops_per_iteration", fails)
    assert trained_cost(tmp_path).train_pflop is None
    assert "not counted (OutOfMemoryError: a GPU is full)" in "".join(capsys.readouterr())
    assert (tmp_path / "runs" / AUTOENCODER.name / "train" / "model.safetensors").is_file()
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_memory_is_measured_before_operations_are_counted(tmp_path, monkeypatch):
    order = []
    for name in ("footprint", "flops_per_iteration"):
        original = getattr(module, name)
        spy = lambda *args, name=name, original=original: order.append(name) or original(*args)  # noqa: E731
        monkeypatch.setattr(module, name, spy)
    trained_cost(tmp_path)
    assert order == ["footprint", "flops_per_iteration"]
