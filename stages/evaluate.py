"""One training: runs/<name>/train and data/processed -> runs/<name>/evaluate and metrics/<name>.json."""

import os
import sys
from pathlib import Path

import torch

from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
from visage.data.arrays import PROCESSED
from visage.errors import UserError
from visage.evaluate_run import evaluate_run
from visage.files import read_json
from visage.stage import run_stage


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("usage: python stages/evaluate.py <name>, such as vae-32-0")
    runtime = RuntimeConfig.load()
    torch.set_num_threads(runtime.threads or os.cpu_count() or 1)
    config = RunConfig.load(sys.argv[1])
    card = read_json(PROCESSED / "train" / f"{config.label}.json")
    evaluate_run(config, card, EvaluateConfig.load(), runtime, Path.cwd())


if __name__ == "__main__":
    run_stage(main)
