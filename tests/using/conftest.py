"""A small project with trained runs of many kinds, as the pipeline leaves it."""

import io
import shutil
import sys

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.small_data import SETTINGS, write_processed
from tests.small_models import make_images
from visage.attribute_network import make_attribute_networks
from visage.cli import main
from visage.config import AttributeNetworkConfig, ReferenceConfig, RuntimeConfig
from visage.data.arrays import load_faces
from visage.evaluate_run import evaluate_run
from visage.files import write_json
from visage.models.base import Batch
from visage.reference.build import build_reference
from visage.results import VERSION, Parameters, Training, write
from visage.train_run import train_run
from visage.training.outputs import build_model
from visage.weights import save_weights

SIZE = 32
CPU = torch.device("cpu")
UNTRAINED = ("dcgan", "mae", "cyclegan", "conditional_gan", "glow", "conditional_diffusion")
"""Recipes whose weights are those of the beginning: what they can do is asked, not how well."""
NAMES = ["Male", "Smiling", "Eyeglasses", "Blond_Hair", "Black_Hair", "Wearing_Hat", "Young", "No_Beard"]
SPLITS = {
    split: make_images(n, seed, SIZE) for seed, (split, n) in enumerate({"train": 64, "valid": 16, "test": 24}.items())
}
EXTERNAL = {"grey": make_images(10, 9, SIZE) // 2}


@pytest.fixture(scope="session")
def project(once, run_config):
    """The root of a project: vae-32-0 is trained and evaluated, the others have the weights of the beginning."""
    return once("used", lambda root: _fill(root, run_config))


def _fill(root, run_config):
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    data = root / "data"
    rng = np.random.default_rng(4)
    attributes = {split: rng.integers(0, 2, (len(images), len(NAMES))) for split, images in SPLITS.items()}
    write_processed(data / "processed", SPLITS, EXTERNAL, NAMES, attributes, size=SIZE)
    network = AttributeNetworkConfig((SIZE,), kimg=0.1, batch_size=8, lr=0.01, seed=0)
    make_attribute_networks(network, data / "processed", data / "attribute_network", CPU)
    build_reference(ReferenceConfig((SIZE,), (f"vae-{SIZE}",)), SETTINGS, data, data / "reference", CPU)
    SETTINGS.save(root / "configs")
    RuntimeConfig("cpu", 1, False, "tests").save(root / "configs")
    card = {"source": "celeba", "crop": [15, 40, 163, 188], "images": {}, "labels": {}}
    config = run_config("vae", SIZE, kimg=0.32, batch_size=16, snapshots=2, warmup_kimg=0)
    for run in (config, *(run_config(recipe, SIZE) for recipe in UNTRAINED)):
        run.save(root / "configs")
        write_json(data / "processed" / "train" / f"{run.label}.json", card)
    faces = [load_faces(split, SIZE, data / "processed") for split in ("train", "valid")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train_run(config, card, CPU, "tests", *faces, root)
        evaluate_run(config, card, SETTINGS, CPU, "tests", root)
    for recipe in UNTRAINED:
        _write_untrained(root, run_config(recipe, SIZE))


def _write_untrained(root, config):
    torch.manual_seed(0)
    model = build_model(config)
    folder = root / "runs" / config.name / "train"
    folder.mkdir(parents=True)
    faces = load_faces("train", SIZE, root / "data" / "processed")
    x = torch.from_numpy(np.array(faces.images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    model.initialize(Batch(x, torch.from_numpy(faces.columns(model.attributes)).float()))
    save_weights(folder / "model.safetensors", model.state_dict())
    about = Training(VERSION, "00" * 32, config, Parameters(1, {"all": 1}), 1, 16, 1, "last step")
    write(folder / "run.json", about)


@pytest.fixture
def visage(project, monkeypatch):
    """A function that runs the command line in the project: arguments -> exit status, standard output and error."""

    def call(*arguments):
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["visage", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            main.run()
        return ended.value.code or 0, out.getvalue(), err.getvalue()

    return call


@pytest.fixture
def refused(visage):
    """A function: arguments of a command that must fail -> what it said, one line."""

    def call(*arguments):
        status, out, err = visage(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 1, (status, out, err)
        assert len(lines) == 1, err
        assert "Traceback" not in err
        return lines[0].removeprefix("error: ")

    return call


@pytest.fixture
def photo(tmp_path):
    """A function: name, (height, width) -> a photograph of random colours."""
    from PIL import Image

    def make(name="photo.png", shape=(40, 30), seed=0):
        path = tmp_path / name
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)).save(path)
        return path

    return make
