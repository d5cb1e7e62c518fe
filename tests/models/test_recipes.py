"""What params.yaml says of the models, against their papers and against the gradients that they have."""

import dataclasses

import numpy as np
import pytest
import torch

from visage.training.feed import Feed
from visage.training.loop import Training
from visage.training.outputs import build_model


def parameters_of(config):
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config).parameters())


@pytest.mark.parametrize(("size", "millions"), [(32, 35.7), (64, 78.7)])
def test_the_full_u_net_is_the_papers(run_config, size, millions):
    # Ho et al. 2020, appendix B, for CIFAR-10; the network of Song et al. 2021 (DDIM) for CelebA
    assert parameters_of(run_config("ddpm", size, "full")) / 1e6 == pytest.approx(millions, abs=0.1)
    for other in ("score_sde", "conditional_diffusion"):
        assert parameters_of(run_config(other, size, "full")) / 1e6 == pytest.approx(millions, abs=0.5)


@pytest.mark.parametrize("scale", ["demo", "full"])
def test_the_corrector_belongs_to_the_other_sde(run_config, scale):
    settings = run_config("score_sde", 64, scale).settings
    assert settings["sde"] == "vp"
    assert settings["snr"] == 0  # in the authors' configs, only those of VE correct
    if scale == "full":
        assert settings["pc_steps"] == 1000


def test_the_weight_of_the_autoencoders_rate_is_the_authors(run_config):
    b = 0.025  # the Laplace scale, in [0, 1], that a full training is taken to end with
    authors = 1e-6  # beside |x - x'| in [-1, 1], which is 2 |y - y'| in [0, 1] and has the weight 1 / b here
    assert run_config("autoencoder", 64, "full").settings["kl_weight"] == pytest.approx(authors / (2 * b))


LONG = [pytest.param(*case, marks=pytest.mark.long) for case in (("autoencoder", 25), ("realnvp", 3), ("glow", 3))]


@pytest.mark.parametrize(("recipe", "steps"), [("vae", 30), *LONG])
def test_clipping_leaves_ordinary_gradients_alone(run_config, images, recipe, steps):
    """After the first steps, which are steep, not every gradient is clipped."""
    config = run_config(recipe)
    torch.manual_seed(0)
    feed = Feed(images, np.zeros((len(images), 0), np.uint8), batch_size=16, flip=True, seed=0,
                device=torch.device("cpu"), groups=None)  # fmt: skip
    train = dataclasses.replace(config.train, batch_size=16, kimg=100 * 16 / 1000)
    training = Training(build_model(config), train, feed, seed=0)
    for _ in range(steps):
        training.iterate()
    (norm,) = [value for name, value in training.terms.items() if name.endswith("grad_norm")]
    assert norm < config.train.clip_norm


@pytest.mark.parametrize("recipe", ["vae", "autoencoder", "bigan", "wgan", "conditional_gan"])
def test_principal_components_are_part_of_the_small_recipes_alone(run_config, recipe):
    """The papers have no linear maps."""
    assert run_config(recipe, 64, "demo").settings["linear"]
    assert not run_config(recipe, 64, "full").settings["linear"]
