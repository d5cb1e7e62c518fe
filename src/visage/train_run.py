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

from visage.config import RunConfig
from visage.data.arrays import Faces
from visage.data.disk import naming_a_full_disk
from visage.errors import UserError
from visage.files import replacing_folder
from visage.inference.flops import flops_per_iteration
from visage.inference.preview import preview
from visage.inference.validation import validation_bits_per_dim
from visage.maths.ranks import here
from visage.models.base import GenerativeModel, build, find
from visage.results import Training as TrainingRecord
from visage.results import TrainingCost, cost_file, read, write
from visage.scratch import scratch_folder
from visage.tracking import Tracker
from visage.training.checkpoint import Checkpoint
from visage.training.devices import footprint
from visage.training.feed import Feed, shortage, uneven
from visage.training.loop import Training, run
from visage.training.outputs import build_model, load_trained, save_samples, write_outputs
from visage.training.ranks import told

VALIDATION_IMAGES = 256
COUNTED_IMAGES = 4
"""The images of which operations are counted: few, so that this takes less memory than the training did."""
FIRST_STAGE = "first_stage"
"""The folder of a run's outputs, and the prefix of its curves, that hold the training of its first stage."""
COST = "cost.json"


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
    config: RunConfig,
    card: dict[str, Any],
    device: torch.device,
    experiment: str,
    train: Faces,
    valid: Faces,
    root: Path,
) -> None:
    """Train one run to the end, continuing where an earlier attempt stopped; write `runs/<name>/train` and its cost.

    A run that works in the latents of another model trains that first stage before its own training, unless the very
    same training (config, code and data) is finished already: as a run of this project, or in an earlier attempt.

    Where a training has several ranks, all of them call this; the first one alone decides, writes and logs.

    card: the data card of the run's training, part of what identifies it.
    experiment: the name of the MLflow experiment.
    root: the project's root; the checkpoint of a training lives under DVC_ROOT, which is the same folder except in
        DVC's temporary copies, and survives them.

    Raises:
        UserError: an unreachable MLflow server, a training that diverges, a full disk.
    """
    home = Path(os.environ.get("DVC_ROOT", root))
    if not here().first:
        _assist(_Job(card, train, valid, device, root, home, Tracker(None)))
        return
    with (
        Checkpoint(scratch_folder(home, config, card)) as checkpoint,
        Tracker.open(
            config, card, root=home, experiment=experiment, mode="train", again=checkpoint.finished.is_dir()
        ) as tracker,
    ):
        job = _Job(card, train, valid, device, root, home, tracker)
        _finish(job, config, checkpoint)
        told(None)  # there is no more to train
        out = root / "runs" / config.name / "train"
        with naming_a_full_disk(out), replacing_folder(out) as folder:
            shutil.copytree(checkpoint.finished / "train", folder, dirs_exist_ok=True)
        cost = read(checkpoint.finished / COST, TrainingCost)
        write(cost_file(root, config.name, "train"), cost)
        tracker.finish_training(out, cost)


def _assist(job: _Job) -> None:
    """What every rank but the first does in a run: its part of each training, with nothing to show for it."""
    while work := told(None):
        config, first = work
        checkpoint = Checkpoint(scratch_folder(job.home, config, job.card))
        run(
            _training(job, config, first),
            checkpoint,
            _Observer(checkpoint.folder, job.tracker, ""),
            validate=lambda averaged: None,
            sample=lambda averaged: None,
            title=config.name,
        )


def _finish(job: _Job, config: RunConfig, checkpoint: Checkpoint, prefix: str = "") -> None:
    """Have the outputs and the cost of a training in `checkpoint.finished`, from an earlier attempt or from now on.

    prefix: before the names of curves in MLflow.
    """
    if checkpoint.finished.is_dir():
        tqdm.write(f"{config.name}: was finished before")
        return
    first = checkpoint.folder / FIRST_STAGE if config.first_stage else None
    if config.first_stage and first and not first.is_dir():
        with naming_a_full_disk(first), replacing_folder(first) as folder:
            _copy_first_stage(job, config.first_stage, folder)
    with naming_a_full_disk(checkpoint.finished), replacing_folder(checkpoint.finished) as folder:
        write(folder / COST, _train(job, config, checkpoint, folder / "train", first, prefix))
    checkpoint.forget_progress()


def _copy_first_stage(job: _Job, config: RunConfig, folder: Path) -> None:
    """Copy the outputs of a finished training of the first stage, and its cost where that is known, into a folder."""
    with Checkpoint(scratch_folder(job.home, config, job.card)) as checkpoint:
        own_run = job.root / "runs" / config.name / "train"
        if (own_run / "run.json").is_file() and read(own_run / "run.json", TrainingRecord).key == config.key(job.card):
            outputs, cost = own_run, cost_file(job.root, config.name, "train")
        else:
            _finish(job, config, checkpoint, prefix=f"{FIRST_STAGE}/")
            outputs, cost = checkpoint.finished / "train", checkpoint.finished / COST
        shutil.copytree(outputs, folder / "train")
        if cost.is_file():
            shutil.copyfile(cost, folder / COST)


def _train(
    job: _Job, config: RunConfig, checkpoint: Checkpoint, out: Path, first: Path | None, prefix: str
) -> TrainingCost:
    """Train to the end, write the outputs, and say what it cost.

    first: the folder with the outputs and the cost of the first stage. prefix: before the names of curves in MLflow.
    """
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)  # a first stage was trained before, perhaps
    told((config, first))
    training = _training(job, config, first)
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
    out.mkdir()
    write_outputs(out, config, config.key(job.card), training, outcome, checkpoint.folder)
    if first is not None:
        shutil.copytree(first / "train", out / FIRST_STAGE)
    measured = footprint(job.device, config.train.precision)  # before anything else takes memory
    return TrainingCost(
        seconds=round(outcome.log.seconds, 1),
        images_per_second=round(training.images_shown / outcome.log.seconds, 1),
        footprint=measured,
        train_pflop=_pflop(training),
        first_stage=read(first / COST, TrainingCost) if first and (first / COST).is_file() else None,
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
    """A new training. first: as in `_train`."""
    torch.manual_seed(config.seed)
    trained = load_trained(first / "train", config.first_stage) if first and config.first_stage else None
    model = build(config.model, config.settings, config.size, trained)
    model = model.to(job.device).to(memory_format=torch.channels_last)
    return Training(model, config.train, _feed(job, config, model), seed=config.seed)


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
