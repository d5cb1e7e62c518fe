"""One training: configs/<name>.json and data/processed -> runs/<name>/train, its cost. Killed, it can go on."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.errors import UserError
from visage.stage import run_stage


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python stages/train.py <name>, such as vae-32-0")
    from visage.config import ReportConfig, RunConfig, RuntimeConfig
    from visage.data.arrays import PROCESSED, load_faces
    from visage.files import read_json
    from visage.train_run import refuse_large_batches, refuse_uneven_batches, train_run
    from visage.training.devices import start_device
    from visage.training.processes import together

    runtime = RuntimeConfig.load()
    device = start_device(runtime.devices)
    config = RunConfig.load(sys.argv[1])
    card = read_json(PROCESSED / "train" / f"{config.label}.json")
    train, valid = load_faces("train", config.size), load_faces("valid", config.size)
    runs = [RunConfig.load(name) for name in ReportConfig.load().runs]
    refuse_large_batches(runs, train)
    refuse_uneven_batches(runs, train, runtime.devices)
    with together(runtime.devices, device):
        train_run(config, card, device, runtime.experiment, train, valid, Path.cwd())


if __name__ == "__main__":
    run_stage(main, fork="training")
