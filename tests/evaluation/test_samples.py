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


class Broken(Obedient):
    """Every other sample is not a number, whatever is asked for."""

    def sample_given(self, y, generator):
        x = super().sample_given(y, generator)
        return x.where(torch.arange(len(x))[:, None, None, None] % 2 == 0, torch.nan)


def test_samples_that_are_not_finite_have_no_figures_and_trip_a_wire(measured):
    """As 8-bit images they would be black, and at some distance from faces."""
    found = measured(Broken(), judged=True, images=0)
    reason = "a value is not finite in 5 of 10 samples"
    for name in ("fd_attr128", "precision", "memorization", "fd_pix64", "fid", "attribute_auroc"):
        assert found.find(name).note == reason, name
    wires = {wire.name: wire for wire in found.results.tripwires}
    assert wires["non_finite"].verdict == "tripped"
    assert "5 in samples" in wires["non_finite"].text
    assert wires["mode_collapse"].text == reason
    assert "samples.png" in found.pictures
