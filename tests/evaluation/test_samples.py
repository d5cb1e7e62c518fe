"""Figures of samples, and what the attribute network recognises in them, end to end with a real network."""

import numpy as np
import pytest
import torch

from tests.small_data import SPLITS
from tests.small_models import SIZE, LinearVAE, OnlySamples, Small, Versatile
from visage.attribute_network import load_attribute_network
from visage.maths.pixels import to_float
from visage.measures.sample_quality import pixel_distance, thumbnails

CPU = torch.device("cpu")


class Copies(Small):
    """Gives training faces away."""

    def __init__(self, faces):
        super().__init__()
        self.faces = to_float(torch.from_numpy(np.array(faces)))

    def sample(self, n, generator):
        return self.faces[torch.arange(n) % len(self.faces)]


class Obedient(Versatile):
    """Samples that show by their colour what was asked for, to a network that looks at colours."""

    def sample(self, n, generator):
        return self.sample_given(torch.zeros(n, 2), generator)


@pytest.fixture(scope="module")
def able(measured):
    return measured(LinearVAE(), judged=True)


def test_copies_of_training_faces_are_found(measured):
    found = measured(Copies(SPLITS["train"]), judged=True)
    assert found.find("memorization").value < 0.01
    assert found.find("memorization_pixels").value < 0.01
    picture = found.pictures["memorization.png"]
    assert (picture.columns, picture.rows) == (8, 2)
    assert picture.facts == {"shown": 8, "samples": 8}


def test_one_face_for_all_is_a_collapse(measured):
    found = measured(Copies(SPLITS["train"][:1]), judged=True)
    assert found.find("recall").value == 0
    assert {wire.name: wire.verdict for wire in found.results.tripwires}["mode_collapse"] == "tripped"


def test_faces_are_nearer_than_noise(measured, prepared):
    found, noise = measured(Copies(SPLITS["valid"]), judged=True), measured(OnlySamples(), judged=True)
    expected = pixel_distance(thumbnails(SPLITS["test"]), thumbnails(SPLITS["valid"]))
    assert found.find("fd_pix64").value == pytest.approx(expected, rel=1e-6)
    assert expected < 0.7 * noise.find("fd_pix64").value  # 8 samples alone are far from 24 faces
    distance = found.find("fd_attr128")
    assert distance.ci95[0] <= distance.value <= distance.ci95[1]
    network = load_attribute_network(prepared(judged=True) / "attribute_network", SIZE, CPU)
    assert network.weights_hash[:12] in distance.note
    assert "not FID" in distance.note


def test_figures_of_samples_and_codes_are_all_there(able):
    for name in ("fd_attr128", "kd_attr128", "precision", "recall", "density", "coverage", "memorization", "fd_pix64"):
        assert able.find(name).value is not None, name
        assert able.find(name).n == 8
    assert able.find("path_smoothness").value >= 1
    assert able.find("path_smoothness").n == 6
    assert able.results.metrics()["tripwires"].keys() == {"non_finite", "posterior_collapse", "mode_collapse"}
    assert {"memorization.png", "duplicates.png"} < able.pictures.keys()


def test_a_network_changes_only_what_is_judged_by_it(able, measured):
    without = measured(LinearVAE())
    judged = {"fd_attr128", "kd_attr128", "precision", "recall", "density", "coverage", "memorization"}
    for record in without.results.records:
        if record.metric not in judged | {"path_smoothness"}:
            assert able.find(record.metric, record.images or None, record.score or None) == record


def test_translations_and_wanted_attributes_are_judged(measured):
    found = measured(Obedient(), judged=True, images=0)
    assert 0 <= found.find("attribute_auroc").value <= 1
    assert found.find("attribute_auroc").note.count(",") == 1  # Smiling and Bald
    for name in ("translation_success_a", "translation_success_b"):
        assert 0 <= found.find(name).value <= 1
        assert "before translation" in found.find(name).note
        assert found.find(name).n == found.find(name.replace("translation_success", "cycle_mse")).n
