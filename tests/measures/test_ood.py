import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import mahalanobis
from scipy.stats import gaussian_kde
from sklearn.metrics import roc_curve
from small_models import LinearVAE, Normalised, OnlySamples
from torch.distributions import MultivariateNormal

from visage.measures.intervals import auroc
from visage.evaluation.ood import (
    DoSE,
    Mahalanobis,
    PixelGaussian,
    PixelPCA,
    average_precision,
    baselines,
    complexity,
    fpr_at_95_tpr,
    gradient_norm,
    own_scores,
)

CPU = torch.device("cpu")


def ask(model, images, batch_size=7):
    with torch.no_grad():
        return own_scores(model.eval(), images, seed=0, device=CPU, batch_size=batch_size)


def trivial(images, train):
    return baselines(images, PixelGaussian.fit(train), PixelPCA.fit(train))


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
    found = PixelPCA.fit(train).errors(test)
    assert found == pytest.approx((((test[..., :2] - 7.0) / 255) ** 2).sum((1, 2, 3)) / 192, rel=1e-4)


def test_the_best_subspace_leaves_the_smallest_eigenvalues():
    rng = np.random.default_rng(0)
    scales = np.concatenate([np.full(64, 40.0), np.full(128, 4.0)])
    mixing, _ = np.linalg.qr(rng.normal(size=(192, 192)))
    values = 128 + (rng.normal(size=(600, 192)) * scales) @ mixing
    train = values.round().clip(0, 255).astype(np.uint8).reshape(600, 8, 8, 3)
    eigenvalues = np.linalg.eigvalsh(np.cov(train.reshape(600, -1) / 255, rowvar=False, bias=True))
    assert PixelPCA.fit(train).errors(train).mean() == pytest.approx(eigenvalues[:-64].sum() / 192, rel=1e-3)


def test_a_score_does_not_see_the_rest_of_its_batch(images, grey_images):
    pure = [ask(Normalised(), part)["norm"] for part in (images, grey_images)]
    mixed = np.random.default_rng(0).permutation(len(images) + len(grey_images))
    found = ask(Normalised(), np.concatenate([images, grey_images])[mixed], batch_size=5)["norm"]
    assert found == pytest.approx(np.concatenate(pure)[mixed], abs=1e-6)


def test_own_scores_keep_the_models_order(images):
    assert list(ask(LinearVAE(), images)) == ["length", "darkness"]


def test_a_model_without_scores(images):
    assert ask(OnlySamples(), images) == {}


def test_complexity_of_noise_is_what_a_model_needs_above_eight_bits():
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    stored = 768 + 2 + 5 + 4  # zlib keeps what it cannot shorten: header, block header, checksum (RFC 1950, 1951)
    assert complexity(np.full(3, 9.0), noise) == pytest.approx(9 - 8 * stored / 768, abs=1e-12)


def test_complexity_of_constant_images_is_nearly_their_likelihood():
    constant = np.broadcast_to(np.array([[0, 0, 0], [200, 30, 90]], np.uint8)[:, None, None], (2, 32, 32, 3))
    nll = np.array([0.5, 1.5])
    saved = nll - complexity(nll, constant)
    least = 3072 / 1032 + 6  # deflate shortens 1032-fold at most
    assert (saved > 8 * least / 3072).all()
    assert (saved < 0.1).all()


def test_complexity_takes_the_shorter_of_two_files():
    ramp = np.arange(32, dtype=np.uint8)
    smooth = (ramp[:, None, None] * np.array([3, 2, 1], np.uint8) + ramp[:, None] * np.uint8(4))[None]
    file = io.BytesIO()
    Image.fromarray(smooth[0]).save(file, format="PNG", optimize=True)  # rows as differences: zlib alone cannot do that
    assert complexity(np.zeros(1), smooth) == pytest.approx(-8 * len(file.getvalue()) / 3072, abs=1e-12)


def test_gradient_norm_of_a_gaussian_is_that_of_its_whitened_residual():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    covariance = root @ root.T + torch.eye(12, dtype=torch.float64)
    mean, x = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    normal = MultivariateNormal(mean[0], covariance)
    with torch.no_grad():
        found = gradient_norm(lambda images: normal.log_prob(images.flatten(1)), x.reshape(5, 3, 2, 2))
    expected = torch.linalg.solve(covariance, (x - mean[0]).T).norm(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert not found.requires_grad
    assert not x.requires_grad


@pytest.mark.parametrize(
    "flat",
    [lambda x: (x * 127.5).round().square().flatten(1).sum(1), lambda x: torch.zeros(len(x))],
    ids=["rounds", "ignores"],
)
def test_a_likelihood_without_a_gradient_has_no_norm(flat):
    assert gradient_norm(flat, torch.rand(4, 3, 2, 2)).isnan().all()


def test_mahalanobis_is_that_of_scipy():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 3
    others = rng.normal(size=(300, 6)) * 5
    found = Mahalanobis.fit(features, shrinkage=0.2).distance(others)
    covariance = np.cov(features, rowvar=False, bias=True)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / 6 * np.eye(6)
    inverse = np.linalg.inv(shrunk)
    assert found == pytest.approx([mahalanobis(row, features.mean(0), inverse) for row in others], rel=1e-10)


def test_on_whitened_features_it_is_the_euclidean_distance():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(500, 8))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / 500)).T + 2  # covariance I, which shrinks to itself
    others = rng.normal(size=(50, 8)).astype(np.float32)
    assert Mahalanobis.fit(white).distance(others) == pytest.approx(np.linalg.norm(others - 2.0, axis=1), rel=1e-6)


def test_of_many_features_the_principal_ones_count():
    rng = np.random.default_rng(0)
    features = np.zeros((30, 600), np.float32)
    features[:, 100:103] = rng.normal(size=(30, 3)) * 10
    few = Mahalanobis.fit(features[:, 100:103].astype(np.float64), shrinkage=0.0)
    others = rng.normal(size=(20, 600)).astype(np.float32)
    found = Mahalanobis.fit(features, shrinkage=1e-9).distance(others * (np.abs(np.arange(600) - 101) < 2))
    assert found == pytest.approx(few.distance(others[:, 100:103]), rel=1e-3)
    assert np.isfinite(Mahalanobis.fit(features).distance(others)).all()


def test_a_feature_that_is_no_number_is_no_distance():
    fitted = Mahalanobis.fit(np.random.default_rng(0).normal(size=(20, 3)))
    found = fitted.distance(np.array([[math.nan, 0, 0], [0.0, 0, 0]]))
    assert np.isnan(found).tolist() == [True, False]
    with pytest.raises(ValueError, match="NaN"):
        Mahalanobis.fit(np.array([[math.nan], [1.0]]))


def test_density_of_states_is_that_of_scipys_kernels():
    rng = np.random.default_rng(0)
    valid = {"nll": rng.normal(3, 0.5, 200), "rate": rng.gamma(2, 10, 200).astype(np.float32)}
    others = {"nll": rng.normal(3, 1, 300), "rate": rng.gamma(3, 10, 300).astype(np.float32)}
    expected = -sum(gaussian_kde(valid[name], "silverman").logpdf(others[name]) for name in valid)
    assert DoSE.fit(valid).score(others) == pytest.approx(expected, rel=1e-9)


def test_far_off_it_grows_as_the_nearest_kernel_does():
    valid = np.random.default_rng(0).normal(size=100)
    far = np.array([1e3, 1e6, 1e9])
    width = valid.std(ddof=1) * 75**-0.2
    expected = ((far - valid.max()) / width) ** 2 / 2 + math.log(100 * width * math.sqrt(2 * math.pi))
    assert DoSE.fit({"nll": valid}).score({"nll": far}) == pytest.approx(expected, rel=1e-9)


def test_no_value_is_too_far_off_to_be_ranked():
    valid = np.random.default_rng(0).normal(size=100)
    found = DoSE.fit({"a": valid, "b": valid}).score(
        {"a": np.array([0, 5, 1e100, 1e200, math.inf, math.nan]), "b": np.zeros(6)}
    )
    assert np.isfinite(found[:5]).all()
    assert (np.diff(found[:3]) > 0).all()
    assert found[2] < found[3] == found[4]
    assert np.isnan(found[5])


def test_a_statistic_without_spread_is_left_out():
    valid = np.random.default_rng(0).normal(size=50)
    constant = np.full(50, 11.25) + np.float32(1e-6) * valid
    found = DoSE.fit({"a": valid, "b": constant}).score({"a": valid, "b": valid})
    assert found.tolist() == DoSE.fit({"a": valid}).score({"a": valid}).tolist()
    assert DoSE.fit({"b": np.zeros(50)}).score({"b": valid}).tolist() == [0.0] * 50
    with pytest.raises(ValueError, match="nll of validation faces is not finite"):
        DoSE.fit({"nll": np.array([1.0, math.inf])})


def test_average_precision_by_hand():
    test, ood = np.array([1.0, 3.0]), np.array([2.0, 4.0])  # from the top: ood, face, ood, face
    assert average_precision(test, ood) == pytest.approx((1 / 1 + 2 / 3) / 2, abs=1e-12)
    assert average_precision(ood, test) == pytest.approx((1 / 2 + 2 / 4) / 2, abs=1e-12)
    assert average_precision(np.zeros(30), np.zeros(10)) == 0.25


def test_false_alarms_by_hand():
    ood = np.arange(20.0)  # the threshold that finds 19 of 20 is 1
    test = np.array([0.0, 0.5, 1.0, 7.0])
    assert fpr_at_95_tpr(test, ood) == 0.5
    assert fpr_at_95_tpr(np.full(7, -1.0), ood) == 0.0
    assert fpr_at_95_tpr(np.zeros(7), np.zeros(5)) == 1.0
    assert fpr_at_95_tpr(np.arange(100.0), np.arange(100.0)) == 0.95


def test_false_alarms_lie_on_the_curve_of_sklearn():
    rng = np.random.default_rng(0)
    test, ood = rng.normal(size=300), rng.normal(1, 1, size=200)
    false, true, _ = roc_curve(np.arange(500) >= 300, np.concatenate([test, ood]), drop_intermediate=False)
    assert fpr_at_95_tpr(test, ood) == false[true >= 0.95].min()


@pytest.mark.parametrize("figure", [average_precision, fpr_at_95_tpr])
def test_infinity_is_a_rank_and_nan_is_none(figure):
    test, ood = np.array([-math.inf, 1.0, math.inf]), np.array([2.0, math.inf])
    assert figure(test, ood) == figure(np.array([0.0, 1.0, 9.0]), np.array([2.0, 9.0]))
    with pytest.raises(ValueError, match="NaN"):
        figure(test, np.array([math.nan]))
    with pytest.raises(ValueError, match="NaN"):
        figure(np.array([math.nan]), ood)
