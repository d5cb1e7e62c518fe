import dataclasses
from functools import cache
from typing import NamedTuple

import pytest
import torch

from tests.small_data import LABEL, SETTINGS, write_no_network, write_processed
from tests.small_models import FACES, GREY, SIZE
from visage.attribute_network import make_attribute_networks
from visage.config import AttributeNetworkConfig, ReferenceConfig, RunConfig, TrainConfig
from visage.evaluation.evaluate import evaluate
from visage.reference.build import build_reference
from visage.results import PerImage

CPU = torch.device("cpu")


@pytest.fixture
def images():
    return FACES.copy()


@pytest.fixture
def grey_images():
    return GREY.copy()


@pytest.fixture(scope="session")
def run():
    train = TrainConfig(1, 2, "adam", 0.1, {}, (0.9, 0.99), 0, "constant", 0, 0, 0, 0, False, "fp32", 1, 1)
    return RunConfig(f"{LABEL}-0", "small", SIZE, "demo", 0, "small", {}, train, "")


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Folders `data`, without a network that judges samples and with one, without a reference.

    The network is hardly trained: what matters is that it is one and the same function of images.
    """
    without, judged = tmp_path_factory.mktemp("without"), tmp_path_factory.mktemp("judged")
    for folder in (without, judged):
        write_processed(folder / "processed")
    write_no_network(without / "attribute_network")
    config = AttributeNetworkConfig((SIZE,), kimg=0.1, batch_size=8, lr=0.01, seed=0)
    make_attribute_networks(config, judged / "processed", judged / "attribute_network", CPU)
    return {False: without, True: judged}


@pytest.fixture(scope="session")
def prepared(networks, tmp_path_factory):
    """A function: settings, and whether there is a network that judges samples -> the folder `data`."""

    @cache
    def prepare(settings=SETTINGS, judged=False):
        data = tmp_path_factory.mktemp("data")
        for name in ("processed", "attribute_network"):
            (data / name).symlink_to(networks[judged] / name)
        build_reference(ReferenceConfig((SIZE,), (LABEL,)), settings, data, data / "reference", CPU)
        return data

    return prepare


class Measured(NamedTuple):
    """What an evaluation found, and where it wrote."""

    results: object
    cost: object
    out: object

    def find(self, *args, **kwargs):
        return self.results.find(*args, **kwargs)

    @property
    def per_image(self):
        return PerImage.load(self.out / "scores.npz")

    @property
    def pictures(self):
        return {picture.file: picture for picture in self.results.pictures}


@pytest.fixture(scope="session")
def measured(run, prepared, tmp_path_factory):
    """A function that evaluates a model: settings may be changed by name."""

    def measure(model, judged=False, mirrored=False, **changes):
        settings = dataclasses.replace(SETTINGS, **changes)
        trained = dataclasses.replace(run, train=dataclasses.replace(run.train, flip=mirrored))
        out = tmp_path_factory.mktemp("out")
        found = evaluate(model, trained, settings, prepared(settings, judged), out, CPU, progress=False)
        return Measured(found.results, found.cost, out)

    return measure
