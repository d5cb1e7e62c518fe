import dataclasses
import math

import pytest
import torch
from torch import nn

from tests.models.helpers import (
    FOUR,
    ExactDenoiser,
    assert_mean,
    batch,
    bound_by_hand,
    ddim_factor,
    gaussian,
    generator,
    inputs_of,
    outputs_of,
    rounded,
    step,
    unlabelled,
)
from visage.maths import diffusion, noise, samplers
from visage.models import base
from visage.models.ddpm import DDPM, DDPMConfig

SMALL = DDPMConfig(
    timesteps=1000,
    schedule="linear",
    prediction="epsilon",
    filter_axes=0,
    variance="small",
    sampler="ddim",
    sampling_steps=10,
    bound_terms=5,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    dropout=0.0,
    patch=2,
)


def model(size=16, alpha_bars=None, **changes):
    """A model; with `alpha_bars` of its own instead of a schedule's."""
    torch.manual_seed(0)
    if alpha_bars is not None:
        changes = {"timesteps": len(alpha_bars) - 1, "sampling_steps": 1, "bound_terms": 2} | changes
    m = DDPM(dataclasses.replace(SMALL, **changes), size).eval()
    if alpha_bars is not None:
        m.alpha_bars, m.tables = alpha_bars, diffusion.tables(alpha_bars)
    return m


def exact(s, shift=0, **changes):
    m = model(**changes).double()
    m.denoiser = ExactDenoiser(m.alpha_bars, m.config.prediction, s, shift)
    return m


class Says(nn.Module):
    """A network that always predicts the same."""

    def __init__(self, value):
        super().__init__()
        self.value, self.asked = value, []

    def forward(self, x, time):
        self.asked.append((x, time))
        return torch.full_like(x, self.value)


def test_the_papers_network_has_the_published_size():
    m = DDPM(dataclasses.replace(SMALL, width=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), patch=1), 32)
    assert sum(p.numel() for p in m.denoiser.parameters()) / 1e6 == pytest.approx(35.7, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_steps": 1001}, "sampling_steps=1001"),
        ({"bound_terms": 2000}, "bound_terms=2000"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


# --- Objective


def test_noisy_images_have_the_mean_and_the_variance_of_their_own_time():
    m = model(alpha_bars=FOUR)
    m.denoiser = net = Says(0.0)
    x = torch.where(torch.arange(4000) % 2 == 0, -0.5, 1.0)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    before = x.clone()
    m.loss(unlabelled(x), step())
    assert torch.equal(x, before)
    ((x_t, time),) = net.asked
    assert sorted(set(time.tolist())) == [250, 500, 750, 1000]
    for t in (1, 2, 3, 4):
        mine = time == 250 * t
        assert mine.sum().item() == pytest.approx(1000, abs=3 * math.sqrt(750))
        noise = x_t[mine] - FOUR[t].sqrt() * x[mine]
        n = noise.numel()
        assert noise.mean().abs() < 3 * math.sqrt((1 - FOUR[t]) / n)
        assert noise.var().item() == pytest.approx(1 - FOUR[t].item(), abs=3 * math.sqrt(2 / n) * (1 - FOUR[t].item()))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_loss_is_the_mean_squared_error_of_what_is_predicted(prediction):
    m, b = model(alpha_bars=FOUR, prediction=prediction), batch(8)
    m.denoiser = Says(0.25)
    loss, _ = m.loss(b, step(7))
    g = generator(7)
    t, eps = torch.randint(1, 5, (8,), generator=g), torch.randn(b.x.shape, generator=g)
    total = 0.0
    for i in range(8):
        alpha, sigma = FOUR[t[i]].sqrt().item(), (1 - FOUR[t[i]]).sqrt().item()
        target = eps[i] if prediction == "epsilon" else alpha * eps[i] - sigma * b.x[i]
        total += (target - 0.25).square().mean().item()
    assert loss.item() == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_exact_network_reaches_the_least_loss(prediction):
    # of eps given x_t, 1 - E (eps^)^2 remains; of v the same over abar, v being (sqrt(abar) x_t - x_0) / sqrt(1 - abar)
    # and eps (x_t - sqrt(abar) x_0) / sqrt(1 - abar)
    m, x = exact(0.5, alpha_bars=FOUR, prediction=prediction), gaussian(400, 0.5)
    expected = 0.0
    for t in range(1, 5):
        left = 1 - (1 - FOUR[t]) / (FOUR[t] * 0.25 + 1 - FOUR[t])
        expected += (left if prediction == "epsilon" else left / FOUR[t]) / 4
    losses = torch.stack([m.loss(unlabelled(x), step(i))[0] for i in range(5)])
    assert losses.mean().item() == pytest.approx(expected.item(), rel=0.02)  # t differs from draw to draw


@pytest.mark.parametrize("steps", [1000, 100])
def test_the_network_is_told_times_up_to_1000_and_can_tell_them_apart(steps):
    m = model(timesteps=steps)
    told = inputs_of(m.denoiser.time)
    with torch.no_grad():
        m.output(torch.zeros(3, 3, 16, 16), torch.tensor([1, 2, steps]))
    ((embedded,),) = told
    first, second, last = embedded
    angles = torch.tensor([1000 / steps, 2000 / steps, 1000.0])
    torch.testing.assert_close(embedded[:, 0], angles.sin(), rtol=0, atol=1e-4)
    assert (first - second).abs().max() > 0.1
    assert (first - last).abs().max() > 0.1


def test_dropout_rests_in_evaluation_and_all_noise_comes_from_the_generator():
    m = model(dropout=0.5)
    for p in m.denoiser.parameters():
        if p.ndim > 1 and not p.any():  # layers that start at zero
            nn.init.normal_(p, std=0.05)
    losses = [m.loss(batch(), step(seed))[0].item() for seed in (7, 7, 8)]
    assert losses[0] == losses[1] != losses[2]
    assert m.train().loss(batch(), step(7))[0].item() != losses[0]


# --- Guess at the image


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_both_predictions_give_the_same_image_and_noise(prediction):
    m = exact(0.2, prediction=prediction, schedule="cosine")
    t = torch.tensor([1, 300, 900])
    abar = m.alpha_bars[t][:, None, None, None]
    x_t = (abar * 0.04 + 1 - abar).sqrt() * gaussian(3, 1.0)
    x0, eps = m.predict(x_t, t)
    torch.testing.assert_close(x0, abar.sqrt() * 0.04 / (abar * 0.04 + 1 - abar) * x_t)
    torch.testing.assert_close(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, x_t)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_images_stay_in_range_and_the_noise_follows(prediction):
    m = model(prediction=prediction).double()
    m.denoiser = Says(3.0)
    x_t, t = gaussian(2, 1.0), torch.tensor([200, 600])
    x0, eps = m.predict(x_t, t)
    abar = m.alpha_bars[t][:, None, None, None]
    assert x0.abs().max() == 1
    torch.testing.assert_close(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, x_t)
    for images in (m.sample(2, generator()), m.decode(m.prior(2, generator()).double())):
        assert images.abs().max() <= 1


# --- Samplers


def test_variances_of_four_steps():
    small, large = (diffusion.variances(FOUR, kind)[1:].tolist() for kind in ("small", "large"))
    assert small == pytest.approx([0.0714286, 0.0714286, 0.1693548, 0.2844037], abs=1e-7)
    assert large == pytest.approx([0.0714286, 0.2, 0.3, 0.4], abs=1e-7)


@pytest.mark.parametrize(
    ("variance", "expected"), [("small", [0.2844037, 0.1693548, 0.0714286]), ("large", [0.4, 0.3, 0.2])]
)
def test_ancestral_steps_have_the_mean_and_the_noise_of_p(variance, expected):
    m = exact(0.2, alpha_bars=FOUR, variance=variance, sampler="ancestral")
    last = m.sample(60, generator())
    states = [x for x, _ in m.denoiser.asked]
    assert [time[0].item() for _, time in m.denoiser.asked] == [1000, 750, 500, 250]
    # mu = (x_t - beta_t / sqrt(1 - abar_t) eps^) / sqrt(alpha_t), the paper's eq. 11
    for i, (t, x_t, following) in enumerate(zip((4, 3, 2, 1), states, [*states[1:], last], strict=True)):
        beta, abar = 0.1 * t, FOUR[t]
        eps = (1 - abar).sqrt() / (abar * 0.04 + 1 - abar) * x_t
        noise = following - (x_t - beta / (1 - abar).sqrt() * eps) / math.sqrt(1 - beta)
        if t > 1:
            assert noise.var().item() == pytest.approx(expected[i], rel=0.03)  # three standard errors: 0.02
            assert abs(noise.mean().item()) < 0.02
            assert abs((noise * x_t).mean().item()) < 0.02
        else:
            torch.testing.assert_close(noise, torch.zeros_like(noise), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("schedule", "prediction"), [("linear", "epsilon"), ("cosine", "v")])
def test_ddim_narrows_a_gaussian_by_the_known_factor(schedule, prediction):
    for calls in (20, 1000):
        m = exact(0.5, schedule=schedule, prediction=prediction, sampling_steps=calls)
        z = 2 * torch.rand(2, 768, dtype=torch.float64, generator=generator()) - 1
        ratio = m.decode(z).flatten(1) / z
        expected = ddim_factor(m.alpha_bars, [1000 * i // calls for i in range(calls, -1, -1)], 0.5)
        torch.testing.assert_close(ratio, torch.full_like(ratio, expected), rtol=0, atol=1e-6)
        assert len(m.denoiser.asked) == calls
    assert schedule == "cosine" or expected == pytest.approx(0.4985, abs=1e-4)  # published with the protocol


def test_ddim_with_all_steps_and_the_noise_of_ddpm_is_ddpm():
    m = exact(0.2, timesteps=50, variance="small")
    ancestral = m.ancestral([generator(seed) for seed in (2, 3, 4)])
    rows = [generator(seed) for seed in (2, 3, 4)]
    torch.testing.assert_close(m.ddim(m.noise(rows), 50, 1.0, rows), ancestral, rtol=0, atol=1e-6)


def test_samples_follow_the_settings():
    m = exact(0.2, timesteps=50)
    torch.testing.assert_close(m.sample(2, generator()), list(m.variants().values())[1](2, generator()))
    ddim = [f"DDIM, {n} steps" for n in (5, 10, 20)]
    assert list(m.variants()) == [*ddim, "eta = 1, 10 steps", "DPM-Solver++, 10 steps"]
    calls = []
    for sampler in m.variants().values():
        m.denoiser.asked.clear()
        sampler(2, generator())
        calls.append(len(m.denoiser.asked))
    assert calls == [5, 10, 20, 10, 10]
    noisy = [m.variants()["eta = 1, 10 steps"](n, generator()) for n in (1, 3)]
    torch.testing.assert_close(noisy[0], noisy[1][:1])


def test_dpm_solver_draws_by_the_solver_of_that_name():
    m = exact(0.2, sampler="dpm_solver")
    times = diffusion.log_snr_times(m.alpha_bars, 10)[::-1]
    expected = samplers.dpm_solver(m.noise(noise.each(2, generator())), times, m.predict, m.alpha_bars)
    torch.testing.assert_close(m.sample(2, generator()), expected)
    torch.testing.assert_close(m.variants()["DPM-Solver++, 10 steps"](2, generator()), expected)


def test_codes_of_images_are_noise_and_lead_back_to_them():
    x, errors = gaussian(4, 0.2), []
    for steps in (20, 200):
        m = exact(0.2, sampling_steps=steps, schedule="cosine", prediction="v")
        code = m.encode(x)
        errors.append((m.decode(code) - x).square().mean().item())
    assert code.std().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(code / code.std(), x.flatten(1) / x.std())  # the flow of a Gaussian is a scaling
    assert errors[1] < 1e-4  # of 0.04
    assert errors[1] < errors[0] / 10


# --- Bound


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_bound_of_a_gaussian_is_known_in_closed_form(variance, prediction):
    m = exact(0.25, alpha_bars=FOUR, variance=variance, prediction=prediction, bound_terms=4)
    bound = m.bound(rounded(gaussian(200, 0.25)), generator())
    distortion, rate = bound_by_hand(0.25, m.step_back().variances.tolist())
    assert_mean(bound.distortion / 768, distortion)
    assert_mean(bound.rate / 768, rate)
    assert len(m.denoiser.asked) == m.likelihood_calls == 4


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_bound_notices_a_time_that_is_one_off(shift):
    x = rounded(gaussian(100, 0.25))
    right, wrong = (exact(0.25, off, alpha_bars=FOUR, bound_terms=4).bound(x, generator()) for off in (0, shift))
    assert ((right.elbo - wrong.elbo) / 768).mean() > 0.01


def test_a_few_terms_estimate_the_whole_bound_without_bias():
    x = rounded(gaussian(300, 0.25))
    whole = exact(0.25, timesteps=40, bound_terms=40).bound(x, generator(5))
    for terms in (2, 7):
        m = exact(0.25, timesteps=40, bound_terms=terms)
        estimate = m.bound(x, generator(6))
        assert_mean((estimate.rate - whole.rate) / 768, 0)
        assert len(m.denoiser.asked) == terms


def test_the_bounds_noise_belongs_to_the_image():
    m = exact(0.25, timesteps=40)
    x = gaussian(3, 0.25)
    torch.testing.assert_close(m.bound(x, generator()).elbo[:1], m.bound(x[:1], generator()).elbo)
    x_t, time = m.denoiser.asked[3]  # of the widest stratum
    assert len(set(time.tolist())) > 1
    assert not torch.equal(x_t[0] - x[0], x_t[1] - x[1])


# --- Other images


def test_images_unlike_the_training_images_are_harder_to_denoise():
    # a network for narrow images finds the noise less well in wide ones
    m = exact(0.1)
    faces, others = gaussian(20, 0.1), gaussian(20, 0.5)
    (name, score), *rest = m.ood_scores(torch.cat([faces, others]), generator()).items()
    assert (name, rest) == ("denoising", [])
    assert score[:20].max() < score[20:].min()


def test_every_image_meets_the_same_noise_at_every_time():
    m, x = exact(0.1), gaussian(3, 0.1)
    first = m.ood_scores(x, generator(1))["denoising"]
    assert [time.tolist() for _, time in m.denoiser.asked] == [[t] * 3 for t in (50, 100, 200, 400, 600)]
    for x_t, time in m.denoiser.asked:
        abar = m.alpha_bars[int(time[0])]
        noise = (x_t - abar.sqrt() * x) / (1 - abar).sqrt()
        torch.testing.assert_close(noise[0], noise[2])
    torch.testing.assert_close(m.ood_scores(x[1:], generator(2))["denoising"], first[1:])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 5.0])
def test_noise_is_removed_by_the_posterior_mean(prediction, sigma):
    """s^2 / (s^2 + sigma^2) x, up to the distance from one time's noise to the next one's."""
    m, x = exact(0.2, prediction=prediction), gaussian(3, 0.2)
    torch.testing.assert_close(m.denoise(x, sigma), 0.04 / (0.04 + sigma**2) * x, rtol=0.04, atol=0)
    assert len(m.denoiser.asked) == 1


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert set(m.why_not()) == {base.Reconstructs, base.HasLogProb}
    for capability in (base.Samples, base.HasVariants, base.Encodes, base.Decodes, base.HasBound, base.ScoresOod):
        assert base.can(m, capability)


def test_the_loss_is_float32_under_bf16():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model().loss(batch(4), step())[0].dtype == torch.float32


# --- Scores that take many calls, features, costs


def test_images_unlike_the_training_images_are_redrawn_less_well():
    m = exact(0.1, timesteps=100)
    score = m.slow_ood_scores(torch.cat([gaussian(3, 0.1), gaussian(3, 0.2, seed=3)]), generator())["redrawing"]
    assert score[3:].min() > score[:3].max()
    assert len(m.denoiser.asked) == m.slow_ood_calls == 15


def test_features_are_the_middle_of_the_network_at_a_tenth_of_the_way():
    m, x = model(), batch(3).x
    seen = outputs_of(m.denoiser.middle[-1])
    t = torch.full((3,), 100)
    with torch.no_grad():
        features = m.features(x)
        m.output(m.alpha_bars[100].sqrt().float() * x + (1 - m.alpha_bars[100]).sqrt().float() * m.probes[1], t)
    assert features.shape == (3, 16)
    torch.testing.assert_close(features, seen[1].mean((2, 3)))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver"])
def test_a_sample_takes_as_many_calls_as_it_says(sampler):
    m = exact(0.2, timesteps=40, sampler=sampler)
    m.sample(2, generator())
    assert len(m.denoiser.asked) == m.sample_calls == (40 if sampler == "ancestral" else 10)


def test_the_gradient_of_the_bound_in_the_image_is_that_of_finite_differences():
    m = exact(0.25, timesteps=40, bound_terms=7)
    x = rounded(gaussian(2, 0.25)).requires_grad_()
    direction = gaussian(2, 1.0, seed=9)
    (gradient,) = torch.autograd.grad(m.bound(x, generator()).elbo.sum(), x)
    with torch.no_grad():
        up, down = (m.bound(x + h * direction, generator()).elbo.sum() for h in (1e-5, -1e-5))
    assert (gradient * direction).sum().item() == pytest.approx(((up - down) / 2e-5).item(), rel=1e-6)


# --- The residual of a filter


def filtered(images, **changes):
    """A model of the residual whose network adds nothing, and its filter fitted to images."""
    m = model(prediction="residual", filter_axes=768, **changes)
    m.initialize(unlabelled(images))
    m.denoiser = Says(0.0)
    m.denoiser.forward = lambda seen, time: m.denoiser.asked.append((seen, time)) or torch.zeros_like(seen[:, :3])
    return m


def test_a_filter_alone_bounds_the_likelihood_of_a_gaussian_as_the_exact_network_does():
    m = filtered(gaussian(40, 0.25).float(), alpha_bars=FOUR, variance="large", bound_terms=4)
    m.filter.mean.zero_()
    for half in (m.filter.axes.even, m.filter.axes.odd):
        half.copy_(torch.eye(384))
    m.filter.variances.fill_(0.25**2)
    bound = m.bound(rounded(gaussian(200, 0.25)).float(), generator())
    distortion, rate = bound_by_hand(0.25, diffusion.variances(FOUR, "large").tolist())
    assert_mean(bound.distortion / 768, distortion)
    assert_mean(bound.rate / 768, rate)


def test_the_optimal_variance_is_that_of_the_filters_gaussian_and_makes_the_bound_tighter():
    m = filtered(gaussian(40, 0.25).float(), alpha_bars=FOUR, variance="optimal", bound_terms=4)
    m.filter.mean.zero_()
    for half in (m.filter.axes.even, m.filter.axes.odd):
        half.copy_(torch.eye(384))
    m.filter.variances.fill_(0.25**2)
    of_x = FOUR * 0.25**2 + 1 - FOUR  # Var x_t
    exact = of_x[:-1] - (FOUR[1:] / FOUR[:-1]) * of_x[:-1] ** 2 / of_x[1:]  # Var(x_{t-1} | x_t), of a Gaussian
    bound = m.bound(rounded(gaussian(200, 0.25)).float(), generator())
    distortion, rate = bound_by_hand(0.25, [0, *exact.tolist()])
    assert_mean(bound.distortion / 768, distortion)
    assert_mean(bound.rate / 768, rate)
    others = (sum(bound_by_hand(0.25, diffusion.variances(FOUR, kind).tolist())) for kind in ("small", "large"))
    assert distortion + rate < min(others) - 0.02


def test_the_optimal_variance_needs_a_filter():
    with pytest.raises(ValueError, match="variance=optimal"):
        model(variance="optimal")


def test_samples_of_a_filter_alone_have_the_mean_and_the_covariance_of_the_images():
    wide = torch.linspace(0.05, 0.3, 16).reshape(16, 1)
    together = torch.randn(4000, 1, 16, 16, generator=generator(4))
    images = 0.1 + wide * (0.8 * together + 0.6 * torch.randn(4000, 3, 16, 16, generator=generator(5)))
    m = filtered(images, schedule="cosine", sampling_steps=100)
    drawn = m.sample(400, generator())
    assert drawn.mean().item() == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(drawn.std((0, 1, 3)), wide.flatten(), rtol=0.1, atol=0)
    of_colours = torch.corrcoef(drawn.transpose(0, 1).flatten(1) - 0.1)[0, 1]
    assert of_colours.item() == pytest.approx(0.64, abs=0.05)


def test_the_loss_of_a_residual_is_1_while_the_network_adds_nothing():
    images = 0.3 * torch.randn(2000, 3, 16, 16, generator=generator(4))
    m = filtered(images)
    loss, terms = m.loss(unlabelled(images[:400]), step())
    assert loss.item() == pytest.approx(1, rel=0.05)
    assert terms["error_over_filter"].item() == pytest.approx(1)
    seen, _ = m.denoiser.asked[0]
    assert seen.shape == (400, 6, 16, 16)
    assert seen[:, :3].std().item() == pytest.approx(1, rel=0.35)


@pytest.mark.parametrize("t", [1, 100, 1000])
def test_the_network_adds_s_times_its_output_to_the_filters_guess(t):
    m = model(prediction="residual", filter_axes=20, schedule="cosine")
    x = batch(8).x
    m.initialize(batch(8))
    t = torch.full((8,), t)
    m.denoiser.forward = lambda seen, time: torch.full_like(seen[:, :3], 0.1)
    guess = m.filter(x, *diffusion.scales(m.alpha_bars[t], x))
    x0, eps = m.predict(x, t)
    torch.testing.assert_close(x0, (guess.m + 0.1 * guess.s).clamp(-1, 1))
    a, sigma = diffusion.scales(m.alpha_bars[t], x)
    torch.testing.assert_close(a * x0 + sigma * eps, x, rtol=0, atol=1e-4)


def test_other_predictions_have_the_network_without_a_filter():
    assert model().filter is None
    assert model().denoiser.stem.in_channels == 3 * 4
    assert model(prediction="residual", filter_axes=2).denoiser.stem.in_channels == 6 * 4
    with pytest.raises(ValueError, match="filter_axes=5"):
        dataclasses.replace(SMALL, filter_axes=5)
