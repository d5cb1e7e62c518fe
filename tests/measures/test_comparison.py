import numpy as np
import pytest
from scipy.stats import norm

from visage.measures.comparison import ImageValues, mean_of_seeds, on_common_images, paired_difference, q_values

NOISE = np.random.default_rng(0).normal(0, 1, (2, 400))
ROWS = np.arange(400)


def values(array, rows=None):
    rows = np.arange(len(array)) if rows is None else rows
    return ImageValues(rows, np.asarray(array, np.float64), 100 + rows)


def test_the_paired_interval_is_that_of_the_mean_difference():
    """Images differ by 100 times as much as models: only the pairs tell them apart."""
    difference = 0.2 + NOISE[1]
    found = paired_difference(values(100 * NOISE[0] + difference), values(100 * NOISE[0]))
    assert (found.mean, found.n) == (pytest.approx(difference.mean()), 400)
    half = norm.ppf(0.975) * difference.std() / 20
    assert (found.low, found.high) == (
        pytest.approx(found.mean - half, abs=0.02),
        pytest.approx(found.mean + half, abs=0.02),
    )


def test_the_interval_is_the_same_at_every_call():
    first, second = (paired_difference(values(NOISE[0]), values(NOISE[1])) for _ in range(2))
    assert first == second


def test_pairs_are_formed_by_row_on_common_images():
    later = values(NOISE[0][100:300] + 1, ROWS[100:300])
    assert paired_difference(later, values(NOISE[0])) == pytest.approx((1, 1, 1, 200))
    shuffled = np.random.default_rng(1).permutation(400)
    assert paired_difference(values(NOISE[0][shuffled], shuffled), values(NOISE[0])) == (0, 0, 0, 400)


def test_images_of_one_person_are_resampled_together():
    """Four images a person, all alike: as sure as with a quarter of the images."""
    alike, who = np.repeat(NOISE[0][:100], 4), np.repeat(np.arange(100), 4)
    zero = ImageValues(ROWS, np.zeros(400), who)
    found = paired_difference(ImageValues(ROWS, alike, who), zero)
    half = norm.ppf(0.975) * alike.std() / 10
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    strangers = paired_difference(values(alike), values(np.zeros(400)))
    assert strangers.high - strangers.low == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("rows", [ROWS + 400, ROWS + 399])
def test_fewer_than_two_common_images_are_refused(rows):
    with pytest.raises(ValueError, match="in common"):
        paired_difference(values(NOISE[0]), values(NOISE[1], rows))


def test_all_are_cut_to_the_images_that_all_have():
    cut = on_common_images(
        [values([1, 2, 3]), values([30, 10, 20], np.array([2, 0, 1])), values([8, 9], np.array([2, 1]))]
    )
    assert [each.rows.tolist() for each in cut] == [[1, 2]] * 3
    assert [each.values.tolist() for each in cut] == [[2, 3], [20, 30], [9, 8]]
    assert [each.identity.tolist() for each in cut] == [[101, 102]] * 3


def test_seeds_are_averaged_image_by_image():
    mean = mean_of_seeds([values([1.0, 2.0, 6.0]), values([3.0, 2.0, 0.0])])
    assert mean.values.tolist() == [2, 2, 3]
    assert mean.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("other", [values([1.0, 2.0], np.array([0, 2])), values([1.0]), values([np.nan, 1.0])])
def test_seeds_of_other_images_or_without_finite_values_have_no_mean(other):
    assert mean_of_seeds([values([1.0, 2.0]), other]) is None


def test_q_values_are_those_of_benjamini_and_hochberg():
    found = q_values({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.2})
    assert found == pytest.approx({"a": 0.04, "b": 0.16 / 3, "c": 0.16 / 3, "d": 0.2})
    assert q_values({}) == {}
