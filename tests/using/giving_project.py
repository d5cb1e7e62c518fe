"""A small project with untrained runs, to give away: everything that an export reads, in a second."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.factory import write_run
from tests.small_data import write_processed
from tests.small_runs import AUTOENCODER, SIZE
from visage.files import write_json

VAE = replace(
    AUTOENCODER,
    name=f"vae-{SIZE}-0",
    recipe="vae",
    model="vae",
    settings={
        "beta": 1.0, "likelihood": "gaussian", "sigma": 0.3, "latent_dim": 4, "width": 8, "max_width": 8,
        "dropout": 0.0, "activation": "silu", "slope": 0.2, "norm": "group", "kernel": 4, "bottom": 4,
        "ending": "convolution", "output": "linear", "kl_warmup": 0.0, "linear": False,
    },
)  # fmt: skip
DCGAN = replace(
    AUTOENCODER,
    name=f"dcgan-{SIZE}-0",
    recipe="dcgan",
    model="dcgan",
    settings={"latent_dim": 4, "width": 4, "linear": False},
)
DDPM = replace(
    AUTOENCODER,
    name=f"ddpm-{SIZE}-0",
    recipe="ddpm",
    model="ddpm",
    settings={
        "timesteps": 20, "schedule": "cosine", "prediction": "epsilon", "filter_axes": 0, "variance": "small",
        "sampler": "ddim", "sampling_steps": 2, "bound_terms": 2, "width": 4, "multipliers": [1], "blocks": 1,
        "attention": [], "dropout": 0.0, "patch": 1,
    },
)  # fmt: skip

CROP = (15, 40, 163, 188)


def write_project(root, source="synthetic"):
    """Write the files of a finished project: three runs, their data and figures."""
    for name in ("params.yaml", "dvc.yaml"):
        (root / name).touch()
    write_processed(root / "data" / "processed")
    card = root / "data" / "processed" / "card.json"
    title = {"synthetic": "drawn faces, not photographs", "celeba": "CelebA photographs"}[source]
    write_json(card, json.loads(card.read_text()) | {"source": source, "title": title, "crop": CROP})
    for config in (VAE, DCGAN, DDPM):
        write_run(root, config)


def visage(*words, cwd, **environment):
    """Run the command line as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "visage.cli.main", *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="session")
def giving(once):
    """The project; read only."""
    return once("giving", write_project)


@pytest.fixture(scope="session")
def exported(giving, once):
    """The VAE, exported by the command; read only."""

    def fill(root):
        done = visage("export", "vae-16", "-o", root / "vae", cwd=giving)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{root / 'vae'}\n", "")

    return once("exported", fill) / "vae"
