import pytest
import torch

from visage.maths import diffusion, principal
from visage.nn.wiener import LEAST_VARIANCE, FilteredStep, WienerFilter, check_axes

DIMS = 3 * 4 * 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mirrored_basis():
    """Orthonormal (D, D), of axes that are their own mirror images or minus these, in no order."""
    halves = torch.randn(2, DIMS // 2, DIMS // 2, generator=generator(), dtype=torch.float64)
    even, odd = (half.unflatten(1, (3, 4, 2)) for half in torch.linalg.qr(halves)[0])
    none = torch.zeros_like(even)
    basis = torch.cat([principal.whole(even, none), principal.whole(none, odd)]).flatten(1)
    return basis[torch.randperm(DIMS, generator=generator(1))].T


def gaussian(axes, rest=0.01, mirrored=True):
    """A filter of a Gaussian that is wider along some axes than along the rest; its mean and covariance; float64."""
    filter_ = WienerFilter(3, 4, axes, mirrored=mirrored).double()
    u = mirrored_basis()
    if not mirrored:
        u = u @ torch.linalg.qr(torch.randn(DIMS, DIMS, generator=generator(5), dtype=torch.float64))[0]
    filter_.mean.copy_(0.3 * torch.randn(DIMS, generator=generator(1)))
    filter_.rest.fill_(rest)
    variances = torch.full((DIMS,), rest, dtype=torch.float64)
    variances[:axes] = torch.linspace(2.0, 0.05, axes)
    filter_.variances.copy_(variances[filter_.axes.set(u[:, :axes])])
    return filter_, filter_.mean, (u * variances) @ u.T


def scales(*pairs):
    a, sigma = torch.tensor(pairs, dtype=torch.float64).T.reshape(2, -1, 1, 1, 1)
    return a, sigma


ENDS = ((0.99, 0.05), (0.6, 0.8), (0.1, 0.995), (1.0, 30.0))


def noisy(mean, n=4):
    return torch.randn(n, 3, 4, 4, generator=generator(2), dtype=torch.float64) + mean.reshape(3, 4, 4)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("axes", [DIMS, 10])
def test_the_guess_is_the_exact_posterior_of_a_gaussian(axes, mirrored):
    filter_, mean, covariance = gaussian(axes, mirrored=mirrored)
    x_t, (a, sigma) = noisy(mean), scales(*ENDS)
    guess = filter_(x_t, a, sigma)
    for i, (a_i, sigma_i) in enumerate(ENDS):
        inverse = torch.linalg.inv(a_i**2 * covariance + sigma_i**2 * torch.eye(DIMS))
        m = mean + a_i * covariance @ inverse @ (x_t[i].flatten() - a_i * mean)
        torch.testing.assert_close(guess.m[i].flatten(), m)
        variance = covariance - a_i**2 * covariance @ inverse @ covariance
        torch.testing.assert_close(guess.c[i].flatten() ** 2, variance.trace()[None] / DIMS)
        reach = variance @ torch.linalg.inv(covariance) @ variance
        torch.testing.assert_close(guess.s[i].flatten() ** 2, reach.trace()[None] / DIMS)
    torch.testing.assert_close(a * guess.m + sigma * guess.noise, x_t)


ALPHA_BARS = torch.tensor([1.0, 0.99, 0.7, 0.2], dtype=torch.float64)


def covariance_of_a_step(covariance, t):
    """Of q(x_{t-1} | x_t) for Gaussian images, from the joint covariance of the two."""
    before, after = ALPHA_BARS[t - 1 : t + 1]
    alpha = after / before
    of_before = before * covariance + (1 - before) * torch.eye(DIMS)
    of_after = after * covariance + (1 - after) * torch.eye(DIMS)
    return of_before - alpha * of_before @ torch.linalg.inv(of_after) @ of_before


@pytest.mark.parametrize("axes", [DIMS, 10])
def test_a_step_back_has_the_covariance_of_a_gaussians_steps(axes):
    filter_, mean, covariance = gaussian(axes)
    step, eps = FilteredStep(filter_, ALPHA_BARS), torch.eye(DIMS, dtype=torch.float64).reshape(-1, 3, 4, 4)
    for t in (2, 3):
        root = step.noise(eps, t).flatten(1)
        torch.testing.assert_close(root @ root.T, covariance_of_a_step(covariance, t))
    guess = filter_(noisy(mean, 1), *scales((0.99**0.5, 0.1)))
    torch.testing.assert_close(step.first_variance, guess.c.squeeze() ** 2)


@pytest.mark.parametrize("axes", [DIMS, 10])
def test_the_divergence_of_a_step_back_is_that_of_its_gaussians(axes):
    filter_, mean, covariance = gaussian(axes)
    x0, guess, t = noisy(mean, 3), noisy(mean, 6)[3:], torch.tensor([2, 3, 2])
    found = FilteredStep(filter_, ALPHA_BARS).divergence(x0, guess, t)
    for i in range(3):
        a, _, variance = diffusion.posterior(ALPHA_BARS[t[i] - 1], ALPHA_BARS[t[i]])
        law = torch.distributions.MultivariateNormal
        known = law(a * x0[i].flatten(), variance * torch.eye(DIMS, dtype=torch.float64))
        model = law(a * guess[i].flatten(), covariance_of_a_step(covariance, int(t[i])))
        torch.testing.assert_close(found[i], torch.distributions.kl_divergence(known, model))


def test_s_is_how_far_the_guess_moves_with_the_mean_of_the_images():
    filter_, mean, covariance = gaussian(DIMS)
    n = 20_000
    x_t, (a, sigma) = noisy(mean, 1), scales((0.6, 0.8))
    guess = filter_(x_t, a, sigma)
    law = torch.distributions.MultivariateNormal(torch.zeros(DIMS, dtype=torch.float64), covariance)
    torch.manual_seed(0)
    d = law.sample((n,)).reshape(n, 3, 4, 4)
    moved = d + filter_(x_t - a * d, a, sigma).m - guess.m  # with the mean mu + d
    assert moved.square().mean().item() == pytest.approx(guess.s.item() ** 2, rel=0.02)


def test_its_noise_is_minus_the_score_of_the_noisy_gaussian():
    filter_, mean, covariance = gaussian(10)
    x_t, (a, sigma) = noisy(mean).requires_grad_(), scales(*ENDS)
    laws = [
        torch.distributions.MultivariateNormal(a_i * mean, a_i**2 * covariance + sigma_i**2 * torch.eye(DIMS))
        for a_i, sigma_i in ENDS
    ]
    log_p = sum(law.log_prob(x.flatten()) for law, x in zip(laws, x_t, strict=True))
    (score,) = torch.autograd.grad(log_p, x_t)
    torch.testing.assert_close(-filter_(x_t, a, sigma).noise / sigma, score)


def test_little_noise_is_believed_and_much_noise_is_not():
    filter_, mean, covariance = gaussian(10)
    x_t = noisy(mean, 2)
    guess = filter_(x_t, *scales((1.0, 1e-4), (1e-4, 1.0)))
    torch.testing.assert_close(guess.m[0], x_t[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(guess.m[1].flatten(), mean, rtol=0, atol=1e-3)
    assert guess.c[0].item() == pytest.approx(1e-4, rel=1e-4)
    wide = pytest.approx((covariance.trace() / DIMS).sqrt().item(), rel=1e-4)
    assert guess.c[1].item() == wide == guess.s[1].item()
    assert guess.s[0].item() < 1e-3 * guess.c[0].item()


def test_gradients_pass_through_it_to_the_noisy_image():
    filter_, mean, covariance = gaussian(DIMS)
    x_t = noisy(mean, 1).requires_grad_()
    guess = filter_(x_t, *scales((0.6, 0.8)))
    jacobian = torch.stack([torch.autograd.grad(m, x_t, retain_graph=True)[0].flatten() for m in guess.m.flatten()])
    torch.testing.assert_close(
        jacobian, 0.6 * covariance @ torch.linalg.inv(0.36 * covariance + 0.64 * torch.eye(DIMS))
    )


def test_before_any_images_they_are_those_of_white_noise():
    x_t, (a, sigma) = noisy(torch.zeros(DIMS), 1), scales((0.6, 0.8))
    guess = WienerFilter(3, 4, 10).double()(x_t, a, sigma)
    torch.testing.assert_close(guess.m, 0.6 * x_t)
    torch.testing.assert_close(guess.c, sigma)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("axes", [DIMS, 10])
def test_the_residual_of_the_images_that_it_was_fitted_to_has_the_variance_that_it_says(axes, mirrored):
    # of any images: second moments are all that a linear guess uses
    g = generator(3)
    x = torch.rand(3000, 3, 4, 4, generator=g) ** 2 * torch.linspace(0.2, 1, 48).reshape(3, 4, 4) - 0.3
    if mirrored:
        x = torch.cat([x, x.flip(3)])
    filter_ = WienerFilter(3, 4, axes, mirrored=mirrored)
    filter_.fit(x)
    for a, sigma in ENDS[:3]:
        x_t = a * x + sigma * torch.randn(x.shape, generator=g)
        guess = filter_(x_t, *(part.float().expand(len(x), 1, 1, 1) for part in scales((a, sigma))))
        loss, terms = guess.loss(torch.zeros_like(x), x)
        assert loss.item() == pytest.approx(1, rel=0.02)
        assert terms["error_over_filter"].item() == pytest.approx(1, abs=1e-6)


def test_what_is_added_to_the_filter_is_counted_from_1_down():
    filter_, mean, _ = gaussian(10)
    x_t, x0 = noisy(mean, 1), noisy(mean, 2)[1:]
    guess = filter_(x_t, *scales((0.6, 0.8)))
    residual = (x0 - guess.m) / guess.s
    assert guess.loss(residual, x0)[1]["error_over_filter"].item() == pytest.approx(0, abs=1e-12)
    assert guess.loss(residual / 2, x0)[1]["error_over_filter"].item() == pytest.approx(0.25)
    torch.testing.assert_close(guess.image(residual), x0)
    assert torch.equal(guess.inputs, torch.cat([guess.noise, guess.m], dim=1))


def test_one_image_repeated_leaves_the_width_of_an_8_bit_value():
    filter_ = WienerFilter(3, 4, 100)  # more than there are dimensions
    filter_.fit(torch.full((5, 3, 4, 4), 0.5))
    assert filter_.axes.columns == DIMS
    _, sigma = scales((1.0, 100.0))
    c = filter_(torch.zeros(1, 3, 4, 4), sigma.float() / 100, sigma.float()).c
    assert c.item() == pytest.approx(2 / 255 / 12**0.5, rel=1e-3) == LEAST_VARIANCE**0.5


def test_it_stays_in_float32_under_bf16():
    filter_ = WienerFilter(3, 4, 10)
    filter_.load_state_dict({name: value.float() for name, value in gaussian(10)[0].state_dict().items()})
    x_t, (a, sigma) = noisy(torch.zeros(DIMS)).float(), (part.float() for part in scales(*ENDS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = filter_(x_t, a, sigma)
    torch.testing.assert_close(mixed.m, filter_(x_t, a, sigma).m)


@pytest.mark.parametrize(("prediction", "axes", "word"), [("residual", 0, "filter_axes=0"), ("v", 5, "filter_axes=5")])
def test_axes_and_prediction_go_together(prediction, axes, word):
    with pytest.raises(ValueError, match=word):
        check_axes(prediction, axes)
    check_axes(prediction, 5 - axes)


def test_the_residual_of_other_images_has_the_variance_that_it_says():
    # of independent pixels: the first axes that 450 images have look three times as wide to them as the last
    x = 0.2 * torch.randn(1500, 3, 8, 8, generator=generator(3))
    filter_ = WienerFilter(3, 8, 192)
    filter_.fit(x[:500])
    a, sigma = (torch.full((1000, 1, 1, 1), value) for value in (0.99, 0.14))
    noise = torch.randn(1000, 3, 8, 8, generator=generator(4))
    loss, _ = filter_(a * x[500:] + sigma * noise, a, sigma).loss(torch.zeros_like(noise), x[500:])
    assert loss.item() == pytest.approx(1, abs=0.05)
    widest, narrowest = (filter_.variances.reshape(2, 96)[:, part].mean() for part in (slice(10), slice(-10, None)))
    assert (widest / narrowest).item() == pytest.approx(1, abs=0.2)
