import math
import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from visage.measures.intervals import auroc, auroc_interval, mean_interval, resample, unrelated

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
    counts = (
        resample(unrelated(len(test)), 10, np.random.default_rng(0)),
        resample(unrelated(len(ood)), 10, np.random.default_rng(0)),
    )
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array(test), np.array(ood))
    with pytest.raises(ValueError, match="NaN"):
        auroc_interval(np.array(test), np.array(ood), *counts)


def test_resamples_have_the_size_of_the_sample():
    counts = resample(unrelated(17), 250, np.random.default_rng(0))
    assert counts.shape == (250, 17)
    assert (counts.sum(1) == 17).all()


@pytest.mark.parametrize("name", ["random", "tied", "inverted"])
def test_the_interval_is_that_of_resampled_scores(name):
    """Against AUROCs of the repeated scores themselves, for 300 and 200 images."""
    test, ood = SCORES[name](np.random.default_rng(0))
    a = resample(unrelated(len(test)), 1000, np.random.default_rng(1))
    b = resample(unrelated(len(ood)), 1000, np.random.default_rng(2))
    expected = [auroc(test.repeat(i), ood.repeat(j)) for i, j in zip(a, b, strict=True)]
    assert auroc_interval(test, ood, a, b) == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])), abs=0.002)


def test_where_all_scores_are_equal_so_are_the_ends_of_the_interval():
    test, ood = SCORES["constant"](np.random.default_rng(0))
    counts = [resample(unrelated(len(part)), 50, np.random.default_rng(1)) for part in (test, ood)]
    assert auroc_interval(test, ood, *counts) == (0.5, 0.5)


def test_where_no_image_is_on_the_wrong_side_the_rule_of_three_says_how_sure_that_is():
    few, many = np.zeros(16), np.ones(400)
    counts = [resample(unrelated(len(part)), 50, np.random.default_rng(1)) for part in (few, many)]
    assert auroc_interval(few, many, *counts) == (1 - 3 / 16, 1)
    assert auroc_interval(many, few, *counts[::-1]) == (0, 3 / 16)
    assert auroc_interval(few[:2], many, counts[0][:, :2], counts[1]) == (0, 1)


def test_the_interval_depends_on_the_order_of_scores_alone():
    test, ood = SCORES["random"](np.random.default_rng(3))
    counts = (
        resample(unrelated(300), 100, np.random.default_rng(1)),
        resample(unrelated(200), 100, np.random.default_rng(2)),
    )
    assert auroc_interval(test, ood, *counts) == auroc_interval(np.exp(test), np.exp(ood), *counts)
    low, high = auroc_interval(test, ood, *counts)
    assert auroc_interval(-test, -ood, *counts) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("shift", "se"), [(0.0, 0.018), (1.812, 0.010)])
def test_its_width_is_that_of_hanley_and_mcneil(shift, se):
    """At areas of .5 and .9 with 500 images each (Hanley & McNeil 1982, Radiology 143(1))."""
    rng = np.random.default_rng(0)
    test, ood = rng.normal(size=500), rng.normal(shift, 1, size=500)
    low, high = auroc_interval(test, ood, *[resample(unrelated(500), 1000, rng) for _ in range(2)])
    assert (high - low) / 3.92 == pytest.approx(se, rel=0.15)


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    counts = resample(unrelated(100), 200, rng), resample(unrelated(100), 200, rng)
    truth = 0.5 * (1 + math.erf(0.5))  # of two unit normals one apart
    hits = 0
    for _ in range(200):
        low, high = auroc_interval(rng.normal(size=100), rng.normal(1, 1, size=100), *counts)
        hits += low <= truth <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, size=400)
    low, high = mean_interval(values, resample(unrelated(400), 1000, rng))
    assert low < values.mean() < high
    assert (high - low) / 3.92 == pytest.approx(values.std() / 20, rel=0.1)


def test_two_thousand_resamples_of_a_thousand_images_are_quick():
    rng = np.random.default_rng(0)
    started = time.process_time()
    counts = resample(unrelated(1000), 2000, rng), resample(unrelated(1000), 2000, rng)
    auroc_interval(rng.normal(size=1000), rng.normal(size=1000), *counts)
    assert time.process_time() - started < 2


# --- several images of one person -------------------------------------------------------------------------------------


def test_a_person_is_drawn_with_all_images_and_strangers_one_by_one():
    identity = np.array([7, -1, 7, 3, -1, 7])
    counts = resample(identity, 500, np.random.default_rng(0)).astype(int)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 0] == counts[:, 5]).all()
    assert (counts[:, 1] != counts[:, 4]).any()
    assert (counts[:, [0, 1, 3, 4]].sum(1) == 4).all()  # four people in each resample of four people
    assert counts.mean(0) == pytest.approx([1] * 6, abs=0.1)


def people(rng, n, images, alike):
    """Values of n people with so many images each, of variance 1 and this correlation within a person."""
    person = np.repeat(rng.normal(size=n), images)
    return math.sqrt(alike) * person + math.sqrt(1 - alike) * rng.normal(size=n * images)


def test_with_several_images_of_a_person_the_mean_is_covered_as_often_as_it_says():
    """100 people with 5 images each, correlation .5: the variance of the mean is 3 times that of 500 strangers."""
    rng, identity = np.random.default_rng(0), np.repeat(np.arange(100), 5)
    counts = {name: resample(who, 400, rng) for name, who in (("known", identity), ("unknown", unrelated(500)))}
    hits = dict.fromkeys(counts, 0)
    for _ in range(300):
        values = people(rng, 100, 5, 0.5)
        for name, drawn in counts.items():
            low, high = mean_interval(values, drawn)
            hits[name] += low <= 0 <= high
    assert 0.9 <= hits["known"] / 300 <= 0.98
    assert hits["unknown"] / 300 < 0.82  # what is seen of images that count as unrelated


def test_with_several_images_of_a_person_the_auroc_is_covered_as_often_as_it_says():
    rng, identity = np.random.default_rng(0), np.repeat(np.arange(60), 5)
    known, strangers = resample(identity, 300, rng), resample(unrelated(300), 300, rng)
    others = resample(unrelated(400), 300, rng)
    truth, hits = 0.5 * (1 + math.erf(0.5)), {"known": 0, "unknown": 0}
    for _ in range(200):
        test, ood = people(rng, 60, 5, 0.6), rng.normal(1, 1, size=400)
        for name, drawn in (("known", known), ("unknown", strangers)):
            low, high = auroc_interval(test, ood, drawn, others)
            hits[name] += low <= truth <= high
    assert 0.89 <= hits["known"] / 200 <= 0.99
    assert hits["unknown"] / 200 < 0.85


def test_resamples_of_pairs_keep_what_belongs_together():
    """A score that does not change is told from itself exactly half of the time, in every resample."""
    rng = np.random.default_rng(0)
    score, counts = rng.normal(size=80), resample(np.repeat(np.arange(40), 2), 200, rng)
    assert auroc_interval(score, score, counts, counts) == pytest.approx((0.5, 0.5), abs=1e-12)
    low, high = auroc_interval(score, score, counts, resample(unrelated(80), 200, rng))
    assert high - low > 0.1


def test_resamples_without_any_image_of_a_set_do_not_count():
    counts = np.array([[1, 1, 2], [2, 2, 0], [1, 2, 1]], np.uint16)
    assert auroc_interval(np.array([0.0, 1.0]), np.array([0.5]), counts[:, :2], counts[:, 2:]) == pytest.approx(
        tuple(np.percentile([1 / 2, 1 / 3], [2.5, 97.5]))
    )
    assert mean_interval(np.array([5.0]), counts[:, 2:]) == (5, 5)
