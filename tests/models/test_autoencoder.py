import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Independent, Laplace, Normal, kl_divergence

from tests.models.helpers import generator, portraits, smooth, step, train, unlabelled
from visage.maths import pixels
from visage.models import base
from visage.models.autoencoder import Autoencoder, AutoencoderConfig

CONFIG = {
    "latent_channels": 2,
    "width": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "patch": 2,
    "kl_weight": 1e-3,
    "linear": False,
}


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
    published = {"latent_channels": 4, "width": 64, "multipliers": (1, 2, 4), "blocks": 2, "patch": 1}
    config = AutoencoderConfig(**CONFIG | published)
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


# --- Linear maps from principal components


def started(n=400, **changes):
    """A model with linear maps and 32 latents, and the n images that it was started with."""
    x = portraits(n, axes=40, decay=0.9)
    m = model(**{"linear": True} | changes).double().eval()
    m.initialize(unlabelled(x))
    return m, x


def middle(x):
    """What the encoder sees of x where u is 1/2."""
    return 2 * pixels.to_middle(x) - 1


def pca_of(x, count):
    return PCA(count, svd_solver="full").fit(middle(torch.cat([x, x.flip(3)])).flatten(1).numpy())


@torch.no_grad()
def test_without_convolutions_a_reconstruction_is_the_projection_on_the_principal_axes():
    m, x = started()
    pca, other = pca_of(x, 32), portraits(480, axes=40, decay=0.9)[400:]  # none that it was started with
    expected = torch.from_numpy(pca.inverse_transform(pca.transform(middle(other).flatten(1).numpy())))
    expected = pixels.from_middle((expected.view_as(other) + 1) / 2).clamp(-1, 1)
    torch.testing.assert_close(m.reconstruct(other), expected, atol=1e-3, rtol=0)
    error = (m.decoder(m.posterior(x)[0]) - middle(x)).abs().mean() / 2  # not clamped
    torch.testing.assert_close(m.log_scale().exp(), error, rtol=1e-4, atol=0)
    assert 0.01 < error < 0.07  # far from where the scale starts without linear maps


@torch.no_grad()
def test_the_linear_maps_have_orthogonal_columns_of_one_length_for_each_channel_and_invert_each_other():
    m, x = started()
    V, W = m.encoder.linear.weight, m.decoder.linear.weight
    torch.testing.assert_close(V @ W, torch.eye(32).double(), atol=1e-5, rtol=0)
    lengths = W.norm(dim=0)
    torch.testing.assert_close(W.T @ W, lengths.square().diag(), atol=1e-4, rtol=0)
    torch.testing.assert_close(lengths, lengths.view(2, 16).mean(1).repeat_interleave(16))
    z = m.posterior(torch.cat([x, x.flip(3)]))[0]
    torch.testing.assert_close(z.mean(0), torch.zeros(2, 4, 4).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.square().mean((0, 2, 3)), torch.ones(2).double(), atol=1e-2, rtol=0)


@torch.no_grad()
def test_every_latent_of_the_linear_maps_belongs_to_its_cell():
    """Images with details everywhere, of which cells without their neighbours explain most."""
    cells = torch.randn(500, 3, 8, 8, generator=generator(3))
    x = (0.3 * torch.nn.functional.interpolate(cells, scale_factor=4, mode="bilinear")).clamp(-1, 1)
    m = model(size=32, linear=True).eval()
    m.initialize(unlabelled(x))
    W = m.decoder.linear.weight.view(3, 8, 4, 8, 4, -1)
    squares = W.square().sum((0, 2, 4)).flatten(0, 1).view(64, 2, 64)  # cell of the pixels, channel, cell of the latent
    assert (squares.argmax(0) == torch.arange(64)).all()
    share = squares / squares.sum(0)
    assert share.diagonal(dim1=0, dim2=2).mean() > 0.4


def mean_over_noise(m, x):
    """The loss with many draws of the latents' noise and u of 1/2."""
    g, u = generator(1), torch.full_like(x, 0.5)
    parts = [m.parts(x, u, torch.randn((len(x), *m.latent_shape), generator=g).to(x)) for _ in range(8)]
    return sum((part.distortion + m.config.kl_weight * part.rate).mean() for part in parts) / 8


@pytest.mark.parametrize("kl_weight", [1e-3, 1.0])
def test_scale_and_spread_start_where_the_loss_is_least(kl_weight):
    m, x = started(kl_weight=kl_weight)
    x = x[:40]
    logvar, losses = m.encoder.layers[-1].bias, {}
    with torch.no_grad():
        start = logvar[2:].clone()
        for by in (-1.0, 0.0, 1.0):
            logvar[2:] = start + by
            losses[by] = mean_over_noise(m, x)
        assert losses[0.0] < min(losses[-1.0], losses[1.0])
        logvar[2:] = start
        at, shift = mean_over_noise(m, x), m.shift.clone()
        for by in (-0.03, 0.03):
            m.shift.copy_(shift + by)  # a factor of 1.35
            assert mean_over_noise(m, x) > at


@torch.no_grad()
def test_a_new_model_with_the_weights_of_a_started_one_is_the_same():
    m, x = started()
    other = model(seed=1, linear=True).double().eval()
    other.load_state_dict(m.state_dict())
    torch.testing.assert_close(other.bound(x, generator()).elbo, m.bound(x, generator()).elbo, rtol=0, atol=0)


def test_the_convolutions_learn_and_the_linear_maps_stay():
    x = portraits(axes=40, decay=0.9).float()
    m = model(linear=True)
    m.initialize(unlabelled(x))
    before = {name: value.clone() for name, value in m.state_dict().items()}
    train(m, [unlabelled(x[:16])] * 3, lr=1e-3)
    for name, value in m.state_dict().items():
        assert torch.equal(value, before[name]) == (".linear." in name), name


@torch.no_grad()
def test_images_without_variation_are_returned_as_they_are():
    x = torch.full((3, 3, 16, 16), 0.2)
    m = model(linear=True).eval()
    m.initialize(unlabelled(x))
    parts = m.bound(x, generator())
    assert torch.isfinite(parts.distortion).all()
    assert torch.isfinite(parts.rate).all()
    torch.testing.assert_close(m.reconstruct(x), x, atol=0.01, rtol=0)


@torch.no_grad()
def test_without_linear_maps_nothing_depends_on_the_first_images():
    m = model()
    before = {name: value.clone() for name, value in m.state_dict().items()}
    m.initialize(unlabelled(smooth()))
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
    assert m.initial_images == base.INITIAL_IMAGES < model(linear=True).initial_images


def test_more_latents_than_pixels_have_no_linear_maps():
    with pytest.raises(ValueError, match="latent_channels=49: linear maps of 4x4 pixels have 48 channels at most"):
        model(latent_channels=49, linear=True)
