import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from visage.measures.probes import MOST_DIMS, Standardised, faithfulness
from visage.measures.probes import probe as probe_standardised


def probe(train, train_labels, test, test_labels, names):
    standardised = Standardised.fit(train)
    return probe_standardised(standardised(train), train_labels, standardised(test), test_labels, names)


def labelled(n, gaps, dims, seed):
    """Codes N(0, 1), but for dimension i, whose mean is gaps[i] higher where attribute i is 1."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (n, len(gaps))).astype(np.uint8)
    x = rng.normal(size=(n, dims))
    x[:, : len(gaps)] += y * np.array(gaps)
    return x, y


def test_a_probe_finds_what_the_best_test_of_two_gaussians_finds():
    gaps = {"none": 0.0, "some": 1.0, "more": 2.0}
    train, test = labelled(1500, list(gaps.values()), 10, 0), labelled(3000, list(gaps.values()), 10, 1)
    found = probe(*train, *test, list(gaps))
    expected = {name: norm.cdf(gap / math.sqrt(2)) for name, gap in gaps.items()}
    assert found.auroc == pytest.approx(expected, abs=0.03)
    assert found.macro == pytest.approx(np.mean(list(found.auroc.values())), abs=1e-12)


def test_a_probe_is_a_logistic_regression_on_codes_standardised_by_training_codes():
    (x, y), (x_test, y_test) = labelled(300, [0.5, 1.0], 8, 0), labelled(200, [0.5, 1.0], 8, 1)
    x_test[:, 4:] *= 3
    found = probe(x * 100 - 5, y, x_test * 100 - 5, y_test, ["a", "b"])
    mean, std = x.mean(0), x.std(0)
    for i, name in enumerate("ab"):
        model = LogisticRegression(C=found.c, solver="newton-cholesky").fit((x - mean) / std, y[:, i])
        expected = roc_auc_score(y_test[:, i], model.decision_function((x_test - mean) / std))
        assert found.auroc[name] == pytest.approx(expected, abs=1e-3)


def test_the_penalty_is_chosen_on_training_faces():
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2, 500))
    y = (own > 0).astype(np.uint8)[:, None]
    # all dimensions alike, where the difference of the means is best; the small difference of two dimensions
    everywhere, hidden = rng.normal(size=(500, 200)) + 0.2 * y, np.column_stack([shared, shared + own / 10])
    for x, c in ((everywhere, 0.01), (hidden, 1.0)):
        assert probe(x[:400], y[:400], x[400:], y[400:], ["a"]).c == c


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("rare", [0, 1])
def test_attributes_with_fewer_than_five_faces_of_a_class_are_left_out(part, rare):
    x, y = labelled(200, [1.0, 1.0, 1.0], 4, 0)
    for column, n in ((1, 4), (2, 5)):
        rows = y[:100] if part == "train" else y[100:]
        rows[:, column] = 1 - rare
        rows[:n, column] = rare
    assert list(probe(x[:100], y[:100], x[100:], y[100:], ["a", "b", "c"]).auroc) == ["a", "c"]


def test_a_probe_without_attributes_has_no_mean():
    x, y = labelled(8, [1.0], 4, 0)
    found = probe(x, y, x, y, ["a"])
    assert found.auroc == {}
    assert math.isnan(found.macro)


def test_long_codes_are_probed_in_their_principal_components():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(400, 5)))[0].T
    (x, y), (x_test, y_test) = labelled(600, [2.0], 5, 1), labelled(600, [2.0], 5, 2)
    found = probe(x @ basis, y, x_test @ basis, y_test, ["a"])
    assert found.auroc["a"] == pytest.approx(probe(x, y, x_test, y_test, ["a"]).auroc["a"], abs=0.01)


def test_directions_that_training_codes_lack_do_not_count():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    (x, y), (x_test, y_test) = labelled(100, [3.0], 5, 1), labelled(200, [3.0], 5, 2)
    elsewhere = 0.3 * rng.normal(size=(200, 295)) @ basis[5:]
    found = probe(x @ basis[:5], y, x_test @ basis[:5] + elsewhere, y_test, ["a"])
    assert found.auroc["a"] > 0.85


def test_faithfulness_is_the_auroc_of_sklearn_where_both_were_wanted():
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 2, (60, 4)).astype(np.uint8)
    wanted[:, 1], wanted[:, 2] = 0, 1
    logits = (rng.normal(size=(60, 4)) + wanted).round(1).astype(np.float32)
    found = faithfulness(wanted, logits)
    expected = [roc_auc_score(wanted[:, i], logits[:, i]) for i in (0, 3)]
    assert found.auroc[[0, 3]] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found.auroc[[1, 2]]).all()
    assert found.macro == pytest.approx(np.mean(expected), abs=1e-12)
    assert math.isnan(faithfulness(wanted[:, 1:3], logits[:, 1:3]).macro)


@pytest.mark.parametrize("dims", [3, 2 * MOST_DIMS])
def test_codes_that_are_all_the_same_stay_finite(dims):
    train = np.full((30, dims), 0.25, np.float32)
    standardised = Standardised.fit(train)
    assert (standardised(train) == 0).all()
    assert np.isfinite(standardised(train + 1)).all()
