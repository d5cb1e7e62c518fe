import copy

import pytest
import scipy.fft
import torch

from visage.maths import principal
from visage.nn import flow_layers
from visage.nn.flow_layers import (
    LEAST_VARIANCE,
    ActNorm,
    Bijection,
    Chain,
    SpectralFlattening,
    Squeeze,
    Whitening,
    fit_to,
    whitenings,
)

DIMS = 3 * 4 * 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Shift(Bijection):
    """z = x - 0.3."""

    def to_noise(self, x):
        return x - 0.3, x.new_zeros(len(x))

    def from_noise(self, z):
        return z + 0.3


def correlated(n, seed=0):
    """Images (n, 3, 4, 4), float64, that are no Gaussian; neighbouring pixels are alike."""
    u = torch.rand(n, 3, 4, 4, generator=generator(seed), dtype=torch.float64) ** 2
    return 0.2 * u.cumsum(3).cumsum(1) * torch.linspace(0.3, 1, 4, dtype=torch.float64)[:, None]


def fitted(axes, x):
    layer = Whitening(3, 4, axes).double()
    layer.fit(x)
    return layer


def matrix(axes):
    """The axes as columns, (D, 2 k)."""
    return axes.combine(torch.eye(axes.columns, dtype=axes.even.dtype)).T


def covariance_of(layer):
    """C = U diag(stds^2) U' + rho (I - U U'), (D, D)."""
    u = matrix(layer.axes)
    rest = torch.eye(DIMS, dtype=u.dtype) - u @ u.T
    return (u * layer.stds**2) @ u.T + layer.rest**2 * rest


@pytest.mark.parametrize(("axes", "images"), [(DIMS, 400), (10, 400), (100, 400), (30, 6)])
def test_the_density_at_the_start_is_that_of_the_gaussian(axes, images):
    # with fewer images than axes, too, whose axes are zero from some on
    x = correlated(images)
    layer = fitted(axes, x)
    law = torch.distributions.MultivariateNormal(layer.mean, covariance_of(layer))
    z, log_det = layer.to_noise(x)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(normal + log_det, law.log_prob(x.flatten(1)))
    torch.testing.assert_close(layer.from_noise(z), x)


@pytest.mark.parametrize("axes", [DIMS, 10])
def test_the_gaussian_is_that_of_the_images_and_their_mirror_images(axes):
    x = correlated(20000)
    layer = fitted(axes, x)
    both = torch.cat([x, x.flip(3)]).flatten(1)
    torch.testing.assert_close(layer.mean, both.mean(0), atol=0.01, rtol=0)
    variances, u = torch.linalg.eigh(both.T.cov(correction=0))
    variances, u = variances.flip(0), u.flip(1)
    rest = variances[axes:].mean() if axes < DIMS else variances[-1]
    # along the axes z varies more than along the others on average, which the first of them exceed
    kept = torch.cat([variances[:axes] / (variances[axes - 1] / rest).sqrt(), rest.expand(DIMS - axes)])
    torch.testing.assert_close(covariance_of(layer), (u * kept) @ u.T, atol=0.02 * variances[0].item(), rtol=0)


def test_the_noise_of_the_images_is_white():
    x = correlated(20000)
    layer = fitted(DIMS, x)
    z, _ = layer.to_noise(torch.cat([x, x.flip(3)]))
    torch.testing.assert_close(z.flatten(1).T.cov(), torch.eye(DIMS, dtype=z.dtype), atol=0.15, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, 4, 4, dtype=z.dtype), atol=0.05, rtol=0)


@pytest.mark.parametrize("axes", [DIMS, 10, 0])
def test_it_is_symmetric_so_that_noise_looks_like_the_image_and_log_det_is_that_of_the_jacobian(axes):
    x = correlated(300)
    layer = fitted(axes, x)
    jacobian = torch.autograd.functional.jacobian(lambda y: layer.to_noise(y[None])[0].flatten(), x[0]).flatten(1)
    torch.testing.assert_close(jacobian, jacobian.T)
    assert torch.linalg.eigvalsh(jacobian).min() > 0
    _, log_det = layer.to_noise(x[:3])
    assert log_det.shape == (3,)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet.expand(3))


def test_variances_are_measured_on_images_that_found_no_axes(monkeypatch):
    # of independent pixels: the first axes that 90 images have look far wider to them than the last
    x = torch.randn(1000, 3, 4, 4, generator=generator(), dtype=torch.float64)
    monkeypatch.setattr(principal, "HELD_OUT", 2)
    stds = fitted(DIMS, x[:100]).stds
    first, last = (stds.reshape(2, 24)[:, part].mean() for part in (slice(5), slice(-5, None)))
    assert (first / last).item() == pytest.approx(1, abs=0.2)


def test_images_that_are_all_alike_leave_the_noise_that_dequantises_them():
    layer = fitted(10, torch.full((20, 3, 4, 4), 0.5, dtype=torch.float64))
    assert pytest.approx(12**-0.5) == LEAST_VARIANCE**0.5 * 256
    for std in (layer.stds, layer.rest):
        torch.testing.assert_close(std, torch.full_like(std, LEAST_VARIANCE**0.5))
    z, log_det = layer.to_noise(torch.randn(2, 3, 4, 4, generator=generator(), dtype=torch.float64))
    assert z.isfinite().all()
    assert log_det.isfinite().all()


def test_before_it_is_fitted_it_changes_nothing():
    x = correlated(2)
    z, log_det = Whitening(3, 4, 10).double().to_noise(x)
    assert torch.equal(z, x)
    assert torch.equal(log_det, torch.zeros_like(log_det))


def test_it_stays_in_float32_under_bf16_and_has_nothing_to_train():
    x = correlated(300).float()
    layer = Whitening(3, 4, 10)
    layer.fit(x)
    assert not list(layer.parameters())
    z, _ = layer.to_noise(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.to_noise(x)[0], z)
        torch.testing.assert_close(layer.from_noise(z), x)


def test_the_whitening_sees_all_images_and_the_act_norms_the_first_ones_after_it(monkeypatch):
    monkeypatch.setattr(flow_layers, "ACT_NORM_IMAGES", 40)
    x = correlated(300)
    before, whitening, norm = Shift(), Whitening(3, 4, 10).double(), ActNorm(12).double()
    fit_to(Chain(before, whitening, Squeeze(Chain(norm))), x)
    alone = fitted(10, x - 0.3)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(whitening.state_dict()[name], value, msg=name)
    seen = Squeeze.squeeze(Chain(before, whitening).to_noise(x[:40])[0])
    std, mean = torch.std_mean(seen, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(norm.mean.flatten(), mean)
    torch.testing.assert_close(norm.log_std.flatten(), std.log())


def test_only_fit_to_sets_anything():
    x = correlated(300)
    flow = Chain(Whitening(3, 4, 10).double(), ActNorm(3).double())
    fit_to(flow, x)
    kept = copy.deepcopy(flow.state_dict())
    other = Chain(Whitening(3, 4, 10).double(), ActNorm(3).double())
    other.load_state_dict(kept)
    for each in (flow, other):
        each.to_noise(correlated(50, seed=1))
        assert all(torch.equal(value, kept[name]) for name, value in each.state_dict().items())
    assert torch.equal(flow.to_noise(x)[0], other.to_noise(x)[0])


def test_the_way_back_is_the_inverse_in_float32_too():
    # smooth images: the variances along their axes differ by a factor of ten million
    x = torch.rand(600, 3, 16, 16, generator=generator()).cumsum(3).cumsum(2) / 128
    x = x + 2e-4 * torch.randn(x.shape, generator=generator(1))
    layer = Whitening(3, 16, 768)
    layer.fit(x)
    assert layer.stds.max() / layer.stds.min() > 1000
    gram = matrix(layer.axes.double()).T @ matrix(layer.axes.double())
    layer.float()
    torch.testing.assert_close(gram, torch.eye(768, dtype=torch.float64), atol=1e-6, rtol=0)
    z, _ = layer.to_noise(x)
    torch.testing.assert_close(layer.from_noise(z), x, atol=0.002, rtol=0)  # about half of one 8-bit value


def test_along_the_axes_the_noise_varies_more_than_on_average_and_less_than_along_the_first_that_is_left_out():
    x = correlated(20000)
    layer, whole = fitted(10, x), fitted(DIMS, x)
    z = layer.to_noise(torch.cat([x, x.flip(3)]))[0].flatten(1)
    # of the last axis that is kept, and of the next one
    height = (whole.stds.sort(descending=True).values[9:11] / layer.rest).square()
    used = matrix(layer.axes).norm(dim=0) > 0.5
    assert used.sum() == 10
    torch.testing.assert_close((z @ matrix(layer.axes)[:, used]).var(0), height[0].sqrt().expand(10), rtol=0.15, atol=0)
    assert height[0] > 3
    assert (height[1] / height[0]).item() == pytest.approx(1, abs=0.4)


def test_axes_that_few_images_lack_are_like_all_others_that_are_left_out():
    x = correlated(6)
    layer, found = fitted(30, x), principal.fit_gaussian(x, 30, LEAST_VARIANCE)
    there = found.axes.norm(dim=0) > 0.5
    assert 0 < there.sum() < 30
    used = matrix(layer.axes).norm(dim=0) > 0.5
    torch.testing.assert_close(layer.stds[used].sort().values, found.variances[there].sqrt().sort().values)
    torch.testing.assert_close(layer.stds[~used], found.rest.sqrt().expand(int((~used).sum())))


# --- The spectrum


def flattening(x):
    layer = SpectralFlattening(3, 4).double()
    layer.fit(x)
    return layer


def coefficients(x):
    return torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho"))


def test_the_root_of_the_spectrum_of_images_and_mirror_images_is_left():
    x = correlated(3000)
    both = torch.cat([x, x.flip(3)])
    layer = flattening(x)
    torch.testing.assert_close(layer.mean, both.mean(0))
    before, after = (
        torch.einsum("nchw,ndhw->hwcd", k, k) / len(k)
        for k in (coefficients(both - both.mean(0)), coefficients(layer.to_noise(both)[0]))
    )
    assert before.diagonal(dim1=2, dim2=3).max() > 100 * before.diagonal(dim1=2, dim2=3).min()
    assert (before[0, 1, 0, 1] / before[0, 1, 0, 0]).abs() > 0.1  # colours are correlated
    torch.testing.assert_close(after @ after, before, rtol=1e-5, atol=1e-7)


def test_it_is_symmetric_and_its_log_det_is_that_of_the_jacobian():
    layer, x = flattening(correlated(3000)), correlated(2, seed=1)
    z, log_det = layer.to_noise(x)
    jacobian = torch.autograd.functional.jacobian(lambda one: layer.to_noise(one[None])[0][0], x[0]).reshape(DIMS, DIMS)
    torch.testing.assert_close(jacobian, jacobian.T)
    assert log_det.tolist() == pytest.approx([torch.linalg.slogdet(jacobian).logabsdet.item()] * 2, abs=1e-4)
    torch.testing.assert_close(layer.from_noise(z), x, rtol=0, atol=1e-6)


def test_before_it_is_fitted_the_flattening_changes_nothing_and_has_nothing_to_train():
    x, layer = correlated(5), SpectralFlattening(3, 4).double()
    z, log_det = layer.to_noise(x)
    torch.testing.assert_close(z, x, rtol=0, atol=1e-6)
    assert not log_det.any()
    assert not list(layer.parameters())


def test_the_flattening_stays_in_float32_under_bf16():
    layer, x = flattening(correlated(300)).float(), correlated(5, seed=1).float()
    exact = layer.to_noise(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.to_noise(x)[0], exact)
        torch.testing.assert_close(layer.from_noise(exact), x, rtol=0, atol=1e-5)


def test_images_that_are_all_alike_have_the_spectrum_of_the_noise_that_dequantises_them():
    layer = flattening(torch.full((5, 3, 4, 4), 0.3, dtype=torch.float64))
    torch.testing.assert_close(layer.inverses.diagonal(), torch.full((4, 4, 3), LEAST_VARIANCE**-0.25).double())


def test_fewer_axes_than_dimensions_are_sought_in_what_the_flattening_leaves():
    assert whitenings(3, 4, 0) == []
    assert [type(layer) for layer in whitenings(3, 4, DIMS)] == [Whitening]
    x = correlated(700)  # more than are transformed at once
    flow = Chain(*whitenings(3, 4, 10)).double()
    fit_to(flow, x)
    first, second = flow.layers
    alone = Whitening(3, 4, 10).double()
    alone.fit(flattening(x).to_noise(x)[0])
    torch.testing.assert_close(first.inverses, flattening(x).inverses)
    torch.testing.assert_close(second.stds, alone.stds)
    torch.testing.assert_close(second.mean, alone.mean, rtol=0, atol=1e-6)


def test_a_gaussian_of_few_axes_is_nearer_to_the_images_after_the_flattening():
    g = generator(3)
    white = torch.randn(2000, 3, 16, 16, generator=g, dtype=torch.float64)
    x = white.cumsum(3).cumsum(2) / 30 + 1e-3 * white  # alike the nearer they are
    densities = []
    for layers in ([Whitening(3, 16, 30)], whitenings(3, 16, 30)):
        flow = Chain(*layers).double()
        fit_to(flow, x[:1500])
        z, log_det = flow.to_noise(x[1500:])
        densities.append((log_det - 0.5 * z.square().flatten(1).sum(1)).mean().item() / 768)
    assert densities[1] > densities[0] + 0.3
