import math

import numpy as np
import pytest

from visage.measures.disentanglement import MOST_LATENTS, dci, disentanglement, mig, sap

TRAIN, TEST = 500, 250


KINDS = [False, False, False, True, True]


@pytest.fixture(scope="module")
def factors():
    """Three continuous factors, a pair and three classes; independent."""
    rng = np.random.default_rng(0)
    n = TRAIN + TEST
    return np.column_stack([rng.uniform(-1, 1, (n, 3)), rng.random(n) < 0.3, rng.integers(0, 3, n)])


def judged(z, factors, kinds=KINDS):
    return disentanglement(z[:TRAIN], factors[:TRAIN], z[TRAIN:], factors[TRAIN:], kinds)


def gaps(z, factors, kinds):
    """MIG and SAP of few rows, trained and tested on the same."""
    return mig(z, factors, z, factors, kinds), sap(z, factors, z, factors, kinds)


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
    assert judged(np.zeros((len(factors), MOST_LATENTS + 1)), factors) is None


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
    assert sap(z, y, z, y, [True]) == above_chance
    assert dci(z, y, z, y, [True]).informativeness == above_chance


def test_what_is_learned_is_judged_on_test_faces():
    y = np.repeat([0.0, 1.0], 20)[:, None]
    z = np.hstack([y, np.zeros_like(y)])
    assert sap(z, y, z, y, [True]) == 1
    assert sap(z, y, 1 - z, y, [True]) == 0
    assert dci(z, y, z, y, [True]).informativeness == 1
    assert dci(z, y, 1 - z, y, [True]).informativeness == 0
    assert dci(z, y, 1 - z, y, [False]).informativeness == 0


def test_one_latent_for_two_factors_is_complete_but_not_disentangled():
    pairs = np.array([(a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)] * 50)
    z = np.column_stack([pairs @ [1, 2], np.zeros(len(pairs))])
    found = dci(z, pairs, z, pairs, [True, False])
    assert found.disentanglement == pytest.approx(0, abs=1e-12)
    assert (found.completeness, found.informativeness) == (1, 1)
