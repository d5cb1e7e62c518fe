"""The files of a trained and measured run, as training and evaluation write them, without the hours."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
from visage.evaluation.records import model_hash
from visage.files import write_json, write_text
from visage.models.base import build
from visage.pictures import grid, save

CARD = {"source": "synthetic", "train": "0f" * 32, "valid": "a1" * 32}
EVALUATE = EvaluateConfig(
    images=100,
    ood_images=100,
    draws=2,
    network_calls=4000,
    samples=64,
    gallery=8,
    bootstrap=100,
    suite_images=10,
    importance_draws=2,
    quality_samples=64,
    inception=None,
    seed=0,
)
METRICS = {"recon_mse": 0.0125, "bits_per_dim": 3.5, "ood": {"elbo": 0.75}}
TRAIN_COST = {"seconds": 12.5, "device": "cpu", "threads": 2}
STEPS = (10, 20, 30)


def write_run(root: Path, config: RunConfig) -> None:
    config.save(root / "configs")
    EVALUATE.save(root / "configs")
    RuntimeConfig(device="cpu", threads=1, experiment="faces").save(root / "configs")
    write_json(root / "data" / "processed" / "train" / f"{config.label}.json", CARD)
    train, evaluate = (root / "runs" / config.name / stage for stage in ("train", "evaluate"))
    model = build(config.model, config.settings, config.size)
    train.mkdir(parents=True)
    save_file(model.state_dict(), train / "model.safetensors")
    about = {
        "config": asdict(config),
        "parameters": {"total": 7, "players": {"autoencoder": 7}},
        "steps": STEPS[-1],
        "images_shown": 960,
        "selected_step": 20,
        "selected_by": "bits_per_dim of the validation images",
    }
    write_json(train / "run.json", about)
    rows = [f"{step},{step * 0.032},0.001,{100 / step}" for step in STEPS]
    write_text(train / "history.csv", "\n".join(["step,kimg,lr,autoencoder/loss", *rows]) + "\n")
    write_text(train / "validation.csv", "step,kimg,bits_per_dim\n20,0.64,4.5\n30,0.96,4.75\n")
    picture = grid(np.zeros((2, 32, 32, 3), np.uint8), columns=2)
    for path in (train / "samples" / "0000020.png", evaluate / "samples.png"):
        save(picture, path)
    write_json(evaluate / "records.json", [{"name": "recon_mse", "value": 0.0125, "model_hash": model_hash(model)}])
    write_json(root / "metrics" / f"{config.name}.json", METRICS)
    write_json(root / "metrics" / "cost" / "train" / f"{config.name}.json", TRAIN_COST)
    write_json(root / "metrics" / "cost" / "evaluate" / f"{config.name}.json", {"seconds": 3.0})
