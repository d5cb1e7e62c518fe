"""Figures about samples, and what a network makes of obedience, end to end with a real attribute network."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.small_models import LinearVAE, OnlySamples, Small, Versatile
from visage.attribute_network import load_attribute_network
from visage.data.arrays import load_faces
from visage.evaluation import quality
from visage.evaluation.evaluate import evaluate
from visage.maths.pixels import to_float

CPU = torch.device("cpu")


@pytest.fixture
def measured(run, settings, judged_data, tmp_path):
    def call(model, **changes):
        out = tmp_path / "out"
        result = evaluate(model, run, dataclasses.replace(settings, **changes), judged_data, out, CPU, progress=False)
        return {record.name: record for record in result.records}, result, out

    return call


class Copies(Small):
    """Gives training faces away."""

    def __init__(self, faces):
        super().__init__()
        self.faces = to_float(torch.from_numpy(np.array(faces)))

    def sample(self, n, generator):
        return self.faces[torch.arange(n) % len(self.faces)]


class Obedient(Versatile):
    """Samples that show what was asked for by their colour, to a network that looks at colours."""

    def sample(self, n, generator):
        return self.sample_given(torch.zeros(n, 2), generator)


def test_copies_of_training_faces_are_found(measured, processed, run):
    train = load_faces("train", run.size, processed).images
    records, _, out = measured(Copies(train))
    assert records["memorization"].value < 0.01
    assert records["memorization_pixels"].value < 0.01
    assert json.loads((out / "pictures.json").read_text())["memorization.png"]["rows"] == 2


def test_one_face_for_all_is_a_collapse(measured, processed, run):
    train = load_faces("train", run.size, processed).images
    records, result, _ = measured(Copies(train[:1]))
    assert records["recall"].value == 0
    assert {wire.name: wire.verdict for wire in result.tripwires}["mode_collapse"] == "tripped"


def test_faces_are_nearer_than_noise_and_the_floor_is_that_of_other_faces(measured, judged_data, processed, run):
    referee = load_attribute_network(judged_data / "attribute_network", run.label, CPU)
    valid, test = (load_faces(split, run.size, processed).images for split in ("valid", "test"))
    records, _, _ = measured(Copies(valid))
    noise, _, _ = measured(OnlySamples())
    assert records["fd_pix64"].value < 0.7 * noise["fd_pix64"].value  # 8 samples alone are far from 24 faces
    features = [
        referee.network.features(to_float(torch.from_numpy(np.array(images)))).numpy().astype(float)
        for images in (test, valid)
    ]
    assert records["fd_attr128_floor"].value == pytest.approx(quality.frechet_distance(*features), rel=1e-4)
    low, high = records["fd_attr128"].ci95
    assert low <= records["fd_attr128"].value <= high
    assert referee.weights_hash[:12] in records["fd_attr128"].note
    assert "not FID" in records["fd_attr128"].note


def test_figures_of_samples_and_codes_are_all_there(measured):
    records, result, _ = measured(LinearVAE())
    for name in ("fd_attr128", "kd_attr128", "precision", "recall", "density", "coverage", "memorization", "fd_pix64"):
        assert records[name].value is not None, name
        assert records[name].n == 8
    assert records["path_smoothness"].value >= 1
    assert set(result.metrics["tripwires"]) == {"non_finite", "posterior_collapse", "mode_collapse"}


def test_translations_and_wishes_are_judged(measured):
    records, _, _ = measured(Obedient(), images=0)
    assert 0 <= records["attribute_auroc"].value <= 1
    for name in ("translation_success_a", "translation_success_b"):
        assert 0 <= records[name].value <= 1
        assert "before translation" in records[name].note
