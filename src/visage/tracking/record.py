"""What a finished training and a finished evaluation give to their MLflow run, and under which names."""

import csv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visage.files import sha256
from visage.results import EvaluationCost, Results, Training, TrainingCost, read
from visage.tracking.datasets import measured_sets
from visage.tracking.events import Mode, now
from visage.tracking.identity import NOTE, as_text, flat
from visage.tracking.log import RunLog
from visage.tracking.models import WEIGHTS_SHA256, log_model
from visage.tracking.note import note

FIRST_STAGE = "first_stage"
"""The folder of a first stage in its run's `train` folder, and the beginning of its curves' names."""


def record_training(log: RunLog, folder: Path, cost: TrainingCost | None) -> str:
    """Log the files of `runs/<name>/train`, and of a first stage in it, as far as the run lacks them.

    cost: None where it is not known.

    Returns:
        The id of the model that the run has of these weights.
    """
    training = read(folder / "run.json", Training)
    _record_progress(log, folder, "")
    if (folder / FIRST_STAGE).is_dir():
        _record_progress(log, folder / FIRST_STAGE, f"{FIRST_STAGE}/")
    digest = sha256(folder / "model.safetensors")
    log.describe(
        {
            WEIGHTS_SHA256: digest,
            "selected_step": str(training.selected_step),
            "selected_by": training.selected_by,
        },
        {key: as_text(value) for key, value in flat({"parameters": asdict(training.parameters)}).items()},
    )
    record_cost(log, "train", cost)
    return log_model(log, training, digest)


def record_evaluation(
    log: RunLog,
    folder: Path,
    size: int,
    model_id: str,
    results: Results,
    cost: EvaluationCost | None,
    *,
    replace: bool,
) -> None:
    """Log what evaluation found.

    folder: `runs/<name>/evaluate`, whose results.json and pictures are logged.
    size: of the images, in pixels. model_id: the model that was measured.
    cost: None where it is not known.
    replace: log files again that are there already; done anyway where a figure is new.
    """
    measured = measured_sets(folder.parents[2], results, size)
    if measured is not None:
        log.inputs(measured.all())
    changed = log.figures(evaluation_figures(results), model_id, measured)
    if changed or not log.has_tag(NOTE):  # else a note may have been edited in MLflow's page
        log.describe({NOTE: note(results)})
    log.describe({f"tripwire.{alarm.name}": f"{alarm.verdict}: {alarm.text}" for alarm in results.tripwires})
    files = [folder / "results.json", *sorted(folder.glob("*.png"))]
    log.files(files, "evaluate", replace=replace or changed > 0)
    record_cost(log, "evaluate", cost)


def record_cost(log: RunLog, mode: Mode, cost: TrainingCost | EvaluationCost | None) -> None:
    """Log the numbers of a cost as figures (`cost/train/seconds`), and its texts as tags (`train.device`)."""
    if cost is None:
        return
    values = {key.replace("footprint.", ""): value for key, value in flat(asdict(cost)).items() if value is not None}
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    numbers = {key.replace(".", "/"): float(value) for key, value in values.items() if key not in texts}
    log.figures({f"cost/{mode}/{key}": value for key, value in numbers.items()})
    log.describe({f"{mode}.{key}": value for key, value in texts.items()})


def evaluation_figures(results: Results) -> dict[str, float]:
    """The figures of an evaluation under MLflow's names, such as `eval/recon_mse` and `eval/ood/nll`."""
    return named_figures(results.metrics())


def named_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The content of `metrics/<name>.json` under MLflow's names: {"ood": {"nll": 0.9}} gives {"eval/ood/nll": 0.9}."""
    return {f"eval/{key}": float(value) for key, value in flat(metrics, "/").items()}


def _record_progress(log: RunLog, folder: Path, prefix: str) -> None:
    """Log the curves, sample grids and descriptions of one stage of a training.

    prefix: with which the names of its curves begin.
    """
    for split, file in (("train", "history.csv"), ("valid", "validation.csv")):
        with (folder / file).open(encoding="utf-8", newline="") as f:
            log.points((now(), int(row["step"]), _curves(f"{prefix}{split}", row)) for row in csv.DictReader(f))
    for path in sorted((folder / "samples").glob("[0-9]*.png")):
        log.image(f"{prefix}samples", path.read_bytes(), int(path.stem))
    files = [folder / name for name in ("run.json", "history.csv", "validation.csv")]
    log.files(files, f"train/{prefix}".rstrip("/"), replace=log.new)


def _curves(prefix: str, row: Mapping[str, str]) -> dict[str, float]:
    return {f"{prefix}/{key}": float(value) for key, value in row.items() if key != "step" and value}
