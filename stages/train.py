"""One training: configs/<name>.json and data/processed -> runs/<name>/train, its cost. Killed, it can go on."""

import sys
from pathlib import Path

from visage.config import ReportConfig, RunConfig, RuntimeConfig
from visage.data.arrays import PROCESSED, load_faces
from visage.errors import UserError
from visage.files import read_json
from visage.stage import run_stage
from visage.train_run import refuse_large_batches, train_run
from visage.training.devices import start_device


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python stages/train.py <name>, such as vae-32-0")
    device = start_device()
    config = RunConfig.load(sys.argv[1])
    card = read_json(PROCESSED / "train" / f"{config.label}.json")
    train, valid = load_faces("train", config.size), load_faces("valid", config.size)
    refuse_large_batches([RunConfig.load(name) for name in ReportConfig.load().runs], train)
    train_run(config, card, device, RuntimeConfig.load().experiment, train, valid, Path.cwd())


if __name__ == "__main__":
    run_stage(main)
