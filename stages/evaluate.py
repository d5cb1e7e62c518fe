"""One run: runs/<name>/train and data/processed -> runs/<name>/evaluate and metrics/<name>.json."""

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
        raise UserError("usage: python stages/evaluate.py <run>, such as vae-32")
    name = sys.argv[1]
    runtime = RuntimeConfig.load()
    torch.set_num_threads(runtime.threads or os.cpu_count() or 1)
    card = read_json(PROCESSED / "train" / f"{name}.json")
    evaluate_run(RunConfig.load(name), card, EvaluateConfig.load(), runtime, Path.cwd())


if __name__ == "__main__":
    run_stage(main)
