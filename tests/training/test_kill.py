"""A training that is killed without warning, in either of its stages, continues and ends with the very same bytes."""

import subprocess
import sys

from tests.conftest import ROOT
from tests.small_runs import CARD, LATENT_DIFFUSION, WHERE, faces
from visage.train_run import train_run

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.small_runs import CARD, LATENT_DIFFUSION, WHERE, faces
from visage.train_run import train_run
from visage.training import checkpoint, loop

root, deadly_model, deadly_step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
checkpoint.EVERY_SECONDS, checkpoint.COST = 0.0, 0.0   # save after every step
iterate = loop.Training.iterate
def deadly(self):
    iterate(self)
    if type(self.model).__module__.endswith(f".{deadly_model}") and self.step == deadly_step:
        os.kill(os.getpid(), signal.SIGKILL)
loop.Training.iterate = deadly
train_run(LATENT_DIFFUSION, CARD, *WHERE, faces(64, 1), faces(20, 2), root)
"""


def test_kill_and_resume_gives_the_same_bytes(tmp_path, capsys):
    def killed(model, step):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), model, str(step)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == -9
        assert not (tmp_path / "killed" / "runs").exists()
        return done.stdout + done.stderr

    def finished(name):
        capsys.readouterr()
        train_run(LATENT_DIFFUSION, CARD, *WHERE, faces(64, 1), faces(20, 2), tmp_path / name)
        return "".join(capsys.readouterr())

    def outputs(name):
        folder = tmp_path / name / "runs" / LATENT_DIFFUSION.name / "train"
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    finished("whole")
    killed("autoencoder", 7)
    assert "autoencoder-16-0: continuing at step 6" in killed("latent_diffusion", 5)
    (samples,) = (tmp_path / "killed").glob(".scratch/latent_diffusion-*/samples")
    # as a kill leaves it; process 1 lives, as another one may that has the number later
    (samples / ".0000000.1.tmp.png").write_bytes(b"half of a picture")
    text = finished("killed")
    assert "latent_diffusion-16-0: continuing at step 4" in text
    assert "autoencoder-16-0: " not in text  # finished by the attempt before
    assert outputs("killed") == outputs("whole")
    stages = [{f"{prefix}{file}" for file in ("model.safetensors", "history.csv", "validation.csv", "run.json")}
              for prefix in ("", "first_stage/")]  # fmt: skip
    assert set.union(*stages) < outputs("whole").keys()
    assert not list((tmp_path / "killed").rglob("checkpoint.pt"))
    assert not list((tmp_path / "killed").rglob("*.tmp"))
