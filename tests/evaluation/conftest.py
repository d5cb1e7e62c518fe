import json

import numpy as np
import pytest
import torch

from tests.small_models import NO_NETWORK, SIZE, make_images
from visage.attribute_network import make_attribute_networks
from visage.config import AttributeNetworkConfig, EvaluateConfig, RunConfig, TrainConfig

NAMES = ["Bald", "Eyeglasses", "Smiling"]


@pytest.fixture
def images():
    return make_images(24, seed=0)


@pytest.fixture
def grey_images():
    return np.repeat(make_images(10, seed=1)[..., :1] // 2, 3, axis=-1)


@pytest.fixture
def run():
    train = TrainConfig(1, 2, "adam", 0.1, {}, (0.9, 0.99), 0, "constant", 0, 0, 0, 0, False, "fp32", 1, 1)
    return RunConfig(f"small-{SIZE}-0", "small", SIZE, "demo", 0, "small", {}, train, "")


@pytest.fixture
def settings():
    return EvaluateConfig(
        images=16,
        ood_images=0,
        draws=2,
        network_calls=32,
        samples=10,
        gallery=6,
        bootstrap=100,
        suite_images=6,
        importance_draws=2,
        quality_samples=8,
        inception=None,
        seed=5,
    )


@pytest.fixture
def processed(tmp_path, images, grey_images, run):
    folder = tmp_path / "processed"
    (folder / str(SIZE)).mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "evaluate").mkdir()
    splits = {"train": make_images(30, seed=2), "valid": make_images(8, seed=3), "test": images}
    rng = np.random.default_rng(4)
    for split, array in splits.items():
        np.save(folder / str(SIZE) / f"{split}.npy", array)
        np.savez(
            folder / "labels" / f"{split}.npz",
            attributes=rng.integers(0, 2, (len(array), len(NAMES))).astype(np.uint8),
            names=np.array(NAMES),
            image_id=np.array([f"{i:06}.jpg" for i in range(len(array))]),
            identity=np.full(len(array), -1, np.int32),
            factors=np.zeros((len(array), 0), np.float32),
            factor_names=np.array([], np.str_),
        )
    np.save(folder / str(SIZE) / "ood.npy", grey_images)
    (folder / "evaluate" / f"{run.label}.json").write_text(json.dumps({"data_hash": "abc123"}))
    return folder


@pytest.fixture
def data(processed, run):
    """The project's data, without a network that judges samples."""
    folder = processed.parent / "attribute_network"
    folder.mkdir()
    (folder / f"{run.label}.json").write_text(json.dumps({"size": SIZE, "weights_hash": "", "why_not": NO_NETWORK}))
    return processed.parent


@pytest.fixture
def judged_data(processed, run):
    """The same with one, hardly trained: what matters is that it is one and the same function of images."""
    config = AttributeNetworkConfig((SIZE,), (run.label,), kimg=0.1, batch_size=8, lr=0.01, seed=0)
    out = processed.parent / "attribute_network"
    make_attribute_networks(config, processed, out, torch.device("cpu"))
    return processed.parent
