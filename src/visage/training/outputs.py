"""The files of a finished training: `runs/<name>/train`."""

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage import results
from visage.config import RunConfig
from visage.errors import UserError
from visage.files import write_text
from visage.models.base import GenerativeModel, build
from visage.pictures import grid, save
from visage.results import VERSION, Parameters, write
from visage.training.loop import Outcome, Training
from visage.weights import load_weights, save_weights

COLUMNS = 8
"""Images in a row of a sample grid."""


def sample_file(folder: Path, step: int) -> Path:
    """Where the sample grid of a step is."""
    return folder / "samples" / f"{step:07d}.png"


def save_samples(folder: Path, step: int, images: NDArray[np.uint8]) -> Path:
    """Write the sample grid of a step."""
    path = sample_file(folder, step)
    save(grid(images, COLUMNS), path)
    return path


def write_outputs(
    folder: Path, config: RunConfig, key: str, training: Training, outcome: Outcome, samples: Path
) -> None:
    """Write weights, description, curves and sample grids into a folder that exists.

    key: `RunConfig.key`, by which the training is known.
    samples: the folder whose `samples/` holds the grids that were drawn during the training.
    """
    save_weights(folder / "model.safetensors", outcome.weights)
    write(folder / "run.json", _description(config, key, training, outcome))
    write_csv(folder / "history.csv", outcome.log.history, ["step", "kimg", "lr"])
    write_csv(folder / "validation.csv", outcome.log.validation, ["step", "kimg", "bits_per_dim"])
    if (samples / "samples").is_dir():
        unfinished = shutil.ignore_patterns(".*")  # of a process that was killed while it wrote
        shutil.copytree(samples / "samples", folder / "samples", ignore=unfinished)


def _description(config: RunConfig, key: str, training: Training, outcome: Outcome) -> results.Training:
    players = {player: sum(p.numel() for p in parameters) for player, parameters in training.parameters.items()}
    validated = bool(outcome.log.validation)
    return results.Training(
        version=VERSION,
        key=key,
        config=config,
        parameters=Parameters(sum(players.values()), players),
        steps=training.step,
        images_shown=training.images_shown,
        selected_step=outcome.selected_step,
        selected_by="bits_per_dim of the validation images"
        if validated
        else "last step: no likelihood that is quick to compute and that training aims at",
    )


def write_csv(path: Path, rows: Sequence[Mapping[str, float]], columns: Sequence[str]) -> None:
    """Write rows as CSV with at least these columns; seven significant digits."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.7g}" for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def load_trained(folder: Path, config: RunConfig) -> GenerativeModel:
    """Build the model and load the weights of `runs/<name>/train`, in eval mode on the CPU.

    Raises:
        UserError: the weights are missing or belong to another configuration.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro train@{config.name}`")
    return _load(build_model(config), path, config).eval()


def build_model(config: RunConfig) -> GenerativeModel:
    """Build the model of a run, with that of its first stage, both with their initial weights."""
    first = build_model(config.first_stage) if config.first_stage else None
    return build(config.model, config.settings, config.size, first)


def _load(model: GenerativeModel, path: Path, config: RunConfig) -> GenerativeModel:
    try:
        model.load_state_dict(load_weights(path))
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit configs/{config.name}.json: run `dvc repro train@{config.name}`"
        ) from error
    return model
