import dataclasses
import itertools
import math

import pytest
import torch

from tests.models.helpers import generator, inputs_of, missing, outputs_of, rounded, step, unlabelled
from visage.maths.units import bits_per_dim
from visage.models import base
from visage.models import score_sde as module
from visage.models.score_sde import (
    T_MIN,
    VE,
    VP,
    ScoreSDE,
    ScoreSDEConfig,
    denoise,
    predictor_corrector,
    probability_flow,
)

SETTINGS = ScoreSDEConfig(
    sde="vp",
    sigma_max=50.0,
    parametrization="epsilon",
    filter_axes=0,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    dropout=0.0,
    patch=2,
    sampler="ode",
    pc_steps=4,
    snr=0.17,
    ode_steps=2,
    likelihood_steps=2,
)
SDES = {"vp": VP(), "ve": VE(50.0)}
BOTH = list(itertools.product(SDES, ("epsilon", "v")))
TIMES = torch.tensor([1e-5, 0.01, 0.3, 0.7, 1.0], dtype=torch.float64)


@pytest.fixture(params=SDES)
def sde(request):
    return SDES[request.param]


def model(size=16, **changes):
    torch.manual_seed(0)
    return ScoreSDE(dataclasses.replace(SETTINGS, **changes), size).eval()


def batch(n=16, std=0.4, size=16):
    x = (std * torch.randn(n, 3, size, size, generator=generator(1))).clamp(-1, 1)
    return unlabelled(rounded(x))


def columns(v):
    return v.reshape(-1, 1, 1, 1)


def gaussian(sde, std, mean=0.0):
    """The score of every p_t where the data are N(mean, std^2 I), std a number or one for every pixel."""

    def score(x, t):
        a, sigma = columns(sde.a(t)), columns(sde.sigma(t))
        return -(x - a * mean) / (a**2 * std**2 + sigma**2)

    return score


def std_at(sde, std, t):
    t = torch.tensor(t, dtype=torch.float64)
    return ((sde.a(t) * std) ** 2 + sde.sigma(t) ** 2).sqrt()


# --- the SDEs


def test_marginals_and_coefficients_of_the_authors():
    # sde_lib.py of github.com/yang-song/score_sde_pytorch at t = 0.3; VE with sigmas from 0.02 to 100
    t = torch.tensor(0.3, dtype=torch.float64)
    vp, ve = VP(), VE(100.0)
    assert [vp.a(t), vp.sigma(t), vp.f(t), vp.g2(t)] == pytest.approx([0.62955000, 0.77695997, -3.035, 6.07], abs=1e-8)
    assert [ve.a(t), ve.sigma(t), ve.f(t), ve.g2(t)] == pytest.approx([1, 0.25746666, 0, 1.12919381], abs=1e-8)


def test_drift_and_diffusion_are_those_of_the_marginals(sde):
    t = TIMES.clone().requires_grad_()
    (dlog_a,) = torch.autograd.grad(sde.a(t).log().sum() + 0 * t.sum(), t)
    (dvariance,) = torch.autograd.grad((sde.sigma(t) ** 2).sum(), t)
    torch.testing.assert_close(sde.f(TIMES), dlog_a)
    torch.testing.assert_close(sde.g2(TIMES), dvariance - 2 * sde.f(TIMES) * sde.sigma(TIMES) ** 2)


def test_time_undoes_log_sigma_over_a(sde):
    torch.testing.assert_close(sde.time((sde.sigma(TIMES) / sde.a(TIMES)).log()), TIMES, rtol=1e-7, atol=0)


def test_float32_keeps_the_digits_of_sigma_near_zero():
    assert VP().sigma(torch.tensor(1e-5)).item() == pytest.approx(0.0010004971, rel=1e-6)  # sqrt(1 - a^2): 0.00100662


# --- training


@pytest.mark.parametrize(("kind", "parametrization"), BOTH)
def test_with_the_exact_score_the_loss_is_its_known_minimum(kind, parametrization):
    m, std = model(sde=kind, parametrization=parametrization), 0.3
    t = m.times((torch.arange(256) + 0.5) / 256)
    m.times = lambda u: t
    m.score = gaussian(m.sde, std)
    loss, terms = m.loss(batch(256, std), step())
    a2, s2 = (part.double() ** 2 for part in (m.sde.a(t), m.sde.sigma(t)))
    of_epsilon = a2 * std**2 / (a2 * std**2 + s2)  # what is unknown of the noise in x_t
    assert terms["epsilon_mse"].item() == pytest.approx(of_epsilon.mean().item(), rel=0.03)
    of_v = of_epsilon * (a2 + s2) / a2
    assert loss.item() == pytest.approx((of_epsilon if parametrization == "epsilon" else of_v).mean().item(), rel=0.03)


def test_the_loss_does_not_blow_up_where_the_noise_ends():
    m = model()
    m.times = lambda u: torch.full_like(u, T_MIN)
    loss, _ = m.loss(batch(), step())
    assert loss.item() == pytest.approx(1, rel=0.03)  # a fresh network says 0, the noise has variance 1


@pytest.mark.parametrize(("kind", "parametrization"), BOTH)
def test_the_network_sees_inputs_of_one_scale_and_gives_an_exact_score(kind, parametrization):
    m, seen = model(sde=kind, parametrization=parametrization).double(), []
    x0, epsilon = (torch.randn(5, 3, 8, 8, generator=generator(i), dtype=torch.float64) for i in (0, 1))
    a, sigma = columns(m.sde.a(TIMES)), columns(m.sde.sigma(TIMES))
    scale = (a**2 + sigma**2).sqrt()
    answer = epsilon if parametrization == "epsilon" else (a * epsilon - sigma * x0) / scale

    def net(x, t):
        seen.append((x, t))
        return answer

    m.net.forward = net
    torch.testing.assert_close(m.score(a * x0 + sigma * epsilon, TIMES), -epsilon / sigma)
    ((x, t),) = seen
    assert x.std(dim=(1, 2, 3)).tolist() == pytest.approx([1] * 5, abs=0.15)
    torch.testing.assert_close(t, 999 * TIMES)


@pytest.mark.parametrize("kind", SDES)
def test_times_cover_the_whole_way(kind):
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    uniform = model(sde=kind).times(u)
    torch.testing.assert_close(uniform, torch.tensor([1e-5, 0.2500075, 0.500005, 0.7500025, 1.0]))
    m = model(sde=kind, parametrization="v")
    angles = torch.atan(m.sde.sigma(m.times(u)) / m.sde.a(m.times(u)))
    torch.testing.assert_close(m.times(u)[[0, -1]], uniform[[0, -1]], rtol=5e-3, atol=0)
    torch.testing.assert_close(angles, angles[0] + (angles[-1] - angles[0]) * u, rtol=1e-4, atol=0)


def test_training_images_are_dequantised_with_noise_of_their_own():
    m, seen = model(), []
    m.times = lambda u: torch.full_like(u, T_MIN)
    m.score = lambda x, t: seen.append(x) or torch.zeros_like(x)
    x = torch.full((64, 3, 16, 16), 1.0)
    m.loss(unlabelled(x), step())
    y = seen[0]  # 2 (255 + u) / 256 - 1, and sigma = 0.001
    assert y.mean().item() == pytest.approx(2 * 255.5 / 256 - 1, abs=1e-4)
    assert y.std().item() == pytest.approx(math.hypot(2 / 256 / math.sqrt(12), 0.001), rel=0.02)


def test_losses_are_float32_under_bf16():
    m = model(parametrization="v")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert m.loss(batch(), step())[0].dtype == torch.float32


# --- samplers, with exact scores


@pytest.mark.parametrize("snr", [0.0, 0.1])
def test_the_backward_sde_draws_from_the_data(sde, snr):
    mean, std = 0.2, 0.5
    generators = [generator(i) for i in range(16)]
    x = sde.prior_std * torch.stack([torch.randn(3, 16, 16, generator=g) for g in generators])
    y = predictor_corrector(sde, gaussian(sde, std, mean), x, generators, 400, snr)
    assert y.mean().item() == pytest.approx(mean, abs=0.02)
    assert y.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "kept", "noise"),
    [("vp", 0.693107022, 0.140682528), ("ve", 0.688165287, 13.002647743)],
)
def test_the_first_step_backward(kind, kept, noise):
    # from x = 0.7, N(0, 0.3^2 I), 1000 steps; the authors' ReverseDiffusionPredictor, whose betas are Euler's, gets
    # 0.693035 and 0.141421 for VP; for VE with sigmas from 0.02 to 100 0.6881651 and 13.00276 (its steps are 1 / 999)
    sde = VP() if kind == "vp" else VE(100.0)
    steps = 1000 if kind == "vp" else 999
    x, seen = torch.full((1, 3, 32, 32), 0.7, dtype=torch.float64), []

    def score(x, t):
        seen.append(x)
        return gaussian(sde, 0.3)(x, t)

    end = sde.sampling_end
    try:
        type(sde).sampling_end = 0.0
        predictor_corrector(sde, score, x, [generator()], steps, 0.0)
    finally:
        type(sde).sampling_end = end
    assert seen[1].mean().item() == pytest.approx(kept, abs=5 * noise / math.sqrt(3072))
    assert seen[1].std().item() == pytest.approx(noise, rel=0.05)
    z = torch.randn(3, 32, 32, generator=generator())
    torch.testing.assert_close(seen[1][0], kept + noise * z.double(), rtol=0, atol=1e-5)


def test_the_corrector_steps_by_its_own_norms_alone():
    sde, seen = VP(), []

    def score(x, t):
        seen.append((x, t))
        return gaussian(sde, 0.3)(x, t)

    x = torch.randn(2, 3, 8, 8, generator=generator(9)) * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1)
    predictor_corrector(sde, score, x, [generator(0), generator(1)], 2, 0.2)
    (_, t), (predicted, after), (corrected, then) = seen[:3]
    assert (t[0] > after[0]).item()
    assert torch.equal(after, then)
    keep2 = (sde.a(t) / sde.a(after))[0] ** 2  # the authors' alpha = 1 - beta
    for i, (before, now) in enumerate(zip(predicted, corrected, strict=True)):
        g = generator(i)
        z = [torch.randn(3, 8, 8, generator=g) for _ in range(2)][1]
        s = gaussian(sde, 0.3)(before[None], after[:1])[0]
        size = 2 * keep2 * (0.2 * z.norm() / s.norm()) ** 2
        torch.testing.assert_close(now, before + size * s + (2 * size).sqrt() * z)


def test_a_score_of_zero_does_no_harm(sde):
    x = sde.prior_std * torch.randn(1, 3, 8, 8, generator=generator())
    y = predictor_corrector(sde, lambda x, t: torch.zeros_like(x), x, [generator()], 50, 0.17)
    assert y.isfinite().all()


def test_denoising_gives_the_posterior_mean(sde):
    t = torch.tensor(0.4, dtype=torch.float64)
    x, std = torch.randn(2, 3, 4, 4, generator=generator()), 0.5
    gain = sde.a(t) * std**2 / (sde.a(t) ** 2 * std**2 + sde.sigma(t) ** 2)
    torch.testing.assert_close(denoise(sde, gaussian(sde, std), x, t), (gain * x).float())


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_noise_is_removed_by_the_posterior_mean_of_dequantised_images(sde, sigma):
    m = model(sde="vp" if isinstance(sde, VP) else "ve")
    m.score = gaussian(sde, 0.2)
    x = torch.randn(2, 3, 16, 16, generator=generator()) / 4
    y, noise = ((x + 1) * 127.5 + 0.5) / 128 - 1, sigma * 255 / 256
    clean = 0.04 / (0.04 + noise**2) * y
    torch.testing.assert_close(m.denoise(x, sigma), ((clean + 1) * 128 - 0.5) / 127.5 - 1, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("ends", "std"), list(itertools.product([(1.0, T_MIN), (T_MIN, 1.0)], [0.5, 0.1])))
def test_the_ode_carries_a_gaussian_to_a_gaussian(sde, ends, std):
    x = torch.randn(2, 3, 4, 4, generator=generator(), dtype=torch.float64) * std_at(sde, std, ends[0])
    y, gained = probability_flow(sde, gaussian(sde, std), x, ends, 60)
    ratio = std_at(sde, std, ends[1]) / std_at(sde, std, ends[0])
    torch.testing.assert_close(y, ratio * x, rtol=1e-4, atol=0)
    assert not gained.any()


def test_the_ode_there_and_back_is_no_way_at_all(sde):
    x = 0.5 * torch.randn(2, 3, 4, 4, generator=generator())
    score = gaussian(sde, 0.5)
    noise, _ = probability_flow(sde, score, x, (T_MIN, 1.0), 60)
    back, _ = probability_flow(sde, score, noise, (1.0, T_MIN), 60)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


# --- likelihood


def correlated(sde):
    """The score for data N(0, U diag(stds^2) U') in 12 dimensions, and log of what the ODE stretches each by."""
    g = generator(3)
    u = torch.linalg.qr(torch.randn(12, 12, generator=g, dtype=torch.float64)).Q
    stds = torch.linspace(0.1, 1.5, 12, dtype=torch.float64)

    def score(x, t):
        a, sigma = (part.reshape(-1, 1) for part in (sde.a(t), sde.sigma(t)))
        return -((x.flatten(1) @ u / (a**2 * stds**2 + sigma**2)) @ u.T).reshape(x.shape)

    return score, u, (std_at(sde, stds, 1.0) / std_at(sde, stds, T_MIN)).log()


@torch.no_grad()
def test_one_probe_for_the_whole_way_and_its_mean_is_the_trace(sde):
    score, u, stretch = correlated(sde)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=12)), dtype=torch.float64)  # all of them
    x = torch.zeros(len(signs), 3, 2, 2, dtype=torch.float64)
    _, gained = probability_flow(sde, score, x, (T_MIN, 1.0), 40, signs.reshape(x.shape))
    torch.testing.assert_close(gained, ((signs @ u) ** 2 * stretch).sum(1), rtol=1e-3, atol=1e-3)
    assert gained.mean().item() == pytest.approx(stretch.sum().item(), rel=1e-3)
    assert gained.std().item() > 0.1


@pytest.mark.parametrize(("kind", "std"), [("vp", 0.5), ("vp", 0.03), ("ve", 0.5)])
def test_the_likelihood_of_a_gaussian(kind, std):
    # a diagonal Jacobian: one probe is exact. The closed form goes by way of y01 and its offset of D log 256
    m = model(sde=kind, likelihood_steps=80)
    stds = std * torch.linspace(0.8, 1.2, 3 * 16 * 16).reshape(3, 16, 16)
    m.score = gaussian(m.sde, stds, mean=0.01)
    x = batch(4, stds).x
    with torch.no_grad():
        found = m.estimate_log_prob(x, generator(5))
    g = generator(5)
    exact = []
    for image in x:
        y01 = ((image + 1) * 127.5 + torch.rand(3, 16, 16, generator=g)) / 256
        torch.randint(2, (3, 16, 16), generator=g)
        law = torch.distributions.Normal(0.505, stds.double() / 2)
        exact.append(law.log_prob(y01.double()).sum() - 768 * math.log(256))
    bits = [bits_per_dim(nats, 768) for nats in (found.double(), torch.stack(exact))]
    torch.testing.assert_close(*bits, rtol=0, atol=1e-3)


def test_all_values_equally_likely_are_eight_bits():
    m = model(likelihood_steps=60)
    normal = torch.distributions.Normal(0.0, 1.0)

    def score(x, t):  # of y11 uniform in [-1, 1]; 0 in the middle, where float32 has no more to say
        a, sigma = columns(m.sde.a(t)), columns(m.sde.sigma(t))
        right, left = (x + a) / sigma, (x - a) / sigma
        mass = (normal.cdf(right) - normal.cdf(left)).clamp(min=1e-30)
        return (normal.log_prob(right).exp() - normal.log_prob(left).exp()) / mass / sigma

    m.score = lambda x, t: score(x.double(), t.double()).to(x)
    x = torch.randint(1, 255, (2, 3, 16, 16), generator=generator()) / 127.5 - 1
    bits = bits_per_dim(m.estimate_log_prob(x, generator()), 768)
    assert bits.tolist() == pytest.approx([8, 8], abs=0.01)


def test_the_likelihood_needs_no_gradients_and_leaves_none():
    m = model(parametrization="v")
    torch.nn.init.normal_(m.net.head[-1].weight, std=0.1, generator=generator())
    x = batch(2).x
    loose = m.estimate_log_prob(x, generator())
    for parameter in m.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        frozen = m.estimate_log_prob(x, generator())
    assert torch.equal(loose, frozen)
    assert not loose.requires_grad
    assert not torch.equal(m.estimate_log_prob(x, generator(1)), frozen)


def test_the_likelihood_counts_its_network_calls():
    m, calls = model(), []
    m.score = lambda x, t: calls.append(1) or -x
    m.estimate_log_prob(batch(2).x, generator())
    assert len(calls) == m.likelihood_calls == 8


# --- what the model can do


@pytest.mark.parametrize("kind", SDES)
def test_codes_are_noise_and_lead_back_to_the_image(kind):
    m = model(sde=kind, ode_steps=40)
    m.score = gaussian(m.sde, 0.4)
    x = batch(4).x
    z = m.encode(x)
    assert z.shape == (4, 768)
    assert z.std().item() == pytest.approx(1, rel=0.05)
    assert (m.decode(z) - x).abs().max().item() < (
        1 / 255 if kind == "vp" else 2 / 255
    )  # VE's smallest sigma is 2.5 / 255
    assert m.prior(64, generator()).std().item() == pytest.approx(1, rel=0.02)


def test_samples_become_images_at_the_middle_of_their_bins():
    v = torch.arange(256.0)
    torch.testing.assert_close(module.images(2 * (v + 0.5) / 256 - 1), v / 127.5 - 1)
    assert module.images(torch.tensor([-3.0, 3.0])).tolist() == [-1, 1]


def test_both_samplers_start_from_the_same_noise():
    m = model(sde="ve")
    starts = {}
    for name, sampler in m.variants().items():
        m.score = lambda x, t, name=name: starts.setdefault(name, x).neg() / 2500
        sampler(3, generator())
    assert torch.equal(starts["PC"], starts["ODE"])
    assert starts["PC"].std().item() == pytest.approx(50, rel=0.05)


@pytest.mark.parametrize("sampler", ["pc", "ode"])
def test_sample_is_the_variant_that_was_chosen(sampler):
    m = model(sampler=sampler)
    with torch.no_grad():
        assert torch.equal(m.sample(2, generator()), m.variants()[sampler.upper()](2, generator()))


def test_the_ood_score_is_the_error_of_the_denoiser_at_every_level_with_one_noise():
    m, seen = model(), []
    x = batch(3, std=0.2).x
    exact = gaussian(m.sde, 0.2)
    m.score = lambda x, t: seen.append((x, t)) or exact(x, t)
    scores = m.ood_scores(torch.cat([x, 4 * x]).clamp(-1, 1), generator())
    assert list(scores) == ["denoising"]
    assert scores["denoising"][3:].min() > scores["denoising"][:3].max()
    levels = [(m.sde.sigma(t) / m.sde.a(t))[0].item() for _, t in seen]
    assert levels == pytest.approx([0.2, 0.5, 1, 2, 5], rel=1e-4)
    y = 2 * ((x + 1) * 127.5 + 0.5) / 256 - 1
    noises = [((xt[:3] - columns(m.sde.a(t))[:3] * y) / columns(m.sde.sigma(t))[:3]) for xt, t in seen]
    for other in noises:
        torch.testing.assert_close(other, noises[0], rtol=0, atol=1e-4)
    of_epsilon = torch.tensor([0.04 / (0.04 + level**2) for level in levels])
    torch.testing.assert_close(scores["denoising"][:3], of_epsilon.log().mean().expand(3), rtol=0, atol=0.1)


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert missing(m) == {base.Reconstructs, base.HasLogProb, base.HasBound} == set(m.why_not())
    assert base.can(m, base.EstimatesLogProb)
    assert base.can(m, base.HasVariants)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="30"):
        model(30)


@pytest.mark.parametrize(("sampler", "snr"), [("pc", 0.17), ("pc", 0.0), ("ode", 0.17)])
def test_a_sample_takes_as_many_calls_as_it_says(sampler, snr):
    m = model(sampler=sampler, snr=snr)
    calls = inputs_of(m.net)
    with torch.no_grad():
        m.sample(2, generator())
    assert len(calls) == m.sample_calls


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_features_are_the_middle_of_the_network_for_images_with_little_noise(name):
    m, x = model(sde=name), batch(3).x
    times, given, middle = inputs_of(m.net.time), inputs_of(m.net.stem), outputs_of(m.net.middle[-1])
    with torch.no_grad():
        features = m.features(x)
        t = m.sde.time(torch.tensor(0.3, dtype=torch.float64).log())
        m.score(torch.zeros_like(x), t.float().expand(3))
    torch.testing.assert_close(features, middle[0].mean((2, 3)))
    torch.testing.assert_close(times[0][0], times[1][0])
    y = 2 * ((x + 1) * 127.5 + 0.5) / 256 - 1
    epsilon = (math.sqrt(1.09) * torch.nn.functional.pixel_shuffle(given[0][0], 2) - y) / 0.3
    assert epsilon.std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(epsilon[0], epsilon[2], rtol=0, atol=1e-5)


# --- the residual of a filter


def filtered(kind, x, **changes):
    """A model of the residual whose network adds nothing, its filter fitted to images x."""
    m = model(sde=kind, parametrization="residual", filter_axes=768, **changes)
    m.initialize(unlabelled(x))
    m.net.forward = lambda seen, t: torch.zeros_like(seen[:, :3])
    return m


def images_of_a_gaussian(n=3000, seed=4):
    wide = torch.linspace(0.1, 0.3, 16).reshape(16, 1)
    return rounded(0.1 + wide * torch.randn(n, 3, 16, 16, generator=generator(seed))).clamp(-1, 1)


@pytest.mark.parametrize("kind", SDES)
def test_the_ode_of_a_filter_alone_has_the_likelihood_of_its_gaussian(kind):
    m = filtered(kind, images_of_a_gaussian(), likelihood_steps=60)
    stds = torch.linspace(0.1, 0.3, 16).reshape(16, 1).expand(3, 16, 16)
    m.filter.mean.fill_(0.1)
    for half in (m.filter.axes.even, m.filter.axes.odd):
        half.copy_(torch.eye(384))  # two pixels that mirror each other vary alike: one probe is exact
    m.filter.variances.copy_((stds[:, :, :8] ** 2).flatten().repeat(2))
    x = images_of_a_gaussian(3, seed=9)
    found = m.estimate_log_prob(x, generator(5))
    g = generator(5)
    exact = []
    for image in x:
        y = 2 * ((image + 1) * 127.5 + torch.rand(3, 16, 16, generator=g)) / 256 - 1
        torch.randint(2, (3, 16, 16), generator=g)
        exact.append(torch.distributions.Normal(0.1, stds).log_prob(y).double().sum() - 768 * math.log(128))
    bits = [bits_per_dim(nats, 768) for nats in (found.double(), torch.stack(exact))]
    torch.testing.assert_close(*bits, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", SDES)
def test_the_loss_of_a_residual_is_1_while_the_network_adds_nothing(kind):
    x = images_of_a_gaussian()
    m = filtered(kind, x)
    loss, terms = m.loss(unlabelled(x[:300]), step())
    assert loss.item() == pytest.approx(1, rel=0.05)
    assert terms["error_over_filter"].item() == pytest.approx(1)


@pytest.mark.parametrize("kind", SDES)
def test_the_score_is_that_of_the_guess_at_the_image(kind):
    m, x0 = model(sde=kind, parametrization="residual", filter_axes=30), batch(5).x
    m.initialize(unlabelled(images_of_a_gaussian(100)))
    m.net.forward = lambda seen, t: torch.full_like(seen[:, :3], 0.2)
    t = TIMES.float()
    a, sigma = columns(m.sde.a(t)), columns(m.sde.sigma(t))
    x = a * x0 + sigma * torch.randn(x0.shape, generator=generator())
    guess = m.filter(x, a, sigma)
    image = (x + sigma**2 * m.score(x, t)) / a
    torch.testing.assert_close(image[:3], (guess.m + 0.2 * guess.s)[:3], rtol=0, atol=1e-3)


def test_the_filter_is_of_dequantised_images():
    x = torch.full((2000, 3, 16, 16), 127 / 127.5 - 1)
    m = filtered("vp", x)
    assert m.filter.mean.mean().item() == pytest.approx(2 * 127.5 / 256 - 1, abs=1e-3)
    assert m.filter.variances.mean().item() == pytest.approx((2 / 256) ** 2 / 12, rel=0.05)
