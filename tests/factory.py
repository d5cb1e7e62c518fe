"""A trained and measured run: its files as training and evaluation write them, without the hours."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
from visage.files import write_json
from visage.pictures import grid, save
from visage.results import (
    TEST,
    VERSION,
    Enrichment,
    EvaluationCost,
    Face,
    Footprint,
    Gallery,
    Odds,
    Parameters,
    PerImage,
    Picture,
    Record,
    Results,
    Training,
    TrainingCost,
    Tripwire,
    write,
)
from visage.training.outputs import build_model, save_samples, write_csv
from visage.weights import save_weights, weights_hash

CARD = {"source": "synthetic", "train": "0f" * 32, "valid": "a1" * 32}
EVALUATE = EvaluateConfig(
    images=100,
    ood_images=100,
    draws=2,
    network_calls=4000,
    least_images=16,
    samples=64,
    gallery=8,
    bootstrap=100,
    derived_images=10,
    importance_draws=2,
    quality_samples=64,
    slow_samples=64,
    inception=None,
    seed=0,
)
FOOTPRINT = Footprint(peak_memory_mb=800, device="cpu", precision="float32", threads=2)
TRAINING_COST = TrainingCost(train_pflop=0.5, seconds=12.5, images_per_second=76.8, footprint=FOOTPRINT)
EVALUATION_COST = EvaluationCost(seconds=3.0, images_per_second=33.3, footprint=FOOTPRINT)
STEPS = (10, 20, 30)
BLACK = np.zeros((2, 32, 32, 3), np.uint8)


def write_run(root: Path, config: RunConfig) -> Results:
    """Write configs, the training's card, `runs/<name>` and `metrics` of a run with its initial weights."""
    for settings in (config, EVALUATE, RuntimeConfig(device="cpu", threads=1, deterministic=False, experiment="faces")):
        settings.save(root / "configs")
    write_json(root / "data" / "processed" / "train" / f"{config.label}.json", CARD)

    folder, metrics = root / "runs" / config.name, root / "metrics"
    model = build_model(config)
    _write_training(folder / "train", config)
    save_weights(folder / "train" / "model.safetensors", model.state_dict())
    cost = replace(TRAINING_COST, first_stage=TRAINING_COST if config.first_stage else None)
    write(metrics / "cost" / "train" / f"{config.name}.json", cost)

    found = results(config.name, weights_hash(model))
    write(folder / "evaluate" / "results.json", found)
    for picture in found.pictures:
        save(grid(BLACK, picture.columns), folder / "evaluate" / picture.file)
    per_image().save(folder / "evaluate" / "scores.npz")
    write_json(metrics / f"{config.name}.json", found.metrics())
    write(metrics / "cost" / "evaluate" / f"{config.name}.json", EVALUATION_COST)
    return found


def results(name: str, model_hash: str) -> Results:
    """Results with something of every kind."""
    return Results(
        version=VERSION,
        run=name,
        data_hash="0f" * 32,
        model_hash=model_hash,
        default_score="nll",
        headline="drawn_clothes",
        records=[
            Record("recon_mse", "exact", 0.0125, 100, (0.0115, 0.0135)),
            Record("bits_per_dim", "upper_bound", 3.5, 100),
            Record("auroc", "exact", 0.75, 100, (0.7, 0.8), images="drawn_clothes", score="nll"),
            Record("auroc", "exact", 0.5, 100, images="drawn_clothes", score="kl"),
            Record("auroc", "exact", 0.625, 10, images="blur", score="nll"),
            Record("masked_mse", "undefined", note="the model fills no gaps"),
        ],
        tripwires=[Tripwire("posterior_collapse", "ok", "the KL is 20 nats", value=20.0, limit=1.0)],
        galleries=[
            Gallery("recon_mse", "worst", "worst_recon_mse.png", 100, [Face(4, "000005.jpg", 0.2, ["Smiling"])])
        ],
        enrichment=[
            Enrichment("recon_mse", 100, 10, [Odds("Smiling", 5, 45, 5.0, 1.0, (0.2, 4.0), True, "", 1.0)], 1.0)
        ],
        pictures=[Picture("samples.png", 2, 1, {"shown": 2}), Picture("worst_recon_mse.png", 2, 1)],
        abilities={"inpaints": "the model fills no gaps"},
    )


def per_image() -> PerImage:
    """The scores of four held-out faces and of four other images."""
    low, high = np.arange(4.0), np.arange(4.0) + 2
    rows = {TEST: np.arange(4), "drawn_clothes": np.arange(4)}
    return PerImage(
        rows, np.array([7, 7, -1, -1]), {TEST: {"nll": low}, "drawn_clothes": {"nll": high}}, {"recon_mse": low}
    )


def _write_training(folder: Path, config: RunConfig) -> None:
    training = Training(
        version=VERSION,
        key=config.key(CARD),
        config=config,
        parameters=Parameters(total=7, players={"autoencoder": 7}),
        steps=STEPS[-1],
        images_shown=960,
        selected_step=20,
        selected_by="bits_per_dim of the validation images",
    )
    write(folder / "run.json", training)
    history = [{"step": step, "kimg": step * 0.032, "lr": 0.001, "autoencoder/loss": 100 / step} for step in STEPS]
    validation = [{"step": 20, "kimg": 0.64, "bits_per_dim": 4.5}, {"step": 30, "kimg": 0.96, "bits_per_dim": 4.75}]
    write_csv(folder / "history.csv", history, [])
    write_csv(folder / "validation.csv", validation, [])
    save_samples(folder, 20, BLACK)
    if config.first_stage:
        _write_training(folder / "first_stage", config.first_stage)
