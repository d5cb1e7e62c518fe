import pytest
import torch
from torch import nn

from tests.models.helpers import (
    ExactDenoiser,
    ddim_factor,
    gaussian,
    generator,
    inputs_of,
    outputs_of,
    step,
    unlabelled,
)
from visage.maths import diffusion, samplers
from visage.models import base
from visage.models.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, betas

CONFIG = {
    "timesteps": 100,
    "prediction": "epsilon",
    "filter_axes": 0,
    "sampler": "ddim",
    "sampling_steps": 100,
    "width": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (),
    "dropout": 0.0,
}
STD = 0.25


class Stage(nn.Module):
    """A first stage whose latents are every second pixel, times STD: drawn with no noise."""

    latent_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(STD))
        self.dropout = nn.Dropout(0.5)

    def compress(self, x, eps):
        return self.weight * self.dropout(x[:, :, ::2, ::2])

    def decompress(self, z):
        return (z / self.weight).repeat_interleave(2, 2).repeat_interleave(2, 3)

    def encode(self, x):
        return self.compress(x, None).flatten(1)

    def reconstruct(self, x):
        return self.decompress(self.compress(x, None))


def model(seed=0, **changes):
    torch.manual_seed(seed)
    return LatentDiffusion(LatentDiffusionConfig(**CONFIG | changes), 16, Stage())


def batch(n=64):
    return unlabelled(gaussian(n, 1.0).float().clamp(-1, 1))


def test_noise_schedule():
    b = betas(1000)
    assert b[0].item() == pytest.approx(0.0015)
    assert b[-1].item() == pytest.approx(0.0195)
    torch.testing.assert_close(b.sqrt().diff(), b.sqrt().diff()[:1].expand(999))
    # log(1 - beta) = -beta - beta^2 / 2 - ...; beta is the square of a line, whose powers have known means
    a, c = 0.0015**0.5, 0.0195**0.5
    total, squares = 1000 * (a * a + a * c + c * c) / 3, 1000 * sum(a**i * c ** (4 - i) for i in range(5)) / 5
    assert (1 - b).log().sum().item() == pytest.approx(-total - squares / 2, rel=2e-3)
    assert (1 - betas(200)).log().sum().item() == pytest.approx(-total, rel=0.05)  # as much noise in fewer steps


def test_scale_makes_latents_of_unit_variance_and_is_kept():
    m = model()
    m.train().initialize(batch())
    both = torch.cat([batch().x, batch().x.flip(3)])
    assert m.latents(both, torch.Generator()).std().item() == pytest.approx(1.0, abs=1e-3)
    again = model(seed=5)
    again.load_state_dict(m.state_dict())
    assert torch.equal(again.scale, m.scale)
    assert m.scale.item() == pytest.approx(1 / (STD * both[:, :, ::2, ::2].std().item()), rel=1e-3)


def test_scale_is_applied_once_each_way():
    m = model()
    m.initialize(batch())
    m.unet = ExactDenoiser(m.abar, "epsilon", 1.0)
    x = batch(2).x
    z = m.latents(x, torch.Generator())
    torch.testing.assert_close(m.first.decompress(z / m.scale), m.first.reconstruct(x))


def test_first_stage_stays_as_it_was():
    m = model()
    m.initialize(batch())
    m.train()
    assert not m.first.training
    assert not m.first.dropout.training
    before = {k: v.clone() for k, v in m.first.state_dict().items()}
    parameters = [p for module in m.players()["unet"] for p in module.parameters()]
    assert not any(p is q for p in parameters for q in m.first.parameters())
    loss, _ = m.phases()[0].loss(batch(), step())
    assert (
        torch.autograd.grad(loss, [m.first.weight], allow_unused=True) == (None,) if m.first.weight.requires_grad else 1
    )
    assert not m.first.weight.requires_grad
    assert all(torch.equal(v, m.first.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_loss_of_the_exact_prediction_is_its_known_minimum(prediction):
    """For N(0, I) latents and any prediction of its mean, the error left is known in closed form."""
    m = model(prediction=prediction)
    m.scale.fill_(1 / STD)
    m.unet = ExactDenoiser(m.abar, prediction, 1.0)
    loss = torch.stack([m.loss(unlabelled(gaussian(4096, 1.0).float()), step(i))[0] for i in range(3)]).mean()
    # Var(eps | z_t) = abar; v is uncorrelated with z_t, so that all of its variance, 1, is left
    expected = m.abar[1:].mean().item() if prediction == "epsilon" else 1.0
    assert loss.item() == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_sampler_gives_the_distribution_that_the_exact_prediction_is_of(prediction):
    m = model(prediction=prediction, timesteps=1000)
    m.unet = ExactDenoiser(m.abar, prediction, 0.5)
    z_t = gaussian(20, 1.0, size=8)
    z0 = m.first.compress(m.eval().decode(z_t), None)  # the stage's decoder undoes its encoder
    factor = ddim_factor(m.abar, m.times()[::-1], 0.5)
    torch.testing.assert_close(z0, factor * z_t)
    assert factor == pytest.approx(0.5, rel=0.06)  # a Gaussian contracts a little with 100 steps


def test_dpm_solver_draws_in_latents_at_times_even_in_log_snr():
    m = model(sampler="dpm_solver", sampling_steps=10)
    m.unet = ExactDenoiser(m.abar, "epsilon", 0.5)  # what a fresh network's 0 leads to does not depend on the times
    m.scale.fill_(0.5)
    z = m.prior(2, generator()).view(2, 3, 8, 8)
    times = diffusion.log_snr_times(m.abar, 10)
    z0 = samplers.dpm_solver(z, times[::-1], m.predict, m.abar)
    torch.testing.assert_close(m.sample(2, generator()), m.first.decompress(z0 / 0.5))


def test_nothing_is_clipped():
    m = model(timesteps=1000)
    m.unet = ExactDenoiser(m.abar, "epsilon", 4.0)
    z0 = m.first.compress(m.eval().decode(torch.full((1, 3, 8, 8), 2.0).double()), None)
    assert z0.min() > 4


def test_encoding_is_the_way_back():
    m = model(timesteps=1000, sampling_steps=200)
    m.initialize(batch())
    m.unet = ExactDenoiser(m.abar, "epsilon", 1.0)
    x = batch(3).x[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    m.eval()
    torch.testing.assert_close(m.decode(m.encode(x).double()), x.double(), rtol=0, atol=0.03)


def test_what_cannot_compress_is_no_first_stage():
    with pytest.raises(TypeError, match="Linear does not compress images"):
        LatentDiffusion(LatentDiffusionConfig(**CONFIG), 16, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="sampling_steps=200 > timesteps=100"):
        model(sampling_steps=200)


def test_features_are_the_middle_of_the_network_for_latents_with_little_noise():
    m, x = model().eval(), batch(3).x
    m.scale.fill_(1 / STD)
    given, middle = inputs_of(m.unet.stem), outputs_of(m.unet.middle[-1])
    with torch.no_grad():
        features = m.features(x)
    torch.testing.assert_close(features, middle[0].mean((2, 3)))
    abar = m.abar[10].item()  # of 100
    eps = (given[0][0] - abar**0.5 * x[:, :, ::2, ::2]) / (1 - abar) ** 0.5
    assert abs(eps.std().item() - 1) < 0.2
    torch.testing.assert_close(eps[0], eps[2], rtol=0, atol=1e-5)


def test_a_sample_takes_as_many_calls_as_it_says():
    m = model(sampling_steps=7).eval()
    calls = inputs_of(m.unet)
    with torch.no_grad():
        m.sample(2, generator(0))
    assert len(calls) + 1 == m.sample_calls  # and the decoder


# --- The residual of a filter


class Slanted(Stage):
    """Latents that are larger on the right, also those of a mirror image."""

    def compress(self, x, eps):
        return super().compress(x, eps) * torch.linspace(0.5, 1.5, 8)


def filtered(n=2000, stage=Slanted, **changes):
    """A model whose network adds nothing to its filter, fitted to n images, and these with their mirror images."""
    torch.manual_seed(0)
    config = LatentDiffusionConfig(**CONFIG | {"prediction": "residual", "filter_axes": 192} | changes)
    m = LatentDiffusion(config, 16, stage())
    x = torch.linspace(0.2, 0.8, 16) * (0.2 + 0.6 * torch.randn(n, 3, 16, 16, generator=generator(4)))  # lopsided
    m.initialize(unlabelled(x))
    m.unet.forward = lambda seen, time: torch.zeros_like(seen[:, :3])
    return m.eval(), torch.stack([x, x.flip(3)], dim=1).flatten(0, 1)


@torch.no_grad()
def test_the_filter_is_that_of_the_latents_of_images_and_of_mirror_images():
    m, x = filtered()
    z = m.scale * m.first.compress(x, None)
    torch.testing.assert_close(m.filter.mean, z.mean(0).flatten(), atol=0.03, rtol=0)
    covariance = z.flatten(1).T.cov()
    assert covariance.diagonal().max() > 4 * covariance.diagonal().min()  # the columns differ
    for t in (10, 50, 100):
        a, sigma = (part.item() for part in diffusion.scales(m.abar[t][None], z))
        z_t = a * z[:4] + sigma * torch.randn(4, 3, 8, 8, generator=generator(5))
        inverse = torch.linalg.inv(a**2 * covariance + sigma**2 * torch.eye(192))
        exact = z.mean(0).flatten() + a * (z_t - a * z.mean(0)).flatten(1) @ inverse @ covariance
        found, eps = m.predict(z_t, torch.full((4,), t))
        error = (found.flatten(1) - exact).square().mean().sqrt()
        assert error < 0.1 * (exact - z.mean(0).flatten()).square().mean().sqrt() + 0.03
        torch.testing.assert_close(a * found + sigma * eps, z_t, rtol=0, atol=1e-4)


@torch.no_grad()
def test_draws_of_the_filter_alone_have_the_mean_and_the_variances_of_the_latents():
    m, x = filtered(timesteps=1000)
    z = m.scale * m.first.compress(x, None)
    drawn = m.scale * m.first.compress(m.sample(1000, generator()), None) / torch.linspace(0.5, 1.5, 8)
    torch.testing.assert_close(drawn.mean((0, 1, 2)), z.mean((0, 1, 2)), atol=0.05, rtol=0.05)
    torch.testing.assert_close(drawn.std(0).mean((0, 1)), z.std(0).mean((0, 1)), atol=0.02, rtol=0.1)


def test_the_loss_of_a_residual_is_1_while_the_network_adds_nothing():
    m, x = filtered()
    loss, terms = m.loss(unlabelled(x[:400]), step())
    assert loss.item() == pytest.approx(1, rel=0.05)
    assert terms["error_over_filter"].item() == pytest.approx(1)


@torch.no_grad()
def test_the_network_sees_both_guesses_and_adds_s_times_its_output_to_the_filters():
    m, x = filtered()
    seen = []
    m.unet.forward = lambda given, time: seen.append(given) or torch.full_like(given[:, :3], 0.1)
    z_t, t = m.scale * m.first.compress(x[:4], None), torch.full((4,), 30)
    guess = m.filter(z_t, *diffusion.scales(m.abar[t], z_t))
    torch.testing.assert_close(m.predict(z_t, t)[0], guess.m + 0.1 * guess.s)
    torch.testing.assert_close(seen[0], torch.cat([guess.noise, guess.m], dim=1))


@torch.no_grad()
def test_features_of_a_filtered_network_are_those_of_what_it_sees():
    m, x = filtered(n=100)
    del m.unet.forward
    given = inputs_of(m.unet.stem)
    m.features(x[:3])
    noise, guess = given[0][0].chunk(2, dim=1)
    abar = m.abar[10].item()  # of 100
    eps = noise + abar**0.5 * (guess - m.means(x[:3])) / (1 - abar) ** 0.5
    assert abs(eps.std().item() - 1) < 0.2
    torch.testing.assert_close(eps[0], eps[2], rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_filter_and_its_scale_are_kept_with_the_weights():
    m, x = filtered(n=100)
    torch.manual_seed(5)
    again = LatentDiffusion(m.config, 16, Slanted())
    again.load_state_dict(m.state_dict())
    z_t, t = m.scale * m.first.compress(x[:4], None), torch.full((4,), 30)
    again.unet.forward = m.unet.forward
    torch.testing.assert_close(again.predict(z_t, t), m.predict(z_t, t))
    assert m.initial_images == base.LINEAR_IMAGES > model().initial_images


def test_filter_and_prediction_go_together():
    with pytest.raises(ValueError, match="filter_axes=5"):
        model(filter_axes=5)
    with pytest.raises(ValueError, match="filter_axes=0"):
        model(prediction="residual")
