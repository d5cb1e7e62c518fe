import dataclasses
import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Independent, Laplace, Normal

from tests.models.helpers import generator, portraits, smooth, step, train, unlabelled
from visage.maths import pixels
from visage.maths.units import bits_per_dim
from visage.models import base
from visage.models.vae import SIGMA_SPEED, VAE, VAEConfig

LIKELIHOODS = ["gaussian", "laplace", "discretized_logistic", "bernoulli"]
SMALL = VAEConfig(
    beta=1.0,
    likelihood="gaussian",
    sigma=0.0,
    latent_dim=8,
    width=8,
    max_width=16,
    dropout=0.0,
    activation="silu",
    slope=0.2,
    norm="group",
    kernel=4,
    bottom=4,
    ending="convolution",
    output="linear",
    kl_warmup=0.0,
    linear=False,
)


def model(size=16, seed=0, **changes):
    torch.manual_seed(seed)
    return VAE(dataclasses.replace(SMALL, **changes), size)


def gradients(m, s=None):
    """Of every parameter, in one vector."""
    loss, _ = m.loss(unlabelled(smooth()), s or step())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(m.parameters()))])


# --- The configuration


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"likelihood": "bernoulli", "sigma": 0.1}, "sigma"),
        ({"likelihood": "discretized_logistic", "sigma": 0.1}, "sigma"),
        ({"sigma": 0.001}, "256"),
        ({"width": 32, "max_width": 16}, "max_width"),
        ({"linear": True, "likelihood": "laplace"}, "linear"),
        ({"linear": True, "likelihood": "bernoulli"}, "linear"),
        ({"output": "sigmoid", "likelihood": "bernoulli"}, "output"),
        ({"output": "sigmoid", "likelihood": "discretized_logistic"}, "output"),
        ({"output": "sigmoid", "linear": True}, "output"),
        ({"ending": "cropped", "kernel": 4}, "kernel"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("size", [8, 48, 100])
def test_sizes_that_cannot_be_halved_down_to_four_are_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        VAE(SMALL, size)


@pytest.mark.parametrize(
    ("size", "changes", "millions"),
    [
        (64, {"latent_dim": 128, "width": 64, "max_width": 512}, 8.73),
        (32, {"latent_dim": 128, "width": 64, "max_width": 512}, 2.96),
        (32, {"latent_dim": 64, "width": 32, "max_width": 128}, 0.74),
        (128, {"latent_dim": 256, "width": 64, "max_width": 512}, 20.27),
    ],
)
def test_parameter_counts(size, changes, millions):
    with torch.device("meta"):
        m = VAE(dataclasses.replace(SMALL, **changes), size)
    assert sum(p.numel() for p in m.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("bottom", "size"), [(2, 4), (4, 8), (8, 16), (8, 48)])
def test_images_are_halved_twice_at_least(bottom, size):
    with pytest.raises(ValueError, match=f"down to {bottom} pixels, choose a power of two from {4 * bottom} on"):
        model(bottom=bottom, size=size)


def test_the_one_player_holds_every_parameter():
    m = model()
    held = [p for modules in m.players().values() for module in modules for p in module.parameters()]
    assert {id(p) for p in held} == {id(p) for p in m.parameters()}
    assert len(held) == len(list(m.parameters()))
    assert [phase.player for phase in m.phases()] == ["autoencoder"]


# --- The objective


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_loss_is_distortion_plus_beta_rate_in_nats_per_image(likelihood):
    loss, terms = model(beta=3.0, likelihood=likelihood).loss(unlabelled(smooth()), step())
    torch.testing.assert_close(loss, terms["distortion"] + 3 * terms["rate"])
    assert not any(term.requires_grad for term in terms.values())
    assert ("sigma" in terms) == (likelihood in ("gaussian", "laplace"))
    assert ("elbo" in terms) == (likelihood != "bernoulli")


def test_beta_one_is_the_vae_bit_for_bit():
    loss, terms = model(beta=1.0, kl_warmup=0.1).loss(unlabelled(smooth()), step(index=10))
    assert loss.item() == -terms["elbo"].item() == (terms["distortion"] + terms["rate"]).item()


def test_rate_and_code_of_known_posteriors():
    m = model(latent_dim=2)
    with torch.no_grad():
        m.encoder.head.weight.zero_()
        m.encoder.head.bias.copy_(torch.tensor([1.0, 0.0, math.log(4.0), 0.0]))  # mu, log sigma^2
    x, eps, seen = smooth(2), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), []
    m.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    parts = m.parts(x, torch.zeros_like(x), eps)
    torch.testing.assert_close(parts.rate, torch.full((2,), 0.5 * (1 + 4 - 1 - math.log(4.0))))
    torch.testing.assert_close(seen[0], torch.tensor([[3.0, 0.0], [-1.0, 0.5]]))  # a standard deviation of 2


def test_distortion_of_a_gaussian_by_hand():
    likelihood = model(sigma=0.1).likelihood
    x = torch.full((1, 3, 4, 4), -1.0)  # v = 0
    h = torch.full((1, 3, 4, 4), -0.5)  # mean 0.25 in y01
    y = 0.5 / 256
    nats = -0.5 * ((y - 0.25) / 0.1) ** 2 - math.log(0.1) - 0.5 * math.log(2 * math.pi) - math.log(256)
    log_prob = likelihood.log_prob(likelihood.observe(x, torch.full_like(x, 0.5)), h)
    torch.testing.assert_close(log_prob, torch.tensor([48 * nats]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_four_tiles_of_an_image_distort_four_times_as_much(likelihood):
    p = model(likelihood=likelihood).likelihood
    x, u = smooth(2), torch.rand(2, 3, 16, 16, generator=generator())
    h = torch.randn(2, p.channels, 16, 16, generator=generator(3))
    one, four = (p.log_prob(p.observe(x.repeat(r), u.repeat(r)), h.repeat(r)) for r in ((1, 1, 1, 1), (1, 1, 2, 2)))
    torch.testing.assert_close(four, 4 * one)


def test_learned_sigma_at_its_best_has_the_closed_form():
    m = model()
    x, u = smooth(4), torch.rand(4, 3, 16, 16, generator=generator())
    eps = torch.zeros(4, 8)
    y = pixels.dequantize(x, u)
    with torch.no_grad():
        mean = (m.decoder(m.encoder(2 * y - 1)[0]) + 1) / 2
        mse = (y - mean).square().mean()
        m.likelihood.shift.copy_((0.5 * mse.log() - m.likelihood.log_sigma()) / SIGMA_SPEED)
        distortion = m.parts(x, u, eps).distortion.mean()
    bits = 8 + 0.5 * math.log2(2 * math.pi * math.e * mse.item())
    assert bits_per_dim(-distortion.item(), 768) == pytest.approx(bits, abs=1e-5)


def test_beta_and_sigma_of_a_gaussian_trade_against_each_other():
    # loss(beta, s^2) = beta loss(1, beta s^2) + constant, where the constant is free of the weights
    one = gradients(model(beta=4.0, sigma=0.1))
    other = gradients(model(beta=1.0, sigma=0.2))
    torch.testing.assert_close(one, 4 * other, rtol=1e-4, atol=1e-4 * one.abs().max().item())


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_a_learned_sigma_has_a_floor(likelihood):
    p = model(likelihood=likelihood).likelihood
    with torch.no_grad():
        p.shift.fill_(-50.0)
    assert p.log_sigma().exp().item() == pytest.approx(1 / 256)


# --- Networks of other implementations


MSE = {
    "beta": 1.2, "sigma": math.sqrt(0.5), "latent_dim": 128, "width": 32, "max_width": 512, "activation": "leaky_relu",
    "slope": 0.01, "norm": "none", "kernel": 3, "ending": "transposed", "output": "sigmoid",
}  # fmt: skip
LARGE = {
    "likelihood": "bernoulli", "latent_dim": 200, "width": 32, "max_width": 64, "dropout": 0.2,
    "activation": "leaky_relu", "slope": 0.001, "norm": "batch", "kernel": 3, "bottom": 8, "ending": "cropped",
}  # fmt: skip


@pytest.mark.parametrize(("recipe", "size", "changes"), [("vae_mse", 64, MSE), ("vae_128", 128, LARGE)])
@pytest.mark.parametrize("scale", ["demo", "full"])
def test_recipes_have_these_networks(run_config, recipe, size, changes, scale):
    settings = run_config(recipe, size, scale).settings
    assert settings == dataclasses.asdict(dataclasses.replace(SMALL, **changes)) | {"sigma": settings["sigma"]}
    assert settings["sigma"] == pytest.approx(changes.get("sigma", 0), abs=1e-8)


@pytest.mark.parametrize(("recipe", "size", "epochs"), [("vae_mse", 64, 15), ("vae_128", 128, 50)])
def test_recipes_train_for_so_many_epochs_of_celeba(run_config, recipe, size, epochs):
    train = run_config(recipe, size, "full").train
    assert train.kimg == pytest.approx(epochs * 162.770)
    assert (train.lr, train.lr_schedule, train.ema_decay) == (0.001, "constant", 0)


def conv(i, o, bias=True):
    return 9 * i * o + o * bias


def linear(i, o):
    return i * o + o


@pytest.mark.parametrize(("bottom", "channels"), [(4, [32, 64, 128, 256]), (2, [32, 64, 128, 256, 512])])
def test_parameters_and_shapes_of_vae_mse_by_hand(bottom, channels):
    m = model(size=64, **MSE | {"bottom": bottom})
    ends = list(zip([3, *channels[:-1]], channels, strict=True))
    code = channels[-1] * bottom**2
    expected = sum(conv(i, o) for i, o in ends) + linear(code, 2 * 128)
    expected += linear(128, code) + sum(conv(o, i) for i, o in ends)  # the mirror
    assert sum(p.numel() for p in m.parameters()) == expected
    assert [tuple(part[0].weight.shape) for part in m.encoder.down] == [(o, i, 3, 3) for i, o in ends]
    with torch.no_grad():
        assert m.encoder.down(torch.zeros(2, 3, 64, 64)).shape == (2, channels[-1], bottom, bottom)
        assert sides(m) == [bottom << k for k in range(len(channels) + 1)]
        assert m.decoder(torch.zeros(2, 128)).shape == (2, 3, 64, 64)


def test_parameters_and_shapes_of_vae_128_by_hand():
    m = model(size=128, **LARGE)
    ends = [(3, 32), (32, 64), (64, 64), (64, 64)]
    expected = sum(conv(i, o, bias=False) + 2 * o for i, o in ends) + linear(64 * 8 * 8, 2 * 200)
    expected += linear(200, 64 * 8 * 8) + sum(conv(o, i, bias=False) + 2 * i for i, o in ends[1:]) + conv(32, 3)
    assert sum(p.numel() for p in m.parameters()) == expected
    with torch.no_grad():
        assert m.encoder.down(torch.zeros(2, 3, 128, 128)).shape == (2, 64, 8, 8)
        assert sides(m) == [8, 17, 33, 65, 129]
        assert m.decoder(torch.zeros(2, 200)).shape == (2, 3, 128, 128)


def sides(m):
    """Of the decoder's feature maps."""
    h, found = m.decoder.stem(torch.zeros(2, m.config.latent_dim)), []
    for layer in m.decoder.up:
        h = layer(h)
        found.append(h.shape[-1])
    return found


@torch.no_grad()
def test_what_is_cropped_is_the_last_row_and_the_last_column():
    m = model(size=128, **LARGE).eval()
    m.decoder.up[-1].register_forward_hook(lambda *_: torch.arange(2 * 3 * 129 * 129).reshape(2, 3, 129, 129))
    rows, columns = torch.arange(128)[:, None] * 129, torch.arange(128)
    torch.testing.assert_close(m.decoder(torch.zeros(2, 200))[0, 0], (rows + columns).float())


@torch.no_grad()
def test_transposed_convolutions_mirror_those_of_the_encoder():
    """Each is the transpose, as a linear map, of a convolution from the larger side to the smaller one."""
    up = model(size=64, **MSE).decoder.up[-1].double()
    x, y = (torch.randn(1, *shape, generator=generator()).double() for shape in ((3, 64, 64), (32, 32, 32)))
    down = torch.nn.functional.conv2d(x, up.weight, stride=2, padding=1)
    torch.testing.assert_close((down * y).sum(), (x * (up(y) - up.bias[:, None, None])).sum())


@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_loss_of_vae_mse_is_the_squared_error_and_more_of_the_rate(eps, monkeypatch):
    m, x = model(size=64, **MSE), smooth(3, size=64)
    monkeypatch.setattr("visage.maths.noise.normal", lambda shape, *_: torch.full(shape, eps))
    monkeypatch.setattr("visage.maths.noise.uniform", lambda shape, *_: torch.full(shape, 0.5))
    loss, terms = m.loss(unlabelled(x), step())
    with torch.no_grad():
        y = (pixels.levels(x) + 0.5) / 256
        mu, logvar = m.encoder(2 * y - 1)
        mean = torch.sigmoid(m.decoder.up(m.decoder.stem(mu + eps * (0.5 * logvar).exp())))  # in [0, 1]
        squared = (y - mean).double().square().sum((1, 2, 3)).mean().item()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean().item()
    constant = 3 * 64 * 64 * (0.5 * math.log(math.pi) + math.log(256))
    assert loss.item() == pytest.approx(squared + 1.2 * kl + constant, abs=0.05)
    assert terms["squared_error"].item() == pytest.approx(squared, abs=0.05)
    assert terms["rate"].item() == pytest.approx(kl, rel=1e-5)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_squared_errors_are_logged_where_sigma_is_fixed(sigma):
    m, x = model(sigma=sigma), smooth(3)
    _, terms = m.loss(unlabelled(x), step(seed=4))
    again = step(seed=4)
    with torch.no_grad():
        y = (pixels.levels(x) + torch.rand(x.shape, generator=again.generator)) / 256
        mu, logvar = m.encoder(2 * y - 1)
        mean = (m.decoder(mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=again.generator)) + 1) / 2
    expected = (y - mean).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(terms["squared_error"], expected, rtol=1e-3, atol=0)
    for other in ({}, {"likelihood": "laplace", "sigma": sigma}):
        assert "squared_error" not in model(**other).loss(unlabelled(x), step())[1]


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@torch.no_grad()
def test_a_sigmoid_has_the_mean_between_black_and_white(likelihood):
    m = model(likelihood=likelihood, output="sigmoid").eval()
    m.decoder.up[-1].weight.zero_()
    for logit, mean in ((0.0, 0.5), (math.log(3.0), 0.75), (-50.0, 0.0), (50.0, 1.0)):
        m.decoder.up[-1].bias.fill_(logit)
        y = (m.decoder(torch.zeros(2, 8)) + 1) / 2
        torch.testing.assert_close(y, torch.full((2, 3, 16, 16), mean))


@pytest.mark.parametrize("slope", [0.001, 0.2])
@torch.no_grad()
def test_slope_is_that_of_negative_activations(slope):
    activation = model(activation="leaky_relu", slope=slope).encoder.down[0][2]
    torch.testing.assert_close(activation(torch.tensor([-2.0, 3.0])), torch.tensor([-2 * slope, 3.0]))


@torch.no_grad()
def test_batch_normalisation_looks_at_the_batch_in_training_alone():
    m, x = model(norm="batch"), smooth(6)
    together, alone = m.encode(x)[:2], m.encode(x[:2])
    assert (together - alone).abs().max() > 0.01
    m.eval()
    torch.testing.assert_close(m.encode(x)[:2], m.encode(x[:2]))


def test_without_normalisation_every_convolution_has_a_bias():
    for norm, biased in (("none", True), ("batch", False), ("group", False)):
        m = model(norm=norm)
        blocks = [*m.encoder.down, *m.decoder.up[1:-1]]
        assert {part[0].bias is not None for part in blocks} == {biased}


# --- Warm-up


def test_scales_of_a_logistic_stay_within_bounds():
    """Beyond them the probability of a value underflows, or no value is told from another."""
    vae = model(likelihood="discretized_logistic")
    seen = torch.zeros(1, 3, 16, 16)

    def log_prob(log_scale):
        return vae.likelihood.log_prob(seen, torch.cat([seen, torch.full_like(seen, log_scale)], dim=1))

    assert torch.equal(log_prob(-50.0), log_prob(-7.0))
    assert torch.equal(log_prob(50.0), log_prob(2.0))
    assert not torch.equal(log_prob(-3.0), log_prob(-2.0))


def test_beta_rises_to_its_value_at_the_stated_step_and_not_before():
    m = model(beta=1.2, kl_warmup=0.1)
    weights = [m.beta(step(index=i, total=100)) for i in range(100)]
    assert weights[0] == 0
    assert weights[5] == pytest.approx(0.6)
    assert max(weights[:10]) < 1.2
    assert weights[10:] == [1.2] * 90


def test_beta_depends_on_the_step_alone_so_that_it_continues_after_a_resume():
    fresh, used = model(kl_warmup=0.5), model(kl_warmup=0.5)
    for i in range(20):
        used.loss(unlabelled(smooth()), step(index=i))
    one, other = (m.loss(unlabelled(smooth()), step(index=20))[0].item() for m in (fresh, used))
    assert one == other


def test_without_warm_up_beta_is_constant():
    assert model(beta=2.0, kl_warmup=0.0).beta(step(index=0)) == 2.0


# --- Randomness


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_all_noise_comes_from_the_generator(likelihood):
    m = model(likelihood=likelihood)
    torch.manual_seed(1)
    one = m.loss(unlabelled(smooth()), step(seed=7))[0].item()
    torch.manual_seed(2)
    assert m.loss(unlabelled(smooth()), step(seed=7))[0].item() == one
    assert m.loss(unlabelled(smooth()), step(seed=8))[0].item() != one


def test_encoder_sees_the_noise_that_the_density_sees():
    m, seen = model(), []
    m.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, u = smooth(2), torch.rand(2, 3, 16, 16, generator=generator())
    m.parts(x, u, torch.zeros(2, 8))
    torch.testing.assert_close((seen[0] + 1) / 2, pixels.dequantize(x, u))


@torch.no_grad()
def test_sample_i_is_independent_of_n():
    m = model().eval()
    torch.testing.assert_close(m.sample(2, generator()), m.sample(5, generator())[:2])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_an_image_is_judged_alone(likelihood):
    m, x = model(likelihood=likelihood).eval(), smooth(5)
    alone, together = m.bound(x[:2], generator()), m.bound(x, generator())
    torch.testing.assert_close(alone.distortion, together.distortion[:2])
    torch.testing.assert_close(alone.rate, together.rate[:2])
    torch.testing.assert_close(m.reconstruct(x[:1]), m.reconstruct(x)[:1])
    torch.testing.assert_close(m.encode(x[3:4]), m.encode(x)[3:4])


def test_dropout_is_off_in_evaluation():
    m, x = model(dropout=0.5), smooth(2)
    assert not torch.equal(m.reconstruct(x), m.reconstruct(x))
    m.eval()
    assert torch.equal(m.reconstruct(x), m.reconstruct(x))


# --- Capabilities


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_capabilities_are_those_of_the_mathematics(likelihood):
    m = model(likelihood=likelihood)
    missing = {c for c in base.CAPABILITIES if not base.can(m, c)} - set(base.UNLESS_SAID)
    assert missing == ({base.HasLogProb, base.HasBound} if likelihood == "bernoulli" else {base.HasLogProb})
    assert base.can(m, base.ImportanceWeighted) == base.can(m, base.HasBound)
    assert missing == set(m.why_not()) - {base.ImportanceWeighted}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_images_stay_in_range(likelihood):
    m, x = model(likelihood=likelihood).eval(), smooth(3)
    m.decoder.up[-1].weight.mul_(100)
    for out in (m.sample(3, generator()), m.reconstruct(x), m.decode(m.prior(3, generator()))):
        assert out.shape == (3, 3, 16, 16)
        assert out.dtype == torch.float32
        assert out.min() >= -1
        assert out.max() <= 1
    assert m.encode(x).shape == (3, 8)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_evaluation_knows_no_beta(likelihood):
    x = smooth(3)
    bounds = [model(beta=beta, likelihood=likelihood).eval().bound(x, generator()) for beta in (0.5, 1.0, 4.0)]
    for other in bounds[1:]:
        assert torch.equal(bounds[0].distortion, other.distortion)
        assert torch.equal(bounds[0].rate, other.rate)
    torch.testing.assert_close(bounds[0].elbo, -bounds[0].distortion - bounds[0].rate)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.no_grad()
def test_ood_scores_name_what_speaks_for_the_model(likelihood):
    m, x = model(likelihood=likelihood).eval(), smooth(5)
    scores = m.ood_scores(x, generator())
    assert list(scores) == (["bce", "kl"] if likelihood == "bernoulli" else ["kl"])
    for name, score in m.ood_scores(x[:2], generator()).items():
        torch.testing.assert_close(score, scores[name][:2])
    # an untrained encoder hardly sees the dequantisation noise, whose draws are not those of `bound`
    torch.testing.assert_close(scores["kl"], m.bound(x, generator()).rate, rtol=0.05, atol=0)


@torch.no_grad()
def test_a_mean_reconstructs_the_value_it_stands_for():
    x = smooth(2)
    m = model()
    y = (pixels.levels(x) + 0.5) / 256
    torch.testing.assert_close(m.likelihood.mean(2 * y - 1), x)
    logistic, bernoulli = (model(likelihood=name).likelihood for name in ("discretized_logistic", "bernoulli"))
    torch.testing.assert_close(logistic.mean(torch.cat([x, x], dim=1)), x)
    torch.testing.assert_close(bernoulli.mean(torch.logit((x + 1) / 2)), x)


@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic", "bernoulli"])
def test_an_image_is_likeliest_where_the_mean_is_that_image(likelihood):
    p, x = model(likelihood=likelihood).likelihood, 0.9 * smooth(2)
    seen = p.observe(x, torch.full_like(x, 0.5))
    h = {"gaussian": seen, "discretized_logistic": torch.cat([x, x], dim=1), "bernoulli": torch.logit((x + 1) / 2)}
    h = h[likelihood].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(p.log_prob(seen, h).sum(), h)
    torch.testing.assert_close(gradient[:, :3], torch.zeros_like(x), atol=1e-4, rtol=0)


@torch.no_grad()
def test_bounds_stay_in_float32_under_bf16():
    m, x = model().eval(), smooth(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = m.bound(x, generator())
        loss, _ = m.loss(unlabelled(smooth()), step())
    assert half.distortion.dtype == half.rate.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(half.distortion, m.bound(x, generator()).distortion, rtol=0.05, atol=0)


# --- Linear maps from principal components


def started(n=400, **changes):
    """A model with linear maps and the n images that it was started with."""
    x = portraits(n)
    m = model(**{"linear": True, "latent_dim": 6} | changes).double().eval()
    m.initialize(unlabelled(x))
    return m, x


def middle(x):
    """What the encoder sees of x where u is 1/2."""
    return 2 * pixels.to_middle(x) - 1


def both(x):
    """Images and their mirror images."""
    return torch.cat([x, x.flip(3)])


def pca_of(x, count):
    """Scikit-learn's components of both, with variances that are means of squares, not sums over n - 1."""
    pca = PCA(count, svd_solver="full").fit(middle(both(x)).flatten(1).numpy())
    n = 2 * len(x)
    pca.explained_variance_ *= (n - 1) / n
    pca.noise_variance_ *= (n - 1) / n
    return pca


def mean_over_codes(m, x):
    """Distortion and rate with the exact expectation over eps of a loss that is quadratic in it; u is 1/2."""
    k = m.config.latent_dim
    points = math.sqrt(k) * torch.cat([torch.eye(k), -torch.eye(k)]).double()
    u = torch.full_like(x, 0.5)
    parts = [m.parts(x, u, eps.expand(len(x), -1)) for eps in points]
    return sum(part.distortion for part in parts) / len(parts), parts[0].rate


@torch.no_grad()
def test_without_convolutions_the_bound_is_the_likelihood_of_probabilistic_pca():
    m, x = started()
    pca = pca_of(x, 6)
    other = portraits(480)[400:]  # none that it was started with
    distortion, rate = mean_over_codes(m, other)
    # scikit-learn's density is of `seen`, which is 2 y01 - 1
    dims = 768
    log_p = torch.from_numpy(pca.score_samples(middle(other).flatten(1).numpy())) + dims * math.log(2)
    torch.testing.assert_close(-distortion - rate, log_p - pixels.quantization_nats(dims), rtol=0, atol=0.05)
    assert rate.mean() > 5


@pytest.mark.parametrize("beta", [1.0, 4.0])
@torch.no_grad()
def test_without_convolutions_a_reconstruction_is_the_shrunk_projection_on_the_principal_axes(beta):
    m, x = started(beta=beta)
    pca = pca_of(x, 6)
    shrunk = 1 - beta * pca.noise_variance_ / pca.explained_variance_
    assert shrunk.min() < 0.999
    flat = middle(x).flatten(1).numpy()
    expected = pca.mean_ + (flat - pca.mean_) @ pca.components_.T * shrunk @ pca.components_
    expected = pixels.from_middle((torch.from_numpy(expected).reshape(x.shape) + 1) / 2).clamp(-1, 1)
    torch.testing.assert_close(m.reconstruct(x), expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_codes_of_the_images_that_it_starts_with_have_the_prior_for_their_mixture():
    m, x = started()
    mu, logvar = m.encoder(middle(both(x)))
    torch.testing.assert_close(mu.mean(0), torch.zeros(6).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mu.T @ mu / len(mu) + logvar.exp().mean(0).diag(), torch.eye(6).double(), atol=0.01, rtol=0
    )


@torch.no_grad()
def test_without_convolutions_mirror_images_are_treated_alike():
    m, x = started()
    torch.testing.assert_close(m.reconstruct(x.flip(3)), m.reconstruct(x).flip(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("beta", "sigma", "unused"), [(1.0, 0.05, 0), (4.0, 0.05, 0), (3.0, 0.9, 2), (4.0, 0.78, 2), (1.0, 0.0, 0)]
)
def test_no_linear_model_is_better(beta, sigma, unused):
    """The gradient of the expected loss is 0 at the start, whatever beta and sigma, and not so nearby."""
    m, x = started(40, beta=beta, sigma=sigma)
    maps = (m.encoder.linear, m.decoder.linear)
    assert (m.decoder.linear.weight.norm(dim=0) < 1e-6).sum() == unused
    tensors = [m.encoder.head.bias, *(part.requires_grad_() for a in maps for part in (a.weight, a.bias))]
    if not sigma:
        tensors.append(m.likelihood.shift)

    def steepness():
        distortion, rate = mean_over_codes(m, both(x))
        return torch.autograd.grad((distortion + beta * rate).mean(), tensors)

    at_start = steepness()
    with torch.no_grad():
        for part in tensors:
            part.add_(0.1 * part.std() if part.numel() > 1 else 0.01)
    for here, nearby in zip(at_start, steepness(), strict=True):
        assert here.norm() < 0.02 * nearby.norm()


@torch.no_grad()
def test_a_new_model_with_the_weights_of_a_started_one_is_the_same():
    m, x = started()
    other = model(seed=1, linear=True, latent_dim=6).double().eval()
    other.load_state_dict(m.state_dict())
    torch.testing.assert_close(other.bound(x, generator()).elbo, m.bound(x, generator()).elbo, rtol=0, atol=0)


def test_the_convolutions_learn_and_the_linear_maps_stay():
    x = smooth(16)
    m = model(linear=True)
    m.initialize(unlabelled(x))
    before = {name: value.clone() for name, value in m.state_dict().items()}
    train(m, [unlabelled(x)] * 3, lr=1e-3)
    for name, value in m.state_dict().items():
        assert torch.equal(value, before[name]) == (".linear." in name), name


@torch.no_grad()
def test_linear_maps_are_not_rounded_under_bf16():
    x = smooth(16)
    m = model(linear=True).eval()
    m.initialize(unlabelled(x))
    exact = m.reconstruct(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(m.reconstruct(x), exact, rtol=0, atol=0)


@pytest.mark.parametrize("beta", [0.0, 1.0])
@torch.no_grad()
def test_images_without_variation_leave_the_codes_unused(beta):
    x = torch.full((3, 3, 16, 16), 0.2)
    m = model(linear=True, beta=beta).eval()
    m.initialize(unlabelled(x))
    parts = m.bound(x, generator())
    assert torch.isfinite(parts.distortion).all()
    assert torch.isfinite(parts.rate).all()
    assert m.likelihood.log_sigma().exp().item() == pytest.approx(1 / 256)
    torch.testing.assert_close(m.reconstruct(x), x, atol=0.01, rtol=0)


@torch.no_grad()
def test_without_linear_maps_nothing_depends_on_the_first_images():
    m = model()
    before = {name: value.clone() for name, value in m.state_dict().items()}
    m.initialize(unlabelled(smooth()))
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
    assert m.initial_images == base.INITIAL_IMAGES < model(linear=True).initial_images


# --- Training


def linear_gaussian(c, offset=0.0):
    """A VAE of y = Wz + 0.3 e, z rotated so that its posterior has independent components, and u fixed at 1/2.

    q has c times the posterior's deviations, and means that are off by `offset`. With it: log P of the first of
    `images`, and the posterior's variances.
    """
    m, sigma, d, dims = model(latent_dim=2, sigma=0.3).double(), 0.3, 2, 48
    W = torch.randn(dims, d, generator=generator(0), dtype=torch.float64) / 4
    W = W @ torch.linalg.eigh(W.T @ W).eigenvectors
    variance = 1 / (1 + (W**2).sum(0) / sigma**2)
    m.encoder.forward = lambda seen: (
        ((seen.flatten(1) + 1) / 2) @ W / sigma**2 * variance + offset,
        (c**2 * variance).log().repeat(len(seen), 1),
    )
    m.decoder.forward = lambda z: 2 * (z @ W.T).reshape(-1, 3, 4, 4) - 1
    m.likelihood.observe = lambda x, u: 2 * pixels.dequantize(x, torch.full_like(x, 0.5)) - 1
    covariance = W @ W.T + sigma**2 * torch.eye(dims, dtype=torch.float64)
    y01 = torch.distributions.MultivariateNormal(torch.zeros(dims, dtype=torch.float64), covariance)
    seen = pixels.dequantize(smooth(1, size=4).double(), torch.tensor(0.5))
    return m, y01.log_prob(seen.flatten(1)) - pixels.quantization_nats(dims), variance


@pytest.mark.parametrize("c", [1.0, 1.5])
@torch.no_grad()
def test_elbo_of_the_linear_gaussian_model_misses_log_p_by_the_kl_of_its_posterior(c):
    """KL(N(m, c^2 S) || N(m, S)) = d/2 (c^2 - 1 - 2 ln c): .43907 nats at c = 1.5, and at c = 1 the bound is tight."""
    m, exact, _ = linear_gaussian(c)
    x, u, d = smooth(1, size=4).double(), torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64), 2
    # the ELBO is quadratic in eps, so that these four points, of mean 0 and covariance I, give its expectation exactly
    eps = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    elbo = m.parts(x.expand(4, -1, -1, -1), u.expand(4, -1, -1, -1), eps).elbo.mean()
    assert (exact - elbo).item() == pytest.approx(c**2 - 1 - 2 * math.log(c), abs=1e-5)


@torch.no_grad()
def test_log_weights_of_the_linear_gaussian_model_have_its_likelihood_for_their_mean():
    """Gaps of the bound with K draws, measured with the protocol: .43907 at 1 (closed form), .043 at 5, .0047 at 50."""
    m, exact, _ = linear_gaussian(1.5)
    log_w = m.log_weight(smooth(1, size=4).double().expand(20_000, -1, -1, -1), generator()) - exact
    weights = log_w.exp()
    assert weights.std().item() == pytest.approx(math.sqrt((1.5 / math.sqrt(2 - 1 / 1.5**2)) ** 2 - 1), rel=0.05)
    assert weights.mean().item() == pytest.approx(1, abs=3 * weights.std().item() / math.sqrt(20_000))
    means = []
    for k, gap in ((1, 0.43907), (5, 0.043), (50, 0.0047)):
        bounds = log_w.reshape(-1, k).logsumexp(1) - math.log(k)
        means.append(bounds.mean().item())
        assert -means[-1] == pytest.approx(gap, abs=3 * bounds.std().item() / math.sqrt(len(bounds)))
    assert means == sorted(means)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@torch.no_grad()
def test_log_weights_are_those_of_torch_distributions(likelihood):
    m, x = model(likelihood=likelihood), smooth(3)
    m.likelihood.shift.fill_(0.03)
    u, eps = m.draws(x, generator())
    y = (pixels.levels(x) + u) / 256
    mu, logvar = m.encoder(2 * y - 1)
    q, prior = Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)
    z = mu + (logvar / 2).exp() * eps
    p = {"gaussian": Normal, "laplace": Laplace}[likelihood]((m.decoder(z) + 1) / 2, 0.1 * math.exp(0.3))
    log_joint = Independent(p, 3).log_prob(y) - 768 * math.log(256) + prior.log_prob(z).sum(1)
    torch.testing.assert_close(m.log_weight(x, generator()), log_joint - q.log_prob(z).sum(1), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("c", "offset"), [(1.0, 0.0), (1.5, 0.0), (1.5, 0.5), (0.5, -0.3)])
@torch.no_grad()
def test_regret_of_the_linear_gaussian_model_is_the_kl_of_its_posterior(c, offset):
    """KL(N(m + offset, c^2 S) || N(m, S)): the ELBO reaches log P where q is the posterior; .43907 nats at c = 1.5."""
    m, _, variance = linear_gaussian(c, offset)
    x = smooth(1, size=4).double().expand(5, -1, -1, -1)
    expected = c**2 - 1 - 2 * math.log(c) + (offset**2 / (2 * variance)).sum().item()
    regret = m.slow_ood_scores(x, generator())["regret"]
    assert regret.min().item() >= max(0.0, 0.98 * expected)  # thirty steps come so near
    assert regret.max().item() <= expected + 1e-9


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_the_gradient_in_the_image_is_that_of_its_dequantised_values(likelihood):
    # v and u enter as (v + u) / 256 alone, and v is 127.5 (x + 1)
    m = model(likelihood=likelihood).eval()
    x, u = smooth(2).requires_grad_(), torch.rand(2, 3, 16, 16, generator=generator()).requires_grad_()
    elbo = m.parts(x, u, torch.randn(2, 8, generator=generator(3))).elbo.sum()
    of_x, of_u = torch.autograd.grad(elbo, (x, u))
    assert of_u.abs().max() > 0
    torch.testing.assert_close(of_x, 127.5 * of_u)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_fifty_steps_lower_the_loss_and_use_the_code(likelihood):
    x = smooth(16)
    m = model(likelihood=likelihood)
    before, _ = m.loss(unlabelled(x), step())
    (terms,) = train(m, [unlabelled(x)] * 50, lr=3e-3).values()
    assert terms["loss"].item() < 0.97 * before.item()
    assert terms["rate"].item() > 1


def test_a_trained_model_reconstructs_better_than_the_mean_image():
    x = smooth(32)
    m = model(width=16, max_width=32, kl_warmup=0.2)
    train(m, [unlabelled(x)] * 150, lr=3e-3)
    m.eval()
    with torch.no_grad():
        error = (m.reconstruct(x) - x).square().mean()
    assert error < 0.5 * (x - x.mean(0)).square().mean()
