"""A training that is killed without warning continues and ends with the very same weights."""

import hashlib
import subprocess
import sys

from tests.conftest import ROOT

SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from visage.config import RunConfig, RuntimeConfig
from visage.data.arrays import Faces
from visage.training import checkpoint, loop
from visage import train_run

root, kill_at = Path(sys.argv[1]), int(sys.argv[2])
checkpoint.EVERY_SECONDS, checkpoint.COST = 0.0, 0.0   # save after every step
iterate = loop.Training.iterate
def deadly(self):
    iterate(self)
    if self.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
loop.Training.iterate = deadly

rng = np.random.default_rng(0)
def faces(n):
    images = rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    factors = np.zeros((n, 0), np.float32)
    return Faces(images, np.zeros((n, 40), np.uint8), [], np.zeros(n, str), np.zeros(n, np.int32), factors, [])
config, runtime = RunConfig.load("vae-16-0", root), RuntimeConfig("cpu", 1, "t")
train_run.train_run(config, {"train": "x"}, runtime, faces(64), faces(20), root)
"""


def test_kill_and_resume_gives_the_same_bytes(tmp_path, run_config):
    config = run_config("vae", 16, kimg=0.192, batch_size=16, snapshots=3, log_every=2, precision="fp32")  # 12 steps

    def attempt(root, kill_at):
        root.mkdir(exist_ok=True)
        config.save(root)
        command = [sys.executable, "-c", SCRIPT, str(root), str(kill_at)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    def outputs(root):
        folder = root / "runs" / "vae-16-0" / "train"
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    assert attempt(tmp_path / "whole", -1).returncode == 0
    assert attempt(tmp_path / "killed", 7).returncode == -9
    assert not (tmp_path / "killed" / "runs").exists()
    resumed = attempt(tmp_path / "killed", -1)
    assert "continuing at step 6" in resumed.stderr + resumed.stdout
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")
    assert {"model.safetensors", "history.csv", "validation.csv", "run.json"} < outputs(tmp_path / "whole").keys()
    assert not list((tmp_path / "killed" / ".scratch").glob("*/checkpoint.pt"))
