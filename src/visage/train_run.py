"""One run's training from end to end: where the loop meets checkpoints, files and MLflow."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from visage.config import RunConfig, RuntimeConfig
from visage.data.arrays import Faces
from visage.evaluation.flops import flops_per_iteration
from visage.evaluation.preview import preview
from visage.evaluation.validation import validation_bits_per_dim
from visage.files import write_json
from visage.models.base import build
from visage.tracking import Tracker
from visage.training.checkpoint import Checkpoint
from visage.training.devices import choose_device, choose_precision, footprint
from visage.training.feed import Feed
from visage.training.loop import Training, run
from visage.training.outputs import load_trained, save_samples, write_outputs

VALIDATION_IMAGES = 512


class _Observer:
    """Keeps the sample grids beside the checkpoint, and passes all on to MLflow."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.folder, self.tracker = folder, tracker

    def row(self, values: dict[str, float]) -> None:
        self.tracker.metrics(int(values["step"]), _named("train", values))

    def validated(self, values: dict[str, float]) -> None:
        self.tracker.metrics(int(values["step"]), _named("valid", values))

    def sampled(self, step: int, images: NDArray[np.uint8]) -> None:
        self.tracker.image("samples", save_samples(self.folder, step, images), step)


def train_run(
    config: RunConfig, card: dict[str, Any], runtime: RuntimeConfig, train: Faces, valid: Faces, root: Path
) -> None:
    """Train one run to the end, continuing where an earlier attempt stopped, and write `runs/<name>/train`.

    card: the data card of the run's training, part of what identifies it.
    root: the project's root; the checkpoint of an unfinished training lives under DVC_ROOT, which is the same folder
        except in DVC's temporary copies, and survives them.

    Raises:
        UserError: no such device, an unreachable MLflow server, a training that diverges, a full disk.
    """
    device = choose_device(runtime.device)
    precision = choose_precision(config.train.precision, device)
    key = config.key(card)
    home = Path(os.environ.get("DVC_ROOT", root))
    with (
        Checkpoint(home / ".scratch" / f"{config.name}-{key[:16]}") as checkpoint,
        Tracker.open(config, card, root=home, experiment=runtime.experiment, mode="train") as tracker,
    ):
        torch.manual_seed(config.seed)
        before = config.first_stage
        first = load_trained(root / "runs" / before.name / "train", before) if before else None
        model = build(config.model, config.settings, config.size, first)
        model = model.to(device).to(memory_format=torch.channels_last)
        attributes = train.columns(model.attributes)
        feed = Feed(
            train.images,
            attributes,
            batch_size=config.train.batch_size,
            flip=config.train.flip,
            seed=config.seed,
            device=device,
            groups=model.groups(torch.from_numpy(attributes).float()),
        )
        training = Training(model, config.train, feed, seed=config.seed, autocast=precision)
        outcome = run(
            training,
            checkpoint,
            _Observer(checkpoint.folder, tracker),
            validate=lambda averaged: validation_bits_per_dim(
                averaged, valid.images[:VALIDATION_IMAGES], config.seed, device
            ),
            sample=lambda averaged: preview(averaged, valid, config.seed, device),
            title=config.name,
        )
        out = root / "runs" / config.name / "train"
        write_outputs(out, config, training, outcome, checkpoint.folder)
        operations = flops_per_iteration(model, feed.next()) * training.step
        cost = {
            "train_pflop": float(f"{operations / 1e15:.4g}"),
            "seconds": round(outcome.log.seconds, 1),
            "images_per_second": round(training.images_shown / outcome.log.seconds, 1),
            **footprint(device, precision),
        }
        write_json(root / "metrics" / "cost" / "train" / f"{config.name}.json", cost)
        tracker.finish_training(out, cost)
        checkpoint.remove()


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items() if name != "step"}
