"""One training: configs/<name>.json and data/processed -> runs/<name>/train. Killed at any moment, it can go on."""

import os
import sys
from pathlib import Path

import torch

from visage.config import RunConfig, RuntimeConfig
from visage.data.arrays import PROCESSED, load_faces
from visage.errors import UserError
from visage.files import read_json
from visage.stage import run_stage
from visage.train_run import train_run


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python stages/train.py <name>, such as vae-32-0")
    runtime = RuntimeConfig.load()
    torch.set_num_threads(runtime.threads or os.cpu_count() or 1)
    config = RunConfig.load(sys.argv[1])
    card = read_json(PROCESSED / "train" / f"{config.label}.json")
    train_run(config, card, runtime, load_faces("train", config.size), load_faces("valid", config.size), Path.cwd())


if __name__ == "__main__":
    run_stage(main)
