"""One run's evaluation from end to end: where the measurements meet files and MLflow."""

import os
from pathlib import Path
from typing import Any

import torch

from visage.config import EvaluateConfig, RunConfig
from visage.evaluation.evaluate import evaluate
from visage.files import replacing_folder
from visage.metrics import publish_run
from visage.results import cost_file, write
from visage.scratch import is_recorded, scratch_folder
from visage.tracking import Tracker
from visage.training.checkpoint import Checkpoint
from visage.training.outputs import load_trained


def evaluate_run(
    config: RunConfig,
    card: dict[str, Any],
    settings: EvaluateConfig,
    device: torch.device,
    experiment: str,
    root: Path,
) -> None:
    """Measure one trained run; write `runs/<name>/evaluate` and its cost, and copy the figures to `metrics/`.

    card: the data card of the run's training, by which its MLflow run is found again.
    experiment: the name of the MLflow experiment.

    Raises:
        UserError: no trained weights, an unreachable MLflow server.
    """
    home = Path(os.environ.get("DVC_ROOT", root))
    if is_recorded(root, f"train@{config.name}"):
        with Checkpoint(scratch_folder(home, config, card)) as checkpoint:
            checkpoint.remove()
    tracker = Tracker.open(config, card, root=home, experiment=experiment, mode="evaluate", evaluate=settings)
    with tracker:
        model = load_trained(root / "runs" / config.name / "train", config)
        model = model.to(device).to(memory_format=torch.channels_last)
        out = root / "runs" / config.name / "evaluate"
        with replacing_folder(out) as folder:
            found = evaluate(model, config, settings, root / "data", folder, device)
        write(cost_file(root, config.name, "evaluate"), found.cost)
        publish_run(root, config.name)
        tracker.finish_evaluation(out, found.results, found.cost)
