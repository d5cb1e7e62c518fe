"""One run's training from end to end: where the loop meets checkpoints, files and MLflow."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from visage.config import RunConfig, RuntimeConfig
from visage.data.arrays import Faces
from visage.errors import UserError
from visage.files import replacing_folder
from visage.inference.flops import flops_per_iteration
from visage.inference.preview import preview
from visage.inference.validation import validation_bits_per_dim
from visage.maths.ranks import here
from visage.models.base import GenerativeModel, build, find
from visage.results import Training as TrainingRecord
from visage.results import TrainingCost, read, write
from visage.tracking import Tracker
from visage.training.checkpoint import Checkpoint
from visage.training.devices import choose_device, footprint
from visage.training.feed import Feed, shortage, uneven
from visage.training.loop import Training, run
from visage.training.outputs import build_model, load_trained, save_samples, write_outputs
from visage.training.ranks import told

VALIDATION_IMAGES = 512
COUNTED_IMAGES = 4
"""The images of which operations are counted: few, so that this takes less memory than the training did."""
FIRST_STAGE = "first_stage"
"""The folder of a run's outputs, and the prefix of its curves, that hold the training of its first stage."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What the trainings of a run share: its data, device, folders and log. home: of checkpoints."""

    card: dict[str, Any]
    train: Faces
    valid: Faces
    device: torch.device
    root: Path
    home: Path
    tracker: Tracker


class _Observer:
    """Keeps the sample grids beside the checkpoint, and passes everything on to MLflow."""

    def __init__(self, folder: Path, tracker: Tracker, prefix: str) -> None:
        self.folder, self.tracker, self.prefix = folder, tracker, prefix

    def row(self, values: dict[str, float]) -> None:
        self.tracker.metrics(int(values["step"]), _named(f"{self.prefix}train", values))

    def validated(self, values: dict[str, float]) -> None:
        self.tracker.metrics(int(values["step"]), _named(f"{self.prefix}valid", values))

    def sampled(self, step: int, images: NDArray[np.uint8]) -> None:
        self.tracker.image(f"{self.prefix}samples", save_samples(self.folder, step, images), step)


def refuse_large_batches(configs: Sequence[RunConfig], train: Faces) -> None:
    """Refuse every run whose batches want more images than there are, before the first run is trained.

    Raises:
        UserError: there are such runs; all of them are named.
    """
    found: dict[str, str] = {}
    for config in configs:
        for stage in (config, *([config.first_stage] if config.first_stage else [])):
            if lack := shortage(len(train.images), _groups(stage, train), stage.train.batch_size):
                found.setdefault(stage.label, lack)
    if found:
        reasons = "; ".join(f"{label}: {lack}" for label, lack in found.items())
        raise UserError(f"params.yaml: {reasons}: lower train.batch_size, or use more images")


def refuse_uneven_batches(configs: Sequence[RunConfig], train: Faces, devices: int) -> None:
    """Refuse every run whose batches cannot be shared out to so many devices, likewise.

    Raises:
        UserError: there are such runs; all of them are named.
    """
    stages = [stage for config in configs for stage in (config, config.first_stage) if stage and devices > 1]
    misfits = {stage.label: uneven(stage.train.batch_size, _groups(stage, train), devices) for stage in stages}
    if reasons := "; ".join(f"{label}: {misfit}" for label, misfit in misfits.items() if misfit):
        raise UserError(f"params.yaml: {reasons}")


def _groups(config: RunConfig, train: Faces) -> torch.Tensor | None:
    """The group of each training image; only models that have groups are built for it."""
    if find(config.model).groups is GenerativeModel.groups:
        return None
    model = build_model(config)
    return model.groups(torch.from_numpy(train.columns(model.attributes)).float())


def train_run(
    config: RunConfig, card: dict[str, Any], runtime: RuntimeConfig, train: Faces, valid: Faces, root: Path
) -> None:
    """Train one run to the end, continuing where an earlier attempt stopped, and write `runs/<name>/train`.

    A run that works in the latents of another model trains that first stage before its own training, unless the very
    same training (config, code and data) is finished already: as a run of this project, or in an earlier attempt.

    Where a training has several ranks, all of them call this; the first one alone writes and logs.

    card: the data card of the run's training, part of what identifies it.
    root: the project's root; the checkpoint of an unfinished training lives under DVC_ROOT, which is the same folder
        except in DVC's temporary copies, and survives them.

    Raises:
        UserError: no such device, an unreachable MLflow server, a training that diverges, a full disk.
    """
    device = choose_device(runtime.device)
    home = Path(os.environ.get("DVC_ROOT", root))
    if not here().first:
        _assist(_Job(card, train, valid, device, root, home, Tracker(None)), config)
        return
    with (
        Checkpoint(_scratch(home, config, card)) as checkpoint,
        Tracker.open(config, card, root=home, experiment=runtime.experiment, mode="train") as tracker,
    ):
        job = _Job(card, train, valid, device, root, home, tracker)
        first = _first_stage(job, config.first_stage) if config.first_stage else None
        out = root / "runs" / config.name / "train"
        cost = _train(job, config, checkpoint, out, first)
        write(root / "metrics" / "cost" / "train" / f"{config.name}.json", cost)
        tracker.finish_training(out, cost)
        checkpoint.remove()


def _scratch(home: Path, config: RunConfig, card: dict[str, Any]) -> Path:
    """Where the unfinished training of this config on this data is kept."""
    return home / ".scratch" / f"{config.name}-{config.key(card)[:16]}"


def _assist(job: _Job, config: RunConfig) -> None:
    """What every rank but the first does in a run: its part of each training, with nothing to show for it."""
    first: Path | None = None
    if config.first_stage and (first := told(None)) is None:
        _compute(job, config.first_stage, None)
        first = told(None)
    _compute(job, config, first)


def _compute(job: _Job, config: RunConfig, first: Path | None) -> None:
    """Train with the first rank, from its checkpoint if there is one."""
    checkpoint = Checkpoint(_scratch(job.home, config, job.card))
    nothing = _Observer(checkpoint.folder, job.tracker, "")
    run(
        _training(job, config, first),
        checkpoint,
        nothing,
        validate=lambda averaged: None,
        sample=lambda averaged: None,
        title=config.name,
    )


def _first_stage(job: _Job, config: RunConfig) -> tuple[Path, TrainingCost | None]:
    """The outputs of a finished training of the first stage, and what it cost where that is known."""
    key = config.key(job.card)
    kept = job.home / ".scratch" / "first_stages" / f"{config.name}-{key[:16]}"
    own_run = job.root / "runs" / config.name / "train"
    with Checkpoint(_scratch(job.home, config, job.card), wait=True) as checkpoint:
        for folder, cost_file in (
            (kept / "train", kept / "cost.json"),
            (own_run, job.root / "metrics" / "cost" / "train" / f"{config.name}.json"),
        ):
            if (folder / "run.json").is_file() and read(folder / "run.json", TrainingRecord).key == key:
                told(folder)
                return folder, read(cost_file, TrainingCost) if cost_file.is_file() else None
        told(None)
        cost = _train(job, config, checkpoint, kept / "train", None, prefix=f"{FIRST_STAGE}/")
        write(kept / "cost.json", cost)
        checkpoint.remove()
        told(kept / "train")
        return kept / "train", cost


def _train(
    job: _Job,
    config: RunConfig,
    checkpoint: Checkpoint,
    out: Path,
    first: tuple[Path, TrainingCost | None] | None,
    prefix: str = "",
) -> TrainingCost:
    """Train to the end, write the outputs, and say what it cost.

    first: outputs and cost of the first stage. prefix: before the names of curves in MLflow.
    """
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)  # a first stage was trained before, perhaps
    first_folder, first_cost = first or (None, None)
    training = _training(job, config, first_folder)
    outcome = run(
        training,
        checkpoint,
        _Observer(checkpoint.folder, job.tracker, prefix),
        validate=lambda averaged: validation_bits_per_dim(
            averaged, job.valid.images[:VALIDATION_IMAGES], config.seed, job.device
        ),
        sample=lambda averaged: preview(averaged, job.valid, config.seed, job.device),
        title=config.name,
    )
    with replacing_folder(out) as folder:
        write_outputs(folder, config, config.key(job.card), training, outcome, checkpoint.folder)
        if first_folder is not None:
            shutil.copytree(first_folder, folder / FIRST_STAGE)
    measured = footprint(job.device, config.train.precision)  # before anything else takes memory
    return TrainingCost(
        seconds=round(outcome.log.seconds, 1),
        images_per_second=round(training.images_shown / outcome.log.seconds, 1),
        footprint=measured,
        train_pflop=_pflop(training),
        first_stage=first_cost,
    )


def _pflop(training: Training) -> float | None:
    """10^15 floating-point operations of a finished training; None, and a warning, where they cannot be counted."""
    try:
        few = training.feed.first(COUNTED_IMAGES)
        per_image = flops_per_iteration(training.model, few) / len(few.x)
    except Exception as error:  # hours of training must not be lost to a figure of its cost
        tqdm.write(f"the operations of this training were not counted ({type(error).__name__}: {error})")
        return None
    return float(f"{per_image * training.config.batch_size * training.step / 1e15:.4g}")


def _training(job: _Job, config: RunConfig, first: Path | None) -> Training:
    """A new training. first: the outputs of its first stage."""
    torch.manual_seed(config.seed)
    model = _model(job, config, first)
    return Training(model, config.train, _feed(job, config, model), seed=config.seed)


def _model(job: _Job, config: RunConfig, first: Path | None) -> GenerativeModel:
    trained = load_trained(first, config.first_stage) if first and config.first_stage else None
    model = build(config.model, config.settings, config.size, trained)
    return model.to(job.device).to(memory_format=torch.channels_last)


def _feed(job: _Job, config: RunConfig, model: GenerativeModel) -> Feed:
    attributes = job.train.columns(model.attributes)
    return Feed(
        job.train.images,
        attributes,
        batch_size=config.train.batch_size,
        flip=config.train.flip,
        seed=config.seed,
        device=job.device,
        groups=model.groups(torch.from_numpy(attributes).float()),
    )


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items() if name != "step"}
