"""One evaluation: runs/<name>/train and data/reference -> runs/<name>/evaluate, its cost, and metrics/<name>.json."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.errors import UserError
from visage.stage import run_stage


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python stages/evaluate.py <name>, such as vae-32-0")
    from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
    from visage.data.arrays import PROCESSED
    from visage.evaluate_run import evaluate_run
    from visage.files import read_json
    from visage.training.devices import start_device
    from visage.training.processes import together

    runtime = RuntimeConfig.load()
    device = start_device(runtime.devices)
    config = RunConfig.load(sys.argv[1])
    card = read_json(PROCESSED / "train" / f"{config.label}.json")
    with together(runtime.devices, device):
        evaluate_run(config, card, EvaluateConfig.load(), device, runtime.experiment, Path.cwd())


if __name__ == "__main__":
    run_stage(main, fork="evaluation")
