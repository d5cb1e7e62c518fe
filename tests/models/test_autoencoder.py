import math

import pytest
import torch
from torch.distributions import Independent, Laplace, Normal, kl_divergence

from tests.models.helpers import generator, smooth, step, unlabelled
from visage.models.autoencoder import Autoencoder, AutoencoderConfig

CONFIG = {"latent_channels": 2, "width": 8, "multipliers": (1, 2), "blocks": 1, "patch": 2, "kl_weight": 1e-3}


def model(seed=0, size=16, **changes):
    torch.manual_seed(seed)
    return Autoencoder(AutoencoderConfig(**CONFIG | changes), size)


def noises(x, m):
    g = generator(2)
    return torch.rand(x.shape, generator=g), torch.randn((len(x), *m.latent_shape), generator=g)


def test_the_bound_is_that_of_torch_distributions():
    m, x = model(), smooth()
    m.shift.data.fill_(0.05)
    u, eps = noises(x, m)
    parts = m.parts(x, u, eps)
    v = ((x + 1) * 127.5).round()
    y = (v + u) / 256
    mu, logvar = m.encoder(2 * y - 1)
    q = Normal(mu, torch.exp(logvar / 2))
    z = mu + torch.exp(logvar / 2) * eps
    p = Independent(Laplace((m.decoder(z) + 1) / 2, 0.1 * math.exp(0.5)), 3)
    torch.testing.assert_close(parts.distortion, 3 * 16 * 16 * math.log(256) - p.log_prob(y))
    torch.testing.assert_close(parts.rate, kl_divergence(q, Normal(0.0, 1.0)).sum((1, 2, 3)))


def test_the_loss_weighs_the_rate_and_the_bound_does_not():
    x = smooth()
    light, heavy = model(kl_weight=0.0), model(kl_weight=0.5)
    a, terms = light.loss(unlabelled(x), step())
    b, _ = heavy.loss(unlabelled(x), step())
    torch.testing.assert_close(b - a, 0.5 * terms["rate"], rtol=1e-4, atol=1e-2)
    bounds = [m.bound(x, generator(4)).elbo for m in (light, heavy)]
    torch.testing.assert_close(*bounds)


def test_learned_scale_ends_at_the_mean_absolute_error():
    m, x = model(), smooth(16)
    u, eps = noises(x, m)
    y, centre = (((x + 1) * 127.5).round() + u) / 256, 0.3 * torch.ones_like(x)
    error = (y - (centre + 1) / 2).abs().mean()
    m.encoder.forward = lambda x: (eps, eps)
    m.decoder.forward = lambda z: centre
    optimiser = torch.optim.Adam([m.shift], 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        m.parts(x, u, eps).distortion.mean().backward()
        optimiser.step()
    torch.testing.assert_close(m.log_scale().exp(), error, rtol=1e-2, atol=0)  # b = E|x - mu|


def test_latents_are_draws_of_the_posterior_with_its_spread():
    m, x = model(), smooth(1)
    with torch.no_grad():
        mu, logvar = m.posterior(x)
        eps = torch.randn(2000, *m.latent_shape, generator=generator(5))
        z = m.compress(x.expand(2000, -1, -1, -1), eps)
    assert z.shape[1:] == m.latent_shape == (2, 4, 4)
    torch.testing.assert_close(z.mean(0), mu[0], rtol=0, atol=0.2 * float(logvar.exp().sqrt().max()))
    torch.testing.assert_close(z.std(0), (logvar[0] / 2).exp(), rtol=0.1, atol=0)


def test_reconstruction_is_decompressed_code_in_the_middle_of_its_bin():
    m, x = model(), smooth()
    with torch.no_grad():
        back = m.reconstruct(x)
        torch.testing.assert_close(back, m.decompress(m.encode(x).reshape(-1, *m.latent_shape)))
    m.decoder.forward = lambda z: torch.full((1, 3, 16, 16), 2 * (100 + 0.5) / 256 - 1)  # y01 in the middle of bin 100
    torch.testing.assert_close(m.decompress(torch.zeros(1)), torch.full((1, 3, 16, 16), 100 / 127.5 - 1))


@pytest.mark.parametrize(("size", "side"), [(32, 8), (64, 16), (128, 32)])
def test_latents_are_a_quarter_of_the_side(size, side):
    with torch.device("meta"):
        m = model(size=size)
    assert m.latent_shape == (2, side, side)
    assert m.encoder(torch.empty(1, 3, size, size, device="meta"))[0].shape == (1, 2, side, side)


def test_published_size():
    config = AutoencoderConfig(latent_channels=4, width=64, multipliers=(1, 2, 4), blocks=2, patch=1, kl_weight=1e-6)
    with torch.device("meta"):
        m = Autoencoder(config, 64)
    assert sum(p.numel() for p in m.parameters()) / 1e6 == pytest.approx(13.3, abs=0.1)


def test_images_that_cannot_be_shrunk_are_refused():
    with pytest.raises(ValueError, match="size 30: patch and multipliers shrink images 4 times"):
        model(size=30)


@torch.no_grad()
def test_log_weights_are_those_of_torch_distributions():
    m, x = model(), smooth()
    m.shift.fill_(0.05)
    u, eps = m.draws(x, generator(4))
    y = (((x + 1) * 127.5).round() + u) / 256
    mu, logvar = m.encoder(2 * y - 1)
    q, prior = Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)
    z = mu + torch.exp(logvar / 2) * eps
    p = Independent(Laplace((m.decoder(z) + 1) / 2, 0.1 * math.exp(0.5)), 3)
    log_joint = p.log_prob(y) - 3 * 16 * 16 * math.log(256) + prior.log_prob(z).sum((1, 2, 3))
    weights = m.log_weight(x, generator(4))
    torch.testing.assert_close(weights, log_joint - q.log_prob(z).sum((1, 2, 3)), rtol=1e-5, atol=1e-3)
