"""One run's evaluation from end to end: where the measurements meet files and MLflow."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from visage.config import EvaluateConfig, RunConfig
from visage.evaluation.evaluate import Evaluation, evaluate
from visage.files import replacing_folder
from visage.inference.chunks import shared_out
from visage.maths.ranks import here
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

    Where there are several ranks, all of them call this and share the asking and the drawing out. What follows from
    it each one computes; the first one alone keeps it, logs and shows its progress.

    card: the data card of the run's training, by which its MLflow run is found again.
    experiment: the name of the MLflow experiment.

    Raises:
        UserError: no trained weights, an unreachable MLflow server.
    """

    def measure(folder: Path) -> Evaluation:
        model = load_trained(root / "runs" / config.name / "train", config)
        model = model.to(device).to(memory_format=torch.channels_last)
        with shared_out():
            return evaluate(model, config, settings, root / "data", folder, device, progress=here().first)

    if not here().first:
        with tempfile.TemporaryDirectory() as unseen:
            measure(Path(unseen))
        return
    home = Path(os.environ.get("DVC_ROOT", root))
    if is_recorded(root, f"train@{config.name}"):
        with Checkpoint(scratch_folder(home, config, card)) as checkpoint:
            checkpoint.remove()
    tracker = Tracker.open(config, card, root=home, experiment=experiment, mode="evaluate", evaluate=settings)
    with tracker:
        out = root / "runs" / config.name / "evaluate"
        with replacing_folder(out) as folder:
            found = measure(folder)
        write(cost_file(root, config.name, "evaluate"), found.cost)
        publish_run(root, config.name)
        tracker.finish_evaluation(out, found.results, found.cost)
