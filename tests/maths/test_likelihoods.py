import math

import pytest
import torch
from torch.distributions import Laplace, Normal, kl_divergence

from visage.maths.likelihoods import (
    bernoulli_surrogate,
    discretized_logistic_log_prob,
    gaussian_log_density,
    laplace_log_density,
    sampled_standard_normal_kl,
    standard_normal_kl,
)

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_densities_are_those_of_torch():
    x, mean, log_scale = normal(50), normal(50, seed=1), normal(50, seed=2)
    expected = Normal(mean, log_scale.exp()).log_prob(x)
    torch.testing.assert_close(gaussian_log_density(x, mean, log_scale), expected, rtol=1e-10, atol=1e-10)
    expected = Laplace(mean, log_scale.exp()).log_prob(x)
    torch.testing.assert_close(laplace_log_density(x, mean, log_scale), expected, rtol=1e-10, atol=1e-10)


def test_gaussian_at_its_best_sigma_has_the_closed_form():
    x, mean = normal(1000), 0.3 * normal(1000, seed=1)
    mse = (x - mean).square().mean()
    distortion = -gaussian_log_density(x, mean, 0.5 * mse.log()).mean()
    assert distortion.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * mse.item()), abs=1e-8)


def test_laplace_at_its_best_scale_has_the_closed_form():
    x, median = normal(1000), 0.3 * normal(1000, seed=1)
    mae = (x - median).abs().mean()
    distortion = -laplace_log_density(x, median, mae.log()).mean()
    assert distortion.item() == pytest.approx(math.log(2 * math.e * mae.item()), abs=1e-8)


@pytest.mark.parametrize("log_scale", [-7.0, -5.0, -3.0, -1.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", [-1.7, -1.0, -0.5, 0.0, 0.123, 1.0, 2.5])
def test_discretized_logistic_sums_to_one(mean, log_scale):
    log_prob = discretized_logistic_log_prob(
        LEVELS, torch.tensor(mean, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64)
    )
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-10)


def test_discretized_logistic_is_a_difference_of_sigmoids():
    mean, s = 0.1, 0.2
    log_prob = discretized_logistic_log_prob(LEVELS, torch.tensor(mean).double(), torch.tensor(s).double().log())
    inside = torch.sigmoid((LEVELS - mean + 1 / 255) / s) - torch.sigmoid((LEVELS - mean - 1 / 255) / s)
    torch.testing.assert_close(log_prob.exp()[1:-1], inside[1:-1])
    assert log_prob.exp()[0].item() == pytest.approx(1 / (1 + math.exp((mean + 1 - 1 / 255) / s)))


def test_discretized_logistic_stays_finite_in_float32_where_differences_cancel():
    x = (torch.arange(256) / 127.5 - 1).requires_grad_()
    for mean in (-3.0, 0.0, 3.0):
        for log_scale in (-7.0, 2.0):
            location, scale = torch.tensor(mean, requires_grad=True), torch.tensor(log_scale, requires_grad=True)
            log_prob = discretized_logistic_log_prob(x, location, scale)
            log_prob.sum().backward()
            assert log_prob.isfinite().all()
            assert location.grad.isfinite()
            assert scale.grad.isfinite()


def test_entropy_of_the_logistic_in_bits():
    # s = 0.02 in y01 is 0.02 * 256 / 127.5 in x11; its differential entropy is 8 + (ln s + 2) / ln 2 bits
    log_prob = discretized_logistic_log_prob(
        LEVELS, torch.zeros(1).double(), torch.tensor(0.02 * 256 / 127.5).double().log()
    )
    assert -(log_prob.exp() * log_prob).sum().item() / math.log(2) == pytest.approx(5.24, abs=0.01)


def test_bernoulli_surrogate_peaks_at_the_logit_of_x():
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    logits = torch.logit(x).requires_grad_()
    bernoulli_surrogate(x, logits).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    best = bernoulli_surrogate(x, logits.detach())
    assert (bernoulli_surrogate(x, logits.detach() + 0.1) < best).all()
    assert (bernoulli_surrogate(x, logits.detach() - 0.1) < best).all()
    assert best[1].item() == pytest.approx(-math.log(2))  # its floor is the entropy, not 0


@pytest.mark.parametrize(("p", "integral"), [(0.5, 0.5), (0.1, 0.364), (0.01, 0.213)])
def test_bernoulli_surrogate_is_no_density(p, integral):
    x = torch.linspace(0, 1, 10001, dtype=torch.float64)
    values = bernoulli_surrogate(x, torch.tensor(p, dtype=torch.float64).logit().expand_as(x)).exp()
    assert torch.trapezoid(values, x).item() == pytest.approx(integral, abs=1e-3)


def test_kl_is_that_of_torch_and_of_sampling():
    mean, logvar = normal(20), normal(20, seed=1)
    q, p = Normal(mean, (0.5 * logvar).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    kl = standard_normal_kl(mean, logvar)
    torch.testing.assert_close(kl, kl_divergence(q, p), rtol=1e-10, atol=1e-10)
    z = mean + (0.5 * logvar).exp() * normal(100_000, 20, seed=2)
    draws = (q.log_prob(z) - p.log_prob(z)).sum(1)
    assert abs(draws.mean() - kl.sum()) < 3 * draws.std() / math.sqrt(len(draws))


def test_kl_is_zero_only_at_the_prior():
    assert standard_normal_kl(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]
    assert standard_normal_kl(torch.tensor(0.0), torch.tensor(math.log(4.0))).item() == pytest.approx(1.5 - math.log(2))


def test_sampled_kl_is_that_of_torch_at_each_draw_and_the_kl_in_the_mean():
    mean, logvar, eps = normal(20), normal(20, seed=1), normal(50_000, 20, seed=2)
    q, p = Normal(mean, (0.5 * logvar).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    z = mean + (0.5 * logvar).exp() * eps
    draws = sampled_standard_normal_kl(mean, logvar, eps)
    torch.testing.assert_close(draws, q.log_prob(z) - p.log_prob(z), rtol=1e-10, atol=1e-10)
    total = draws.sum(1)
    assert abs(total.mean() - kl_divergence(q, p).sum()) < 3 * total.std() / math.sqrt(len(total))
