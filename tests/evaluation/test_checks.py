"""Tripwires of whole evaluations; the limits themselves are tested in tests/measures/test_tripwires.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_data import SETTINGS, SPLITS, write_data
from tests.small_models import Brighter, LinearVAE, Small
from visage.evaluation.evaluate import evaluate

KNOWN = {
    "non_finite", "codebook_collapse", "posterior_collapse", "discriminator_saturation", "mode_collapse", "round_trip",
    "mirror",
}  # fmt: skip


class Codebook(Small):
    """Describes an image by entries of a codebook of 64, of which it uses `used`, all alike."""

    codebook_size = 64

    def __init__(self, used):
        super().__init__()
        self.used = used

    def codes(self, x):
        return torch.arange(64).repeat(len(x), 1) % self.used


class Critic(Small):
    """Samples black images, which its discriminator knows by their brightness, or does not know at all."""

    discriminator_score = "darkness"

    def __init__(self, knows):
        super().__init__()
        self.knows = knows

    def sample(self, n, generator):
        return torch.full((n, 3, 16, 16), -1.0)

    def ood_scores(self, x, generator):
        return {"darkness": -x.flatten(1).mean(1) * self.knows}


class Flow(Small):
    """An invertible map that comes back `shift` levels too high."""

    path = "lerp"

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def log_prob(self, x, generator):
        return -x.flatten(1).square().sum(1)

    def encode(self, x):
        return x.flatten(1)

    def prior(self, n, generator):
        return torch.zeros(n, 768)

    def decode(self, z):
        return z.view(-1, 3, 16, 16) + 2 * self.shift / 255


class Sided(Small):
    """Scores faces by how much lighter their left half is, or by how light all of them are."""

    def __init__(self, sided):
        super().__init__()
        self.sided = sided

    def ood_scores(self, x, generator):
        left, right = (half.flatten(1).mean(1) for half in x.chunk(2, dim=3))
        return {"light": left - right if self.sided else left + right}


def wires(found):
    return {wire.name: wire for wire in found.results.tripwires}


def test_every_wire_is_there_whatever_the_model(measured):
    for model in (Brighter(1), LinearVAE()):
        assert wires(measured(model)).keys() == KNOWN


@pytest.mark.parametrize(("used", "verdict"), [(64, "ok"), (6, "tripped")])
def test_a_codebook_of_which_little_is_used_is_collapsed(measured, used, verdict):
    wire = wires(measured(Codebook(used)))["codebook_collapse"]
    assert wire.verdict == verdict
    assert wire.value == pytest.approx(used / 64, rel=0.01)


@pytest.mark.parametrize(("knows", "verdict"), [(1, "tripped"), (0, "ok")])
def test_a_discriminator_that_knows_every_sample_is_saturated(measured, knows, verdict):
    wire = wires(measured(Critic(knows)))["discriminator_saturation"]
    assert wire.verdict == verdict
    assert wire.value == pytest.approx(1 if knows else 0.5)


@pytest.mark.parametrize(("shift", "verdict"), [(0, "ok"), (0.4, "ok"), (0.6, "tripped")])
def test_a_flow_that_does_not_come_back_is_caught(measured, shift, verdict):
    found = measured(Flow(shift))
    assert wires(found)["round_trip"].verdict == verdict
    assert found.find("inverse_error").value == pytest.approx(shift / 255, abs=1e-6)


@pytest.mark.parametrize(("scale", "active"), [(0.2, 4), (0.0, 0)])
def test_a_posterior_that_ignores_the_image_is_collapsed(measured, scale, active):
    """The weights' columns are the colours of the test images and a slope, which differ between images."""
    model = LinearVAE()
    slope = torch.linspace(-1, 1, 16).repeat(3, 16, 1).flatten()
    columns = [*torch.eye(3).repeat_interleave(256, dim=1), slope]
    model.w.data = scale * torch.stack(columns, dim=1).double()
    wire = wires(measured(model))["posterior_collapse"]
    assert wire.verdict == ("ok" if active else "tripped")
    assert wire.text.startswith(f"{active} of 4 latent units are active; rate ")


def test_wires_that_do_not_apply_say_why(measured):
    found = wires(measured(Brighter(1)))
    assert {name for name, wire in found.items() if wire.verdict == "undefined"} == KNOWN - {"non_finite"}
    assert all(wire.text and wire.value is None for wire in found.values() if wire.verdict == "undefined")
    assert found["codebook_collapse"].text == "the model has no codebook"


@pytest.mark.parametrize(("sided", "mirrored", "verdict"), [(1, 1, "tripped"), (0, 1, "ok"), (1, 0, "undefined")])
def test_a_score_that_knows_left_from_right_is_wrong_where_training_mirrors(run, tmp_path, sided, mirrored, verdict):
    """All faces here are lighter on the left, so that mirrored ones are told without a mistake."""
    shade = np.linspace(40, -40, 16)[None, None, :, None]
    lit = {split: (images / 2 + 60 + shade).astype(np.uint8) for split, images in SPLITS.items()}
    settings = replace(SETTINGS, derived_images=16)
    write_data(tmp_path, settings, splits=lit)
    run = replace(run, train=replace(run.train, flip=bool(mirrored)))
    (tmp_path / "out").mkdir()
    found = evaluate(Sided(sided), run, settings, tmp_path, tmp_path / "out", torch.device("cpu"), progress=False)
    wire = {wire.name: wire for wire in found.results.tripwires}["mirror"]
    assert wire.verdict == verdict
    assert found.results.find("auroc", "hflip", "light").value == pytest.approx(0 if sided else 0.5)


def test_a_slow_likelihood_leaves_the_mirror_to_another_score(measured, run):
    """Of mirrored faces the first score is asked that does not take many network calls."""

    class Slow(Sided):
        likelihood_calls = 4

        def log_prob(self, x, generator):
            return -x.flatten(1).square().sum(1)

    assert run.train.flip is False
    evaluated = measured(Slow(0), mirrored=True, network_calls=400)
    assert wires(evaluated)["mirror"].verdict == "ok"
    assert evaluated.find("auroc", "hflip", "nll").value is None
