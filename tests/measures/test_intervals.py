import math
import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from visage.measures.intervals import auroc, auroc_interval, mean_interval, resample

SCORES = {
    "random": lambda rng: (rng.normal(size=300), rng.normal(0.7, 1.3, size=200)),
    "tied": lambda rng: (rng.integers(0, 4, 300) / 1.0, rng.integers(1, 6, 200) / 1.0),
    "constant": lambda rng: (np.zeros(50), np.zeros(70)),
    "inverted": lambda rng: (rng.normal(3, 1, size=300), rng.normal(size=200)),
    "one each": lambda rng: (np.array([1.0]), np.array([2.0])),
}


@pytest.fixture(params=SCORES)
def scores(request):
    return SCORES[request.param](np.random.default_rng(0))


def test_auroc_is_that_of_sklearn(scores):
    test, ood = scores
    truth = np.concatenate([np.zeros(len(test)), np.ones(len(ood))])
    assert auroc(test, ood) == pytest.approx(roc_auc_score(truth, np.concatenate(scores)), abs=1e-12)


def test_the_other_sign_gives_the_complement(scores):
    test, ood = scores
    assert auroc(-test, -ood) == pytest.approx(1 - auroc(test, ood), abs=1e-12)


def test_infinity_is_the_most_ood_there_is():
    assert auroc(np.array([1.0, 2.0]), np.array([math.inf, math.inf])) == 1.0
    assert auroc(np.array([1.0, math.inf]), np.array([math.inf])) == 0.75


@pytest.mark.parametrize(("test", "ood"), [([math.nan, 1.0], [2.0]), ([1.0], [math.nan])])
def test_nan_is_refused(test, ood):
    counts = resample(len(test), 10, np.random.default_rng(0)), resample(len(ood), 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array(test), np.array(ood))
    with pytest.raises(ValueError, match="NaN"):
        auroc_interval(np.array(test), np.array(ood), *counts)


def test_resamples_have_the_size_of_the_sample():
    counts = resample(17, 250, np.random.default_rng(0))
    assert counts.shape == (250, 17)
    assert (counts.sum(1) == 17).all()


def test_every_resample_is_the_auroc_of_the_repeated_scores(scores):
    test, ood = scores
    a, b = resample(len(test), 1, np.random.default_rng(1)), resample(len(ood), 1, np.random.default_rng(2))
    expected = auroc(test.repeat(a[0]), ood.repeat(b[0]))
    assert auroc_interval(test, ood, a, b) == pytest.approx((expected, expected), abs=1e-12)


def test_the_interval_depends_on_the_order_of_scores_alone():
    test, ood = SCORES["random"](np.random.default_rng(3))
    counts = resample(300, 100, np.random.default_rng(1)), resample(200, 100, np.random.default_rng(2))
    assert auroc_interval(test, ood, *counts) == auroc_interval(np.exp(test), np.exp(ood), *counts)
    low, high = auroc_interval(test, ood, *counts)
    assert auroc_interval(-test, -ood, *counts) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("shift", "se"), [(0.0, 0.018), (1.812, 0.010)])
def test_its_width_is_that_of_hanley_and_mcneil(shift, se):
    """At areas of .5 and .9 with 500 images each (Hanley & McNeil 1982, Radiology 143(1))."""
    rng = np.random.default_rng(0)
    test, ood = rng.normal(size=500), rng.normal(shift, 1, size=500)
    low, high = auroc_interval(test, ood, resample(500, 1000, rng), resample(500, 1000, rng))
    assert (high - low) / 3.92 == pytest.approx(se, rel=0.15)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    counts = resample(100, 200, rng), resample(100, 200, rng)
    truth = 0.5 * (1 + math.erf(0.5))  # of two unit normals one apart
    hits = 0
    for _ in range(200):
        low, high = auroc_interval(rng.normal(size=100), rng.normal(1, 1, size=100), *counts)
        hits += low <= truth <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, size=400)
    low, high = mean_interval(values, resample(400, 1000, rng))
    assert low < values.mean() < high
    assert (high - low) / 3.92 == pytest.approx(values.std() / 20, rel=0.1)


def test_two_thousand_resamples_of_a_thousand_images_are_quick():
    rng = np.random.default_rng(0)
    started = time.process_time()
    auroc_interval(rng.normal(size=1000), rng.normal(size=1000), resample(1000, 2000, rng), resample(1000, 2000, rng))
    assert time.process_time() - started < 2
