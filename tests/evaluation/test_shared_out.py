"""Two processes that share an evaluation out write the files that one process writes, byte for byte."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from threadpoolctl import threadpool_limits

from tests.conftest import ROOT
from tests.small_data import SETTINGS, SPLITS, write_data
from tests.small_models import GREY, make_images
from tests.small_runs import AUTOENCODER, CARD, RUNTIME, WHERE
from visage.evaluate_run import evaluate_run
from visage.files import write_json
from visage.inference.chunks import CHUNK
from visage.results import EvaluationCost, cost_file, read
from visage.training.outputs import build_model
from visage.weights import save_weights

N = CHUNK + 24
"""A chunk for the first rank and part of one for the second, which has nothing to do for smaller sets."""
MEASURED = replace(SETTINGS, images=0, quality_samples=N, network_calls=5 * N // 2)
VAE = replace(
    AUTOENCODER,
    name="vae-16-0",
    recipe="vae",
    model="vae",
    settings={
        "beta": 1.0, "likelihood": "gaussian", "sigma": 0, "latent_dim": 4, "width": 8, "max_width": 8, "dropout": 0.0,
        "activation": "silu", "slope": 0.2, "norm": "group", "kernel": 4, "bottom": 4,
        "ending": "convolution", "output": "linear", "kl_warmup": 0.0, "linear": True,
    },
)  # fmt: skip
EVALUATE = f"runs/{VAE.name}/evaluate"


@pytest.fixture
def root(tmp_path):
    """A project with a run whose weights are the initial ones, to be evaluated on two devices."""
    root = tmp_path / "project"
    splits = SPLITS | {"test": make_images(N, seed=7)}
    write_data(root / "data", MEASURED, splits=splits, external={"grey": GREY})
    write_json(root / "data" / "processed" / "train" / f"{VAE.label}.json", CARD)
    (root / "runs" / VAE.name / "train").mkdir(parents=True)
    save_weights(root / "runs" / VAE.name / "train" / "model.safetensors", build_model(VAE).state_dict())
    for config in (replace(RUNTIME, devices=2), MEASURED, VAE):
        config.save(root / "configs")
    return root


def written(root):
    return {path.name: path.read_bytes() for path in (root / EVALUATE).iterdir()}


@pytest.mark.long
def test_the_stage_shares_an_evaluation_out_and_writes_what_one_process_writes(root, tmp_path):
    with threadpool_limits(1):  # NumPy's threads, too, as many as the stage has
        evaluate_run(VAE, CARD, MEASURED, *WHERE, root)
    alone = written(root)
    assert alone.keys() > {"results.json", "scores.npz", "samples.png", "reconstructions.png"}
    (root / EVALUATE / "results.json").unlink()
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, str(ROOT / "stages" / "evaluate.py"), VAE.name],
        cwd=root,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.count("| 0/6 [00:00<?, ?it/s]") == 1  # one bar
    assert list((tmp_path / "temporary").iterdir()) == []  # what the second rank wrote is gone
    shared = written(root)
    assert shared.keys() == alone.keys()
    assert [name for name, content in alone.items() if shared[name] != content] == []
    assert read(cost_file(root, VAE.name, "evaluate"), EvaluationCost).samples_per_second > 0
