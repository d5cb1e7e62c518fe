import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from visage.data.face_factors import DISTRIBUTIONS, sample_factors
from visage.evaluation import codes

TRAIN, TEST = 500, 250


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
    found = codes.probe(*train, *test, list(gaps))
    expected = {name: norm.cdf(gap / math.sqrt(2)) for name, gap in gaps.items()}
    assert found.auroc == pytest.approx(expected, abs=0.03)
    assert found.macro == pytest.approx(np.mean(list(found.auroc.values())), abs=1e-12)


def test_a_probe_is_a_logistic_regression_on_codes_standardised_by_training_codes():
    (x, y), (x_test, y_test) = labelled(300, [0.5, 1.0], 8, 0), labelled(200, [0.5, 1.0], 8, 1)
    x_test[:, 4:] *= 3
    found = codes.probe(x * 100 - 5, y, x_test * 100 - 5, y_test, ["a", "b"])
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
        assert codes.probe(x[:400], y[:400], x[400:], y[400:], ["a"]).c == c


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("rare", [0, 1])
def test_attributes_with_fewer_than_five_faces_of_a_class_are_left_out(part, rare):
    x, y = labelled(200, [1.0, 1.0, 1.0], 4, 0)
    for column, n in ((1, 4), (2, 5)):
        rows = y[:100] if part == "train" else y[100:]
        rows[:, column] = 1 - rare
        rows[:n, column] = rare
    assert list(codes.probe(x[:100], y[:100], x[100:], y[100:], ["a", "b", "c"]).auroc) == ["a", "c"]


def test_a_probe_without_attributes_has_no_mean():
    x, y = labelled(8, [1.0], 4, 0)
    found = codes.probe(x, y, x, y, ["a"])
    assert found.auroc == {}
    assert math.isnan(found.macro)


def test_long_codes_are_probed_in_their_principal_components():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(400, 5)))[0].T
    (x, y), (x_test, y_test) = labelled(600, [2.0], 5, 1), labelled(600, [2.0], 5, 2)
    found = codes.probe(x @ basis, y, x_test @ basis, y_test, ["a"])
    assert found.auroc["a"] == pytest.approx(codes.probe(x, y, x_test, y_test, ["a"]).auroc["a"], abs=0.01)


def test_directions_that_training_codes_lack_do_not_count():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    (x, y), (x_test, y_test) = labelled(100, [3.0], 5, 1), labelled(200, [3.0], 5, 2)
    elsewhere = 0.3 * rng.normal(size=(200, 295)) @ basis[5:]
    found = codes.probe(x @ basis[:5], y, x_test @ basis[:5] + elsewhere, y_test, ["a"])
    assert found.auroc["a"] > 0.85


def test_chosen_factors_are_those_of_drawn_faces_and_of_the_right_kind():
    drawn = [sample_factors(0, i, i) for i in range(100)]
    chosen = codes.chosen_factors(list(DISTRIBUTIONS))
    assert 12 <= len(chosen) <= 20
    for factor in chosen:
        values = {getattr(face, factor.name) for face in drawn}
        whole = all(value == int(value) for value in values)
        assert len(values) > 1
        assert factor.categorical == whole, factor
    assert [factor.name for factor in codes.chosen_factors(["yaw", "skin", "other"])] == ["skin", "yaw"]
    assert codes.chosen_factors([]) == []


KINDS = [False, False, False, True, True]


@pytest.fixture(scope="module")
def factors():
    """Three continuous factors, a pair and three classes; independent."""
    rng = np.random.default_rng(0)
    n = TRAIN + TEST
    return np.column_stack([rng.uniform(-1, 1, (n, 3)), rng.random(n) < 0.3, rng.integers(0, 3, n)])


def judged(z, factors, kinds=KINDS):
    return codes.disentanglement(z[:TRAIN], factors[:TRAIN], z[TRAIN:], factors[TRAIN:], kinds)


def gaps(z, factors, kinds):
    """MIG and SAP of few rows, trained and tested on the same."""
    return codes.mig(z, factors, z, factors, kinds), codes.sap(z, factors, z, factors, kinds)


def test_one_latent_per_factor_is_disentangled(factors):
    found = judged(factors * [1, -2, 3, 4, 5] + 7, factors)
    assert all(value > 0.9 for value in found.values()), found
    assert all(value <= 1 + 1e-12 for value in found.values())


def test_a_rotation_entangles(factors):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    found = judged((factors - factors.mean(0)) / factors.std(0) @ rotation, factors)
    assert max(found[name] for name in ("mig", "sap")) < 0.3
    assert max(found[name] for name in ("dci_disentanglement", "dci_completeness")) < 0.5
    assert found["dci_informativeness"] > 0.5


def test_two_latents_per_factor_leave_no_gap_and_are_half_as_complete(factors):
    found = judged(np.hstack([factors, factors]), factors)
    assert found["mig"] == found["sap"] == 0
    assert found["dci_disentanglement"] > 0.95
    # a factor shared evenly by two of ten latents: 1 - log 2 / log 10
    assert found["dci_completeness"] == pytest.approx(1 - math.log10(2), abs=0.08)


def test_noise_tells_nothing(factors):
    found = judged(np.random.default_rng(2).normal(size=(len(factors), 8)), factors)
    assert all(0 <= value < 0.07 for value in found.values()), found


def test_latents_that_hardly_move_do_no_harm(factors):
    still = np.full((len(factors), 3), 0.3, np.float32)
    still[::2, 1] = np.nextafter(np.float32(0.3), np.float32(1))
    found, expected = judged(np.hstack([still, factors]), factors), judged(factors, factors)
    assert found == pytest.approx(expected, abs=0.01)
    assert found["sap"] == pytest.approx(expected["sap"], abs=1e-9)
    assert set(judged(still[:, :1], factors).values()) == {0.0}


def test_scores_are_the_same_each_time(factors):
    z = factors + np.random.default_rng(3).normal(size=factors.shape)
    assert judged(z, factors) == judged(z, factors)


def test_factors_that_do_not_vary_enough_are_left_out(factors):
    rare = np.zeros(len(factors))
    rare[TRAIN - 50 : TRAIN + 4] = 1  # four of them in the test part
    fixed = np.where(np.arange(len(factors)) < TRAIN, factors[:, 0], 0.5)  # constant in the test part
    more = np.column_stack([factors, rare, fixed])
    assert judged(factors, more, [*KINDS, True, False]) == judged(factors, factors)
    assert judged(factors, more[:, 5:], [True, False]) is None


def test_codes_of_many_dimensions_are_not_judged(factors):
    assert judged(np.zeros((len(factors), codes.MOST_LATENTS + 1)), factors) is None


def test_the_information_gap_of_a_noisy_copy():
    y = np.repeat([0.0, 1.0], 8)
    flipped = np.where(np.arange(16) % 4 == 0, 1 - y, y)  # a quarter of them
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert gaps(flipped[:, None], y[:, None], [True])[0] == pytest.approx(1 - entropy, abs=1e-12)
    assert gaps(np.column_stack([flipped, y]), y[:, None], [True])[0] == pytest.approx(entropy, abs=1e-12)


def test_continuous_factors_and_latents_have_twenty_bins():
    y = np.arange(400.0)[:, None]  # 20 values a bin
    halves = (y // 200) * 9 - 4  # known: 1 bit of log2(20)
    assert gaps(halves, y, [False])[0] == pytest.approx(1 / math.log2(20), abs=1e-12)
    assert gaps(y, y, [False])[0] == pytest.approx(1, abs=1e-12)


def test_predictability_is_the_squared_correlation_or_accuracy_above_chance():
    y, e = np.repeat([1.0, -1.0], 8), np.tile([1.0, -1.0], 8)  # uncorrelated
    assert gaps(np.column_stack([y + 2 * e, y + 3 * e]), y[:, None], [False])[1] == pytest.approx(1 / 5 - 1 / 10)
    flipped = np.where(np.arange(16) % 4 == 0, -y, y)  # balanced accuracy 3/4
    assert gaps(flipped[:, None], y[:, None], [True])[1] == pytest.approx(0.5)
    unequal = np.concatenate([y, np.ones(40)])[:, None]  # all right in one class, half right in the other
    guess = np.where((unequal[:, 0] < 0) & (np.arange(56) % 2 == 0), 1.0, unequal[:, 0])
    assert gaps(guess[:, None], unequal, [True])[1] == pytest.approx(0.5)


def test_rare_classes_weigh_as_much_as_common_ones():
    y = np.repeat([0.0, 1.0], [40, 10])[:, None]
    z = (np.arange(50) >= 24).astype(float)[:, None]  # all ten, and sixteen of the forty: they outnumber the ten
    above_chance = pytest.approx(1 + 24 / 40 - 1)
    assert codes.sap(z, y, z, y, [True]) == above_chance
    assert codes.dci(z, y, z, y, [True]).informativeness == above_chance


def test_what_is_learned_is_judged_on_test_faces():
    y = np.repeat([0.0, 1.0], 20)[:, None]
    z = np.hstack([y, np.zeros_like(y)])
    assert codes.sap(z, y, z, y, [True]) == 1
    assert codes.sap(z, y, 1 - z, y, [True]) == 0
    assert codes.dci(z, y, z, y, [True]).informativeness == 1
    assert codes.dci(z, y, 1 - z, y, [True]).informativeness == 0
    assert codes.dci(z, y, 1 - z, y, [False]).informativeness == 0


def test_one_latent_for_two_factors_is_complete_but_not_disentangled():
    pairs = np.array([(a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)] * 50)
    z = np.column_stack([pairs @ [1, 2], np.zeros(len(pairs))])
    found = codes.dci(z, pairs, z, pairs, [True, False])
    assert found.disentanglement == pytest.approx(0, abs=1e-12)
    assert (found.completeness, found.informativeness) == (1, 1)


def test_smoothness_of_known_paths():
    t = np.linspace(0, 1, 6)
    angle = t * math.pi / 2
    line, uneven = np.outer(t, [3, -4, 0]), np.outer(t**2, [1, 1, 1])
    circle = np.column_stack([np.cos(angle), np.sin(angle), 0 * t])
    jump = np.outer(t > 0.5, [0, 2, 1])
    found = codes.smoothness(np.stack([line, circle, jump, uneven]).astype(np.float32))
    chord = 4 * math.sin(math.pi / 20) ** 2  # squared, of each of the five steps
    steps = np.diff(t**2)
    assert found == pytest.approx([1, 25 * chord / 2, 5, 5 * (steps**2).sum()], rel=1e-5)


def test_smoothness_is_at_least_one_and_has_no_unit():
    paths = np.random.default_rng(0).normal(size=(50, 7, 4))
    found = codes.smoothness(paths)
    assert (found >= 1).all()
    assert codes.smoothness(paths * 1000 + 5) == pytest.approx(found)


def test_smoothness_of_paths_that_lead_nowhere():
    there_and_back = np.array([[[0.0], [1.0], [0.0]], [[2.0], [2.0], [2.0]]])
    found = codes.smoothness(there_and_back)
    assert math.isinf(found[0])
    assert math.isnan(found[1])


def test_faithfulness_is_the_auroc_of_sklearn_where_both_were_wanted():
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 2, (60, 4)).astype(np.uint8)
    wanted[:, 1], wanted[:, 2] = 0, 1
    logits = (rng.normal(size=(60, 4)) + wanted).round(1).astype(np.float32)
    found = codes.faithfulness(wanted, logits)
    expected = [roc_auc_score(wanted[:, i], logits[:, i]) for i in (0, 3)]
    assert found.auroc[[0, 3]] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(found.auroc[[1, 2]]).all()
    assert found.macro == pytest.approx(np.mean(expected), abs=1e-12)
    assert math.isnan(codes.faithfulness(wanted[:, 1:3], logits[:, 1:3]).macro)
