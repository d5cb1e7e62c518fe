import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from visage.maths.principal import fit_gaussian, local_basis, principal_axes


@pytest.fixture(scope="module")
def images():
    """Images of 8 x 8 pixels with variances that fall from axis to axis."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(192, 192, generator=generator))[0]
    scales = 0.97 ** torch.arange(192)
    return ((torch.randn(400, 192, generator=generator) * scales) @ basis + 0.1).reshape(-1, 3, 8, 8)


@pytest.mark.parametrize("count", [1, 20, 100])
def test_the_axes_are_those_of_the_images_and_their_mirror_images(images, count):
    pca = PCA(count, svd_solver="full").fit(torch.cat([images, images.flip(3)]).flatten(1).double().numpy())
    found = principal_axes(images, count)
    n = 2 * len(images)
    torch.testing.assert_close(found.mean.double(), torch.from_numpy(pca.mean_), atol=1e-5, rtol=0)
    exact = torch.from_numpy(pca.explained_variance_) * (n - 1) / n
    torch.testing.assert_close(found.variances.double(), exact, rtol=2e-3, atol=1e-6)
    overlap = (found.axes.double().T @ torch.from_numpy(pca.components_.T)).abs().diagonal()
    assert overlap[: count // 2 + 1].min() > 0.999
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(count), atol=1e-5, rtol=0)
    assert float(found.rest) == pytest.approx(pca.noise_variance_ * (n - 1) / n, rel=1e-2)


@pytest.mark.parametrize("count", [1, 20, 192])
def test_without_mirror_images_the_axes_are_those_of_the_images_alone(images, count):
    pca = PCA(count, svd_solver="full").fit(images.flatten(1).double().numpy())
    found, n = principal_axes(images, count, mirrored=False), len(images)
    torch.testing.assert_close(found.mean.double(), torch.from_numpy(pca.mean_), atol=1e-5, rtol=0)
    exact = torch.from_numpy(pca.explained_variance_) * (n - 1) / n
    torch.testing.assert_close(found.variances.double(), exact, rtol=5e-3, atol=1e-6)
    overlap = (found.axes.double().T @ torch.from_numpy(pca.components_.T)).abs().diagonal()
    assert overlap[: count // 2 + 1].min() > 0.99
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(count), atol=1e-5, rtol=0)
    assert float(found.rest) == pytest.approx(pca.noise_variance_ * (n - 1) / n, rel=1e-2, abs=1e-5)
    assert fit_gaussian(images, count, 1e-9, mirrored=False).mean.equal(images[40:].mean(0).flatten())


@pytest.fixture(scope="module")
def larger():
    """Images of 16 x 16 pixels whose variances fall slowly, as those of faces; a few axes are sought at random."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, 769) ** -0.7
    basis = torch.linalg.qr(torch.randn(768, 768, generator=generator))[0]
    return ((torch.randn(900, 768, generator=generator) * scales) @ basis).reshape(-1, 3, 16, 16)


def test_a_few_axes_are_as_good_as_the_exact_ones(larger, monkeypatch):
    sought = []
    lowrank = torch.svd_lowrank
    monkeypatch.setattr(torch, "svd_lowrank", lambda x, **how: sought.append(how["q"]) or lowrank(x, **how))
    found = principal_axes(larger, 40)
    assert sought == [60, 60]
    both = torch.cat([larger, larger.flip(3)]).flatten(1).double()
    pca = PCA(40, svd_solver="full").fit(both.numpy())
    kept = ((both - both.mean(0)) @ found.axes.double()).square().sum(1).mean().item()
    assert kept > 0.999 * pca.explained_variance_.sum() * (len(both) - 1) / len(both)
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(40), atol=1e-5, rtol=0)


def test_no_random_number_of_the_caller_is_used_and_every_call_finds_the_same(larger):
    state = torch.get_rng_state()
    first, second = principal_axes(larger, 40), principal_axes(larger, 40)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.axes, second.axes)


def test_few_images_have_few_axes_and_the_others_are_zero(images):
    found = principal_axes(images[:3], 10)
    assert found.axes.shape == (192, 10)
    assert (found.axes.norm(dim=0) > 0.5).sum() == 6
    assert float(found.variances[6:].abs().sum()) == 0
    assert float(found.rest) == pytest.approx(0, abs=1e-6)


def test_a_local_basis_spans_what_the_axes_span_as_near_as_can_be_to_what_is_wanted(images):
    axes = principal_axes(images, 12).axes.double()
    wanted = torch.eye(192, dtype=torch.float64)[:, 40:52]
    found = local_basis(axes, wanted)
    torch.testing.assert_close(found.T @ found, torch.eye(12).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found @ found.T, axes @ axes.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, axes @ torch.from_numpy(orthogonal_procrustes(axes, wanted)[0]))
    rotated = axes @ torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double())[0]
    torch.testing.assert_close(local_basis(rotated, wanted), found)  # however the axes are chosen


@pytest.mark.parametrize("count", [20, 192])
def test_the_variances_of_a_gaussian_are_those_of_the_first_tenth_along_the_axes_of_the_others(images, count):
    found, axes = fit_gaussian(images, count, 1e-9), principal_axes(images[40:], count)
    torch.testing.assert_close(found.mean, axes.mean)
    torch.testing.assert_close(found.axes, axes.axes)
    held = torch.cat([images[:40], images[:40].flip(3)]).flatten(1) - found.mean
    torch.testing.assert_close(found.variances, (held @ found.axes).square().mean(0), rtol=1e-3, atol=1e-6)
    rest = (held.square().sum(1).mean() - found.variances.sum()) / max(1, 192 - count)
    torch.testing.assert_close(found.rest, rest.clamp(min=1e-9), rtol=1e-2, atol=1e-5)


def test_the_variance_that_few_images_leave_is_shared_by_all_axes_that_they_lack(images):
    found = fit_gaussian(images[:40], 192, 1e-9)
    there = found.axes.norm(dim=0) > 0.5
    assert 0 < there.sum() < 100
    total = found.variances[there].sum() + (~there).sum() * found.rest
    held = torch.cat([images[:4], images[:4].flip(3)]).flatten(1) - found.mean
    torch.testing.assert_close(total, held.square().sum(1).mean(), rtol=1e-3, atol=0)


def test_no_variance_of_a_gaussian_is_less_than_the_least(images):
    found = fit_gaussian(images, 150, 0.02)
    assert found.variances.min() == pytest.approx(0.02)
    assert found.rest == pytest.approx(0.02)
    assert found.variances.max() > 0.5
