import io
import math

import numpy as np
import pytest
from PIL import Image

from visage.measures.gaussian import FullGaussian
from visage.measures.image_statistics import PixelGaussian, baselines, code_lengths, log_variances
from visage.measures.intervals import auroc
from visage.measures.principal_components import LinearAutoencoder


def trivial(images, train):
    return baselines(images, PixelGaussian.fit(train), LinearAutoencoder.fit(train), FullGaussian.fit(train))


def test_grey_images_are_told_from_coloured_ones_by_chroma_alone(images, grey_images):
    faces, others = trivial(images, images), trivial(grey_images, images)
    assert (others["grey"] == 0).all()
    assert auroc(faces["grey"], others["grey"]) == 1.0
    assert auroc(faces["png_large"], others["png_large"]) == 1 - auroc(faces["png_small"], others["png_small"])


def test_baselines_are_what_they_say():
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, :4] = (200, 100, 50)
    found = trivial(image, np.concatenate([image, 255 - image]))
    assert found["grey"] == -(100 + 50) / 4
    assert found["dark"] == pytest.approx(-350 / 3 / 4)
    assert found["zeros"] == 0.75
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, format="PNG")
    assert found["png_large"] == len(file.getvalue()) == -found["png_small"]


def test_the_pixel_gaussian_is_the_normal_density_of_its_training_images(images):
    gaussian = PixelGaussian.fit(images)
    v = images.astype(np.float64)
    variance = v.var(0) + 1 / 12
    expected = 0.5 * ((v - v.mean(0)) ** 2 / variance + np.log(2 * np.pi * variance)).mean((1, 2, 3))
    assert gaussian.nats_per_dim(images) == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(PixelGaussian.fit(images[:1]).nats_per_dim(images)).all()


def test_a_mirrored_set_is_not_told_from_the_set(images):
    train = np.concatenate([images, images[:, :, ::-1]])
    faces, mirrored = trivial(images, train), trivial(images[:, :, ::-1], train)
    for name in ("grey", "dark", "zeros"):
        assert auroc(faces[name], mirrored[name]) == 0.5
    assert faces["pixel_gaussian"] == pytest.approx(mirrored["pixel_gaussian"], abs=1e-5)


def test_principal_components_leave_what_lies_across_them():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    train[..., :2] = 7  # 64 dimensions vary, as many as there are components
    test = rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    found = trivial(test, train)["pca_error"]
    assert found == pytest.approx((((test[..., :2] - 7.0) / 255) ** 2).sum((1, 2, 3)) / 192, rel=1e-4)


def test_noise_has_the_length_of_its_bytes_and_of_the_headers():
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    stored = 768 + 2 + 5 + 4  # zlib keeps what it cannot shorten: header, block header, checksum (RFC 1950, 1951)
    assert code_lengths(noise) == pytest.approx(8 * stored / 768, abs=1e-12)


def test_constant_images_have_next_to_no_length():
    constant = np.broadcast_to(np.array([[0, 0, 0], [200, 30, 90]], np.uint8)[:, None, None], (2, 32, 32, 3))
    least = 3072 / 1032 + 6  # deflate shortens 1032-fold at most
    assert (code_lengths(constant) > 8 * least / 3072).all()
    assert (code_lengths(constant) < 0.1).all()


def test_the_shorter_of_two_files_counts():
    ramp = np.arange(32, dtype=np.uint8)
    smooth = (ramp[:, None, None] * np.array([3, 2, 1], np.uint8) + ramp[:, None] * np.uint8(4))[None]
    file = io.BytesIO()
    Image.fromarray(smooth[0]).save(file, format="PNG", optimize=True)  # rows as differences: zlib alone cannot do that
    assert code_lengths(smooth) == pytest.approx(8 * len(file.getvalue()) / 3072, abs=1e-12)


def test_log_variances_are_those_of_the_levels():
    two = np.zeros((2, 4, 4, 3), np.uint8)
    two[1, :2] = 200  # half of the levels are 200, the others 0: a variance of 100^2
    assert log_variances(two) == pytest.approx([0, math.log(100**2 + 1)], abs=1e-12)
