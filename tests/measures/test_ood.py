import math

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.metrics import roc_curve

from visage.measures.ood import DoSE, Mahalanobis, average_precision, complexity, fpr_at_95_tpr


def test_complexity_is_what_a_model_needs_above_a_compressor():
    assert complexity(np.array([3.0, 0.5]), np.array([2.0, 0.75])).tolist() == [1.0, -0.25]


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


def test_density_of_states_is_the_mean_of_gaussian_kernels_of_silvermans_width():
    rng = np.random.default_rng(0)
    valid = {"nll": rng.normal(3, 0.5, 200), "rate": rng.gamma(2, 10, 200).astype(np.float32)}
    others = {"nll": rng.normal(3, 1, 300), "rate": rng.gamma(3, 10, 300).astype(np.float32)}
    expected = np.zeros(300)
    for name, centres in valid.items():
        values, width = others[name].astype(float), centres.std(ddof=1, dtype=float) * (3 * 200 / 4) ** -0.2
        kernels = norm.logpdf(values[:, None], centres.astype(float), width)
        expected -= logsumexp(kernels, axis=1, b=1 / 200)
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
    nothing = np.full(3, math.nan)
    assert np.isnan(DoSE.fit({"a": valid}).score({"a": nothing})).all()


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
