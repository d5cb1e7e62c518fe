import numpy as np
import pytest
import torch

from tests.small_models import DIMS, SIZE, FactorisedLogistic, Identity, LinearVAE, OnlySamples, Uniform
from visage.inference.likelihood import importance_weighted, log_likelihood, tightened
from visage.inference.validation import validation_bits_per_dim
from visage.maths import noise
from visage.maths.pixels import dequantize, to_float
from visage.maths.streams import torch_generator

CPU = torch.device("cpu")


def ask(model, images, draws=1, batch_size=7, seed=0):
    with torch.no_grad():
        return log_likelihood(model.eval(), images, draws=draws, seed=seed, device=CPU, batch_size=batch_size)


def weigh(model, images, draws):
    with torch.no_grad():
        return importance_weighted(model.eval(), images, draws=draws, seed=4, device=CPU, batch_size=7)


def ask_from(model, images, stream):
    """The bound with the noise of a named stream."""
    with torch.no_grad():
        return model.bound(to_float(torch.from_numpy(images)), torch_generator(4, stream)).elbo.numpy()


def test_the_uniform_model_has_exactly_8_bits_per_dimension(images):
    found = ask(Uniform(), images)
    assert found.bits_per_dim(DIMS) == pytest.approx(8, abs=1e-12)
    assert found.kind == "exact"
    assert found.parts == {}
    assert "dequantisation" in found.note
    assert validation_bits_per_dim(Uniform(), images, 0, CPU) == pytest.approx(8, abs=1e-12)


def test_a_factorised_logistic_integrates_to_its_distribution_function(images):
    """Many draws of u approach E_u log p, which lies below the log of the bin's probability and near it."""
    model = FactorisedLogistic()
    found = ask(model, images[:3], draws=64).nats

    def cdf(y):
        return 1 / (1 + np.exp(-(y - model.mean) / model.scale))

    v = images[:3].astype(np.float64)
    exact = np.log(cdf((v + 1) / 256) - cdf(v / 256)).sum((1, 2, 3))
    assert (found < exact + 1e-2).all()
    assert found == pytest.approx(exact, abs=1.5)


def test_the_bound_with_the_true_posterior_is_the_likelihood(images):
    model = LinearVAE()
    found = ask(model, images, seed=4)
    x = to_float(torch.from_numpy(images))
    generator = torch_generator(4, "likelihood 0 0")
    u = []
    for _ in images:  # the model draws u, then the code's noise, image by image
        u.append(noise.rand(1, x.shape[1:], generator))
        noise.randn(1, (model.codes,), generator)
    y = dequantize(x.double(), torch.cat(u).double()).flatten(1)
    exact = model.log_density(y).detach().numpy() - DIMS * np.log(256)
    assert found.kind == "upper_bound"
    assert found.nats == pytest.approx(exact, rel=1e-7)
    assert found.parts["elbo"] == pytest.approx(-found.parts["distortion"] - found.parts["rate"], rel=1e-12)
    assert found.bits_per_dim(DIMS) == pytest.approx(-exact / DIMS / np.log(2), rel=1e-7)


@pytest.mark.parametrize("model", [FactorisedLogistic(), LinearVAE()])
def test_an_image_sees_the_same_noise_in_every_batch(model, images, grey_images):
    one = ask(model, images, draws=2, batch_size=1).nats
    assert ask(model, images, draws=2, batch_size=24).nats == pytest.approx(one, rel=1e-6)
    assert ask(model, np.concatenate([images, grey_images]), draws=2).nats[: len(images)] == pytest.approx(
        one, rel=1e-6
    )
    assert ask(model, images[:5], draws=2).nats == pytest.approx(one[:5], rel=1e-6)


def test_draws_are_averaged_and_differ(images):
    model = FactorisedLogistic()
    first, mean = ask(model, images).nats, ask(model, images, draws=2).nats
    second = 2 * mean - first
    assert not np.allclose(first, second, rtol=1e-7)
    assert not np.array_equal(ask(model, images, seed=1).nats, first)


@pytest.mark.parametrize("model", [Identity(), OnlySamples()])
def test_no_likelihood(model, images):
    assert ask(model, images) is None
    assert validation_bits_per_dim(model, images, 0, CPU) is None


def test_validation_is_the_mean_of_one_draw_and_repeats(images):
    model = LinearVAE()
    expected = ask(model, images, seed=3).bits_per_dim(DIMS).mean()
    images.flags.writeable = False  # as arrays on disk are
    values = {validation_bits_per_dim(model, images, 3, CPU) for _ in range(2)}
    assert len(values) == 1
    assert values.pop() == pytest.approx(expected, rel=1e-9)
    assert images[0].shape == (SIZE, SIZE, 3)


def test_weights_of_the_true_posterior_are_all_alike(images):
    """log p(x, z) - log q(z | x) is log p(x) whatever z is; only the dequantisation noise still tightens."""
    model = LinearVAE()
    found = weigh(model, images[:4], draws=1)
    assert found.nats == pytest.approx(ask_from(model, images[:4], "importance 0 0"))
    assert found.effective == pytest.approx(1)
    assert found.kind == "upper_bound"


def test_averaging_weights_tightens_dequantisation_towards_the_probability_of_the_bin(images):
    """E log p <= log E p: with many draws the mean weight is the probability of the 8-bit values themselves."""
    model = FactorisedLogistic()
    v = images[:3].astype(np.float64)

    def cdf(y):
        return 1 / (1 + np.exp(-(y - model.mean) / model.scale))

    exact = np.log(cdf((v + 1) / 256) - cdf(v / 256)).sum((1, 2, 3))
    tight = weigh(model, images[:3], draws=256)
    assert tight.nats == pytest.approx(exact, abs=0.1)  # one draw is 0.3 nats off
    assert tight.kind == "exact"
    assert "256 draws" in tight.note


def test_more_draws_never_loosen_in_expectation():
    """E log (1/K) sum w rises with K (Burda et al. 2016, theorem 1), here for log-normal weights with E w = 1."""
    spread = 1.0
    log_w = spread * torch.randn(64, 4000, generator=torch.Generator().manual_seed(0)).double() - spread**2 / 2
    means = [float(tightened(log_w[:k])[0].mean()) for k in (1, 4, 16, 64)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(-(spread**2) / 2, abs=3 * spread / 4000**0.5)
    assert means[-1] == pytest.approx(0, abs=0.03)
    weights = log_w.exp()
    effective = weights.sum(0) ** 2 / weights.square().sum(0)
    assert torch.allclose(tightened(log_w)[1], effective)
    assert float(tightened(torch.zeros(7, 1).double())[1]) == pytest.approx(7)


def test_models_without_weights_have_none(images):
    assert weigh(OnlySamples(), images[:2], draws=2) is None
    assert weigh(Identity(), images[:2], draws=2) is None
