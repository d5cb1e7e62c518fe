import math
from itertools import pairwise

import pytest
import torch

from visage.maths import diffusion, noise, samplers

ABAR = diffusion.alpha_bars(diffusion.linear_betas(1000))
SHORT = diffusion.alpha_bars(diffusion.linear_betas(50))


def exact(s, alpha_bars=ABAR, asked=None):
    """The perfect network for images that are N(0, s^2 I)."""

    def predict(x_t, t):
        if asked is not None:
            asked.extend(t.unique().tolist())
        abar = alpha_bars[t][:, None, None, None]
        share = x_t / (abar * s**2 + 1 - abar)
        return abar.sqrt() * s**2 * share, (1 - abar).sqrt() * share

    return predict


def gaussian(n, s, seed=1):
    return s * torch.randn(n, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rows(n):
    return noise.each(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("calls", "expected"), [(20, 0.4337), (100, 0.4860), (1000, 0.4985)])
def test_ddim_narrows_a_gaussian_by_the_known_factor(calls, expected):
    # at the times of the DDIM paper, floor(1000 i / calls) + 1
    times = [*(math.floor(1000 * i / calls) + 1 for i in reversed(range(calls))), 0]
    z, asked = gaussian(2, 1.0), []
    x = samplers.ddim(z, times, exact(0.5, asked=asked), ABAR)
    assert asked == times[:-1]
    factor = (x / z).mean().item()
    torch.testing.assert_close(x, factor * z)
    assert factor == pytest.approx(expected, abs=1e-4)


def test_ddim_at_eta_1_with_every_step_is_the_ancestral_sampler():
    predict, streams = exact(0.2, SHORT), rows(3)
    x = gaussian(3, 1.0)
    sample = samplers.ddim(x, range(50, -1, -1), predict, SHORT, 1.0, rows(3))
    for t in range(50, 0, -1):  # Ho et al. 2020, algorithm 2 with the posterior's variance
        a, b, variance = diffusion.posterior(SHORT[t - 1], SHORT[t])
        x = a * predict(x, torch.full((3,), t))[0] + b * x
        if t > 1:
            x = x + variance.sqrt() * noise.randn_each(streams, (3, 16, 16))
    torch.testing.assert_close(sample, x, rtol=0, atol=1e-6)


def test_dpm_solver_takes_the_steps_of_its_algorithm():
    # Lu et al. 2022, algorithm 2, as printed: lambda = log(a / sigma), h its steps, r the ratio of the last two
    times, x, asked = [1000, 700, 350, 100, 0], gaussian(2, 1.0), []
    a, sigma, predict = ABAR.sqrt(), (1 - ABAR).sqrt(), exact(0.5)
    lam, guesses, expected = (a / sigma).log(), [], x
    for i, (t, s) in enumerate(pairwise(times)):
        guesses.append(predict(expected, torch.full((2,), t))[0])
        h, d = lam[s] - lam[t], guesses[-1]
        if 0 < i < 3:
            r = (lam[t] - lam[times[i - 1]]) / h
            d = (1 + 1 / (2 * r)) * guesses[-1] - 1 / (2 * r) * guesses[-2]
        expected = sigma[s] / sigma[t] * expected - a[s] * (torch.exp(-h) - 1) * d
    found = samplers.dpm_solver(x, times, exact(0.5, asked=asked), ABAR)
    torch.testing.assert_close(found, expected)
    assert asked == times[:-1]


@pytest.mark.parametrize("s", [0.5, 1.5])
def test_dpm_solver_is_closer_to_the_ode_than_ddim(s):
    z = gaussian(2, 1.0)
    flow = s * z / (ABAR[-1] * s**2 + 1 - ABAR[-1]).sqrt()  # that of a Gaussian is a scaling
    for calls in (25, 50):
        times = diffusion.spaced_times(1000, calls)[::-1]
        ddim, solver = (
            (solve(z, times, exact(s), ABAR) - flow).norm() for solve in (samplers.ddim, samplers.dpm_solver)
        )
        assert solver < ddim / 4


def test_25_steps_that_are_even_in_log_snr_keep_the_width_of_all_axes():
    z, abar = torch.ones(1, 1, 1, 1, dtype=torch.float64), diffusion.alpha_bars(diffusion.cosine_betas(1000))

    def width(s, times):
        return samplers.dpm_solver(z, times[::-1], exact(s, abar), abar).item()

    for s in (0.05, 0.3, 1.0, 4.0, 15.0):  # deviations of images along their principal axes
        assert width(s, diffusion.log_snr_times(abar, 25)) == pytest.approx(s, rel=0.02)
    assert width(15.0, diffusion.spaced_times(1000, 25)) < 12


def test_noise_of_an_image_does_not_depend_on_the_other_images():
    x = gaussian(3, 1.0)
    three, one = (samplers.ddim(x[:n], [50, 25, 0], exact(0.2, SHORT), SHORT, 1.0, rows(n)) for n in (3, 1))
    assert torch.equal(three[:1], one)


def test_codes_of_images_are_noise_and_lead_back_to_them():
    x, errors = gaussian(4, 0.2), []
    for calls in (20, 200):
        times = diffusion.spaced_times(1000, calls)
        code = samplers.ddim_inverse(x, times, exact(0.2), ABAR)
        back = samplers.ddim(code, times[::-1], exact(0.2), ABAR)
        errors.append((back - x).square().mean().item())
    assert code.std().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(code / code.std(), x / x.std())  # the flow of a Gaussian is a scaling
    assert errors[1] < 3e-4  # of 0.04
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize("calls", [2, 50])
def test_no_network_is_asked_about_time_0(calls):
    asked = []
    samplers.ddim_inverse(gaussian(1, 0.2), diffusion.spaced_times(50, calls), exact(0.2, SHORT, asked), SHORT)
    assert asked == ([1, 25] if calls == 2 else list(range(1, 50)))


@pytest.mark.parametrize(("share", "time"), [(0.1, 100), (0.4999, 500), (0.0001, 1), (1.0, 1000)])
def test_noised_images_share_their_noise_at_a_share_of_the_way(share, time):
    x, probe = gaussian(3, 0.2), gaussian(1, 1.0, seed=5)[0]
    x_t, t = samplers.noised(x, probe, share, ABAR)
    assert t.tolist() == [time] * 3
    torch.testing.assert_close(x_t, ABAR[time].sqrt() * x + (1 - ABAR[time]).sqrt() * probe)


def test_the_denoising_error_of_a_gaussian_is_known():
    # eps - eps^ = (abar s^2 eps - sqrt(abar (1 - abar)) x) / (abar s^2 + 1 - abar), with mean square as below
    shares, s = (0.05, 0.2, 0.6), 0.3
    probes = gaussian(3, 1.0, seed=5)
    error = samplers.denoising_error(gaussian(500, s), shares, probes, exact(s), ABAR)
    assert error.shape == (500,)
    expected = 0.0
    for share, probe in zip(shares, probes, strict=True):
        abar = ABAR[round(1000 * share)].item()
        total = abar * s**2 + 1 - abar
        square = probe.square().mean().item()
        expected += ((abar * s**2) ** 2 * square + abar * (1 - abar) * s**2) / total**2 / 3
    assert error.mean().item() == pytest.approx(expected, rel=0.01)
    with pytest.raises(ValueError, match="zip"):
        samplers.denoising_error(gaussian(2, s), shares[:2], probes, exact(s), ABAR)


@pytest.mark.parametrize(
    ("alpha_bars", "walks"),
    [
        (ABAR, ([100, 80, 60, 40, 20, 0], [250, 200, 150, 100, 50, 0], [500, 400, 300, 200, 100, 0])),
        (diffusion.alpha_bars(diffusion.linear_betas(4)), ([1, 0], [1, 0], [2, 1, 0])),  # fewer steps than it wants
    ],
)
def test_redrawing_a_gaussian_errs_by_the_known_amount(alpha_bars, walks):
    # with the exact network DDIM multiplies the noisy image by a number
    x, probes, asked, s = gaussian(3, 0.1), gaussian(5, 1.0, seed=5), [], 0.1
    found = samplers.redrawing_error(x, probes, exact(s, alpha_bars, asked), alpha_bars)
    expected = torch.zeros(3, dtype=torch.float64)
    for times, probe in zip(walks, probes, strict=False):
        abar = alpha_bars[times[0]]
        back = abar.sqrt() * x + (1 - abar).sqrt() * probe
        for t, to in pairwise(times):
            a, b = alpha_bars[t], alpha_bars[to]
            back = (b.sqrt() * a.sqrt() * s**2 + (1 - b).sqrt() * (1 - a).sqrt()) / (a * s**2 + 1 - a) * back
        expected += (back - x).square().mean((1, 2, 3)).log() / 3
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert asked == [t for times in walks for t in times[:-1]]
    assert alpha_bars is not ABAR or len(asked) == samplers.REDRAWING_CALLS


def test_an_image_that_comes_back_exactly_errs_by_half_a_level():
    x = torch.ones(2, 3, 8, 8)
    error = samplers.redrawing_error(x, torch.randn(3, 3, 8, 8), lambda x_t, t: (x, x_t), ABAR)
    assert error.tolist() == pytest.approx([2 * math.log(1 / 255)] * 2)
