import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from visage.maths import diffusion

BETAS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
ABAR = diffusion.alpha_bars(BETAS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_schedules_have_the_published_figures():
    # hojonathanho/diffusion and openai/improved-diffusion at T = 1000
    linear, cosine = (diffusion.alpha_bars(f(1000)) for f in (diffusion.linear_betas, diffusion.cosine_betas))
    assert len(linear) == len(cosine) == 1001
    assert linear[[0, 1, 1000]].tolist() == pytest.approx([1.0, 0.9999, 4.0358298e-05], rel=1e-7)
    assert diffusion.linear_betas(1000)[-1].item() == pytest.approx(0.02)
    assert cosine[[0, 1, 500]].tolist() == pytest.approx([1.0, 0.9999587158, 0.4938435904], rel=1e-9)
    assert diffusion.cosine_betas(1000)[-1].item() == 0.999


@pytest.mark.parametrize("schedule", [diffusion.linear_betas, diffusion.cosine_betas])
@pytest.mark.parametrize("steps", [4, 50, 400, 4000])
def test_schedules_reach_noise_in_any_number_of_steps(schedule, steps):
    betas = schedule(steps)
    assert betas.shape == (steps,)
    assert (betas > 0).all()
    assert (betas < 1).all()
    assert 0 < diffusion.alpha_bars(betas)[-1] < 1e-3


def test_posterior_table_of_four_steps():
    a, b, variance = diffusion.posterior(ABAR[:-1], ABAR[1:])
    assert ABAR.tolist() == pytest.approx([1, 0.9, 0.72, 0.504, 0.3024])
    assert a.tolist() == pytest.approx([1, 0.6776309, 0.5132227, 0.4070697], abs=1e-7)
    assert b.tolist() == pytest.approx([0, 0.3194383, 0.4723081, 0.5507453], abs=1e-7)
    assert variance.tolist() == pytest.approx([0, 0.0714286, 0.1693548, 0.2844037], abs=1e-7)


def test_posterior_is_bayes_rule():
    # q(x_s | x_0) q(x_t | x_s) as two Gaussian factors in x_s: precisions add, here over a gap of two steps
    abar_s, abar_t, x0, x_t = ABAR[1], ABAR[3], 0.3, -0.8
    alpha = abar_t / abar_s
    precision = 1 / (1 - abar_s) + alpha / (1 - alpha)
    mean = (abar_s.sqrt() * x0 / (1 - abar_s) + alpha.sqrt() * x_t / (1 - alpha)) / precision
    a, b, variance = diffusion.posterior(abar_s, abar_t)
    torch.testing.assert_close(a * x0 + b * x_t, mean)
    torch.testing.assert_close(variance, 1 / precision)


def test_noise_and_image_are_found_again_at_every_time():
    t = torch.tensor([1, 3, 4])
    x0, eps = torch.randn(2, 3, 3, 2, 2, dtype=torch.float64, generator=generator())
    scales = diffusion.scales(ABAR[t], x0)
    x_t, v = diffusion.diffuse(x0, eps, *scales), diffusion.velocity(x0, eps, *scales)
    torch.testing.assert_close(x_t[1], 0.504**0.5 * x0[1] + 0.496**0.5 * eps[1])  # each image at its own time
    torch.testing.assert_close(diffusion.x0_of_epsilon(x_t, eps, *scales), x0)
    torch.testing.assert_close(diffusion.x0_of_velocity(x_t, v, *scales), x0)
    torch.testing.assert_close(diffusion.epsilon_of_x0(x_t, x0, *scales), eps)


def test_the_tables_of_training_are_the_scales_to_the_last_digit_of_float32():
    abar, x = diffusion.alpha_bars(diffusion.linear_betas(1000)), torch.zeros(4, 3, 2, 2)
    t = torch.tensor([0, 1, 500, 1000])
    for table, scale in zip(
        diffusion.from_tables(diffusion.tables(abar), t, x), diffusion.scales(abar[t], x), strict=True
    ):
        assert table.shape == (4, 1, 1, 1)
        assert torch.equal(table, scale)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_an_output_splits_into_image_and_noise(prediction):
    t = torch.tensor([1, 3, 4])
    x0, eps = torch.randn(2, 3, 3, 2, 2, dtype=torch.float64, generator=generator())
    abar, scales = ABAR[t], diffusion.scales(ABAR[t], x0)
    x_t = diffusion.diffuse(x0, eps, *scales)
    output = eps if prediction == "epsilon" else diffusion.velocity(x0, eps, *scales)
    torch.testing.assert_close(diffusion.split(x_t, output, abar, prediction, clip=False), (x0, eps))
    image, noise = diffusion.split(x_t, output, abar, prediction, clip=True)
    assert x0.abs().max() > 1
    torch.testing.assert_close(image, x0.clamp(-1, 1))
    torch.testing.assert_close(diffusion.diffuse(image, noise, *scales), x_t)  # the noise goes with the clipped image


def test_velocity_is_the_derivative_along_the_circle():
    # with sqrt(abar) = cos(angle), sqrt(1 - abar) = sin(angle), v = d x_t / d angle (Salimans & Ho 2022, appendix D)
    x0, eps = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64, generator=generator())
    scales = lambda angle: diffusion.scales(torch.tensor([math.cos(angle) ** 2], dtype=torch.float64), x0)  # noqa: E731
    at = lambda angle: diffusion.diffuse(x0, eps, *scales(angle))  # noqa: E731
    v = diffusion.velocity(x0, eps, *scales(0.7))
    torch.testing.assert_close((at(0.7 + 1e-5) - at(0.7 - 1e-5)) / 2e-5, v, rtol=1e-8, atol=1e-8)


def test_ddim_at_eta_1_is_the_posterior():
    a, b, c = diffusion.ddim_coefficients(ABAR[:-1], ABAR[1:], 1.0)
    p, q, variance = diffusion.posterior(ABAR[:-1], ABAR[1:])
    # a x_0 + b eps with eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)
    torch.testing.assert_close(a - b * (ABAR[1:] / (1 - ABAR[1:])).sqrt(), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(b / (1 - ABAR[1:]).sqrt(), q, rtol=0, atol=1e-12)
    torch.testing.assert_close(c.square(), variance, rtol=0, atol=1e-12)


def test_ddim_stays_on_q():
    # whatever eta is, x_s has the variance of q(x_s | x_0) = 1 - abar_s where eps is the noise of x_t
    for eta in (0.0, 0.5, 1.0):
        a, b, c = diffusion.ddim_coefficients(ABAR[1:2], ABAR[3:4], eta)
        torch.testing.assert_close(b**2 + c**2, 1 - ABAR[1:2])
        torch.testing.assert_close(a, ABAR[1:2].sqrt())


def test_times_are_evenly_spaced_and_end_at_noise():
    assert diffusion.spaced_times(1000, 4) == [0, 250, 500, 750, 1000]
    assert diffusion.spaced_times(10, 10) == list(range(11))
    for calls in range(1, 40):
        times = diffusion.spaced_times(39, calls)
        assert times == sorted(set(times))
        assert (times[0], times[-1], len(times)) == (0, 39, calls + 1)


@pytest.mark.parametrize("betas", [diffusion.linear_betas, diffusion.cosine_betas])
def test_times_of_dpm_solver_are_even_in_log_snr(betas):
    abar = diffusion.alpha_bars(betas(1000))
    lam = 0.5 * torch.log(abar / (1 - abar))
    times = diffusion.log_snr_times(abar, 26)
    assert (times[0], times[-1]) == (0, 1000)
    steps = lam[times[1:-1]].diff()
    assert lam[1] == lam[times[1]]
    expected = (max(-5, lam[1000]) - lam[1]) / 25
    torch.testing.assert_close(steps, expected.expand(24), rtol=0, atol=0.3)
    assert steps[5:].mean().item() == pytest.approx(expected.item(), rel=0.02)


def test_times_of_dpm_solver_are_all_different():
    for steps in (2, 4, 39):
        abar = diffusion.alpha_bars(diffusion.cosine_betas(steps))
        for calls in range(1, steps + 1):
            times = diffusion.log_snr_times(abar, calls)
            assert times == sorted(set(times))
            assert (times[0], times[-1], len(times)) == (0, steps, calls + 1)


def test_posterior_kl_is_the_kl_of_gaussians():
    a, b, variance = diffusion.posterior(ABAR[1], ABAR[2])
    x0, guess, x_t = torch.randn(3, 50, dtype=torch.float64, generator=generator())
    for model_variance in (variance, BETAS[1]):
        q, p = Normal(a * x0 + b * x_t, variance.sqrt()), Normal(a * guess + b * x_t, model_variance.sqrt())
        kl = diffusion.posterior_kl(x0, guess, a, variance, model_variance)
        torch.testing.assert_close(kl, kl_divergence(q, p))


@pytest.mark.parametrize(("shift", "nats"), [(0, 0.5 * math.log(2 * math.pi * math.e)), (1, 1.465), (-1, 1.461)])
def test_the_bound_of_a_gaussian_is_its_entropy(shift, nats):
    # data N(0, 1) under T = 4, model variances beta_t, density at the end: tight with the exact eps = sqrt(1 - abar_t)
    # x_t, and above log p by known amounts with a network whose time is one off. Expectations in closed form.
    def guess(t):  # of x_0, as a multiple of x_t
        used = ABAR[min(max(t + shift, 1), 4)]
        return (1 - ((1 - ABAR[t]) * (1 - used)).sqrt()) / ABAR[t].sqrt()

    def squared(t):  # E (x_0 - guess x_t)^2, both variances being 1 and their covariance sqrt(abar_t)
        return 1 + guess(t) ** 2 - 2 * guess(t) * ABAR[t].sqrt()

    total = 0.5 * (math.log(2 * math.pi * BETAS[0]) + squared(1) / BETAS[0])  # L_0; L_T is 0 on average
    for t in (2, 3, 4):
        a, _, variance = diffusion.posterior(ABAR[t - 1], ABAR[t])
        zero = torch.zeros((), dtype=torch.float64)
        total += diffusion.posterior_kl(squared(t).sqrt(), zero, a, variance, BETAS[t - 1])
    prior = 0.5 * (ABAR[4] + (1 - ABAR[4]) - 1 - (1 - ABAR[4]).log())
    assert (total + prior).item() == pytest.approx(nats, abs=1e-9 if shift == 0 else 5e-4)


@pytest.mark.parametrize("mean", [-1.3, -1.0, -0.21, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("log_sigma", [-5.0, -2.0, 0.0])
def test_discretized_gaussian_is_a_distribution_over_256_values(mean, log_sigma):
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    log_p = diffusion.discretized_gaussian_log_prob(x, x.new_tensor(mean), x.new_tensor(log_sigma))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert torch.isfinite(log_p).all()


def test_discretized_gaussian_is_a_difference_of_error_functions():
    x = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    edges = torch.erf((torch.arange(257, dtype=torch.float64) - 128) / 127.5 / 0.3 / 2**0.5)
    edges[0], edges[-1] = -1, 1
    log_p = diffusion.discretized_gaussian_log_prob(x, x.new_tensor(0.0), x.new_tensor(0.3).log())
    torch.testing.assert_close(log_p.exp(), edges.diff() / 2, rtol=1e-9, atol=0)
    single = diffusion.discretized_gaussian_log_prob(x.float(), torch.tensor(0.0), torch.tensor(0.3).log())
    torch.testing.assert_close(single.double(), log_p, rtol=1e-4, atol=1e-4)


def test_strata_cover_every_time_once():
    for steps in (2, 4, 50, 1000):
        for count in {1, min(3, steps - 1), min(19, steps - 1), steps - 1}:
            parts = diffusion.strata(steps, count)
            assert [t for first, end in parts for t in range(first, end)] == list(range(2, steps + 1))
            assert len(parts) == count
            assert all(end > first for first, end in parts)
    assert diffusion.strata(1000, 3) == [(2, 11), (11, 101), (101, 1001)]
