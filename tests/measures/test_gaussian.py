import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from visage.measures import gaussian
from visage.measures.gaussian import FullGaussian

SIDE = 4
DIMS = 3 * SIDE**2


def drawn(n, seed, size=SIDE):
    """Images around one mean whose pixels hang together, mirrored at random, in their middle levels."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 6)) @ (np.random.default_rng(99).normal(size=(6, 3 * size**2)) * 8)
    values += 120 + 3 * rng.normal(size=values.shape)
    images = values.reshape(n, size, size, 3)
    images[::2] = images[::2, :, ::-1]
    return images.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(params=[gaussian.MOST_DIMS, 12], ids=["whole", "low frequencies"])
def fitted(request, monkeypatch):
    monkeypatch.setattr(gaussian, "MOST_DIMS", request.param)
    return FullGaussian.fit(drawn(3000, 0))


def density(fitted):
    """The mean and the covariance of v + u, from samples of the transform's basis: (D,), (D, D)."""
    scale = {"even": fitted.blocks[0], "odd": fitted.blocks[1]}
    covariances, means = [], []
    for block in scale.values():
        inner = np.eye(len(block.mean))
        inner[np.ix_(block.low, block.low)] = block.directions.T @ np.diag(block.variances) @ block.directions
        covariances.append(np.diag(block.scale) @ inner @ np.diag(block.scale))
        means.append(block.mean)
    # the transform is linear: its matrix, from its values at black images with one pixel of level 1
    black = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    ones = np.eye(DIMS, dtype=np.uint8).reshape(DIMS, SIDE, SIDE, 3)
    matrix = np.subtract(*(np.concatenate(gaussian._transformed(gaussian._middles(x)), axis=1) for x in (ones, black)))
    matrix = matrix.T.astype(np.float64)  # (coefficients, pixels)
    assert matrix @ matrix.T == pytest.approx(np.eye(DIMS), abs=1e-5)
    inner = np.zeros((DIMS, DIMS))
    half = len(covariances[0])
    inner[:half, :half], inner[half:, half:] = covariances
    return matrix.T @ np.concatenate(means), matrix.T @ inner @ matrix


def test_bits_are_the_mean_log_density_of_dequantised_images(fitted):
    """Against scipy's density of N(mean, covariance) at many draws of u."""
    mean, covariance = density(fitted)
    test, rng = drawn(6, 1), np.random.default_rng(2)
    dequantised = test.reshape(6, 1, -1) + rng.random((6, 4000, DIMS))
    log_density = multivariate_normal(mean, covariance).logpdf(dequantised).mean(1)
    assert fitted.bits_per_dim(test) == pytest.approx(-log_density / DIMS / math.log(2), rel=2e-4)


def test_samples_have_the_mean_and_the_covariance_of_the_density(fitted):
    mean, covariance = density(fitted)
    values = fitted.sample(20_000, np.random.default_rng(0)).reshape(20_000, -1) + 0.5
    assert values.mean(0) == pytest.approx(mean, abs=1)
    spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs(np.cov(values.T) - covariance).max() < 0.05 * spread.max()


def test_no_gaussian_of_single_pixels_is_as_good():
    train, test = drawn(3000, 0), drawn(500, 1)
    values = train.reshape(len(train), -1) + 0.5
    variance = values.var(0) + 1 / 12
    log_density = -0.5 * ((test.reshape(500, -1) + 0.5 - values.mean(0)) ** 2 / variance + np.log(2 * np.pi * variance))
    bits = FullGaussian.fit(train).bits_per_dim(test).mean()
    assert bits < -log_density.mean() / math.log(2) - 0.5
    assert bits > FullGaussian.fit(test).bits_per_dim(train[:1]).mean() - 8  # a density, whatever it is fitted to


def test_a_face_and_its_mirror_image_are_equally_likely(fitted):
    test = drawn(20, 3)
    assert fitted.bits_per_dim(test) == pytest.approx(fitted.bits_per_dim(test[:, :, ::-1]), rel=1e-5)


def test_fewer_images_than_dimensions_do_for_unseen_images():
    """Variances of its own directions would give unseen images next to no likelihood."""
    few = FullGaussian.fit(drawn(40, 0))
    assert few.bits_per_dim(drawn(200, 1)).mean() < 8


def test_two_images_are_enough():
    assert np.isfinite(FullGaussian.fit(drawn(2, 0)).bits_per_dim(drawn(3, 1))).all()


def test_odd_sizes_have_a_middle_column():
    images = drawn(300, 0, size=5)
    fitted = FullGaussian.fit(images)
    assert fitted.sample(3, np.random.default_rng(0)).shape == (3, 5, 5, 3)
    assert fitted.bits_per_dim(images) == pytest.approx(fitted.bits_per_dim(images[:, :, ::-1]), rel=1e-5)


def test_no_more_values_are_used_than_said(monkeypatch):
    monkeypatch.setattr(gaussian, "MOST_VALUES", 100 * DIMS)
    images = drawn(1000, 0)
    assert np.array_equal(
        FullGaussian.fit(images).bits_per_dim(images[:5]), FullGaussian.fit(images[::10]).bits_per_dim(images[:5])
    )


@pytest.mark.parametrize("sigma", [2.0, 300.0])
def test_denoising_gives_the_posterior_mean_of_the_density(fitted, sigma):
    """E[x | y] = mean + C (C + sigma^2 I)^-1 (y - mean), pixel by pixel."""
    mean, covariance = density(fitted)
    noisy = drawn(5, 4).reshape(5, -1) + 0.5 + sigma * np.random.default_rng(5).normal(size=(5, DIMS))
    expected = mean + (noisy - mean) @ np.linalg.solve(covariance + sigma**2 * np.eye(DIMS), covariance)
    found = fitted.denoise(noisy.reshape(5, SIDE, SIDE, 3).astype(np.float32), sigma).reshape(5, -1)
    assert found == pytest.approx(expected, abs=0.05)


def test_denoising_leaves_the_error_that_the_covariance_says(fitted):
    mean, covariance = density(fitted)
    rng, sigma = np.random.default_rng(6), 20.0
    clean = rng.multivariate_normal(mean, covariance, 4000)
    noisy = (clean + sigma * rng.normal(size=clean.shape)).reshape(-1, SIDE, SIDE, 3).astype(np.float32)
    left = np.trace(covariance @ np.linalg.inv(covariance / sigma**2 + np.eye(DIMS))) / DIMS
    assert np.square(fitted.denoise(noisy, sigma).reshape(4000, -1) - clean).mean() == pytest.approx(left, rel=0.02)
