"""One run's evaluation from end to end: where the measurements meet files and MLflow."""

import os
from pathlib import Path
from typing import Any

import torch

from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
from visage.evaluation.evaluate import evaluate
from visage.files import replacing_folder, write_json
from visage.results import write
from visage.tracking import Tracker
from visage.training.devices import choose_device
from visage.training.outputs import load_trained


def evaluate_run(
    config: RunConfig, card: dict[str, Any], settings: EvaluateConfig, runtime: RuntimeConfig, root: Path
) -> None:
    """Measure one trained run; write `runs/<name>/evaluate`, `metrics/<name>.json` and its cost apart.

    card: the data card of the run's training, by which its MLflow run is found again.

    Raises:
        UserError: no trained weights, no such device, an unreachable MLflow server.
    """
    device = choose_device(runtime.device)
    home = Path(os.environ.get("DVC_ROOT", root))
    tracker = Tracker.open(config, card, root=home, experiment=runtime.experiment, mode="evaluate", evaluate=settings)
    with tracker:
        model = load_trained(root / "runs" / config.name / "train", config)
        model = model.to(device).to(memory_format=torch.channels_last)
        out = root / "runs" / config.name / "evaluate"
        with replacing_folder(out) as folder:
            found = evaluate(model, config, settings, root / "data", folder, device)
        write_json(root / "metrics" / f"{config.name}.json", found.results.metrics())
        write(root / "metrics" / "cost" / "evaluate" / f"{config.name}.json", found.cost)
        tracker.finish_evaluation(out, found.results, found.cost)
