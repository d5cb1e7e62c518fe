"""A run that works in the latents of another model trains that model first, but never twice."""

from dataclasses import replace

import pytest
import torch

from tests.small_runs import AUTOENCODER, CARD, LATENT_DIFFUSION, WHERE, faces
from visage.errors import UserError
from visage.results import Training, TrainingCost, cost_file, read
from visage.train_run import train_run
from visage.weights import load_weights

FIRST, SECOND = AUTOENCODER.name, LATENT_DIFFUSION.name


@pytest.fixture
def train(capsys, tmp_path):
    """A function that trains a run in a project; returns which trainings made a progress bar, in order."""

    def call(config, card=CARD, root=tmp_path):
        capsys.readouterr()
        train_run(config, card, *WHERE, faces(64, 1), faces(20, 2), root)
        shown = capsys.readouterr().err
        return sorted((name for name in (FIRST, SECOND) if f"{name}: " in shown), key=shown.index)

    return call


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def out(root, name=SECOND):
    return root / "runs" / name / "train"


def cost(root, name=SECOND):
    return read(cost_file(root, name, "train"), TrainingCost)


def test_the_first_stage_is_trained_inside_and_kept_with_the_run(train, tmp_path):
    assert train(LATENT_DIFFUSION) == [FIRST, SECOND]
    first, second = (
        load_weights(folder / "model.safetensors") for folder in (out(tmp_path) / "first_stage", out(tmp_path))
    )
    assert first
    assert all(torch.equal(second[f"first.{name}"], weight) for name, weight in first.items())
    assert {path.name for path in out(tmp_path).iterdir()} == {
        "model.safetensors", "run.json", "history.csv", "validation.csv", "samples", "first_stage"
    }  # fmt: skip
    about = read(out(tmp_path) / "run.json", Training)
    assert (about.config, about.key) == (LATENT_DIFFUSION, LATENT_DIFFUSION.key(CARD))
    about = read(out(tmp_path) / "first_stage" / "run.json", Training)
    assert (about.config, about.key, about.steps) == (AUTOENCODER, AUTOENCODER.key(CARD), 12)
    assert cost(tmp_path).first_stage.train_pflop > 0
    assert cost(tmp_path).first_stage.first_stage is None
    assert not out(tmp_path, FIRST).exists()  # the run of that name is another stage of the pipeline
    assert not list((tmp_path / ".scratch").rglob("checkpoint.pt"))


def test_another_second_stage_does_not_train_the_first_again(train, tmp_path):
    train(LATENT_DIFFUSION)
    before, paid = files(out(tmp_path) / "first_stage"), cost(tmp_path)
    slower = replace(LATENT_DIFFUSION, train=replace(LATENT_DIFFUSION.train, lr=0.001))
    assert train(slower) == [SECOND]
    assert files(out(tmp_path) / "first_stage") == before
    assert cost(tmp_path).first_stage == paid.first_stage
    assert read(out(tmp_path) / "run.json", Training).key == slower.key(CARD)


@pytest.mark.long
def test_another_first_stage_or_other_data_train_both_again(train):
    train(LATENT_DIFFUSION)
    weaker = replace(AUTOENCODER, settings=AUTOENCODER.settings | {"kl_weight": 0.01})
    assert train(replace(LATENT_DIFFUSION, first_stage=weaker)) == [FIRST, SECOND]
    assert train(LATENT_DIFFUSION, card=CARD | {"train": "00"}) == [FIRST, SECOND]


def test_a_finished_run_of_the_same_key_is_the_first_stage(train, tmp_path):
    assert train(AUTOENCODER) == [FIRST]
    assert train(LATENT_DIFFUSION) == [SECOND]
    assert files(out(tmp_path) / "first_stage") == files(out(tmp_path, FIRST))
    assert cost(tmp_path).first_stage == cost(tmp_path, FIRST)
    other = tmp_path / "other"
    assert train(LATENT_DIFFUSION, root=other) == [FIRST, SECOND]
    assert files(out(other)) == files(out(tmp_path))  # trained inside or beforehand, to the byte


def test_a_finished_run_of_another_key_is_not(train, tmp_path):
    train(replace(AUTOENCODER, train=replace(AUTOENCODER.train, lr=0.001)))
    assert train(LATENT_DIFFUSION) == [FIRST, SECOND]
    assert read(out(tmp_path) / "first_stage" / "run.json", Training).key == AUTOENCODER.key(CARD)
    assert files(out(tmp_path) / "first_stage") != files(out(tmp_path, FIRST))


def test_the_cost_of_a_finished_run_may_be_unknown(train, tmp_path):
    """As in a clone that has the run's outputs from DVC's cache, and no figures of cost."""
    train(AUTOENCODER)
    cost_file(tmp_path, FIRST, "train").unlink()
    train(LATENT_DIFFUSION)
    assert cost(tmp_path).first_stage is None


def test_a_first_stage_that_fails_leaves_nothing_half_done(train, tmp_path):
    hungry = replace(AUTOENCODER, train=replace(AUTOENCODER.train, batch_size=100))
    with pytest.raises(UserError, match="batch_size is 100, but there are 64"):
        train(replace(LATENT_DIFFUSION, first_stage=hungry))
    assert not (tmp_path / "runs").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert train(LATENT_DIFFUSION) == [FIRST, SECOND]
