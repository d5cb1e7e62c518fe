import math
from math import comb

import numpy as np
import pytest

from visage.measures.enrichment import (
    adjusted_odds_ratio,
    enrichment,
    log_odds_ratio,
    odds_ratio_intervals,
    permutation_tests,
)
from visage.measures.intervals import resample, unrelated


def compared(values, attributes, covariates=None, identity=None, seed=0):
    """`enrichment` with names a, b, c ..., without covariates and with strangers unless told otherwise."""
    n = len(values)
    identity = unrelated(n) if identity is None else identity
    counts = resample(identity, 400, np.random.default_rng(1)) if n else np.zeros((400, 0), np.uint16)
    covariates = np.zeros((n, 1)) if covariates is None else covariates
    names = list("abcdefgh"[: attributes.shape[1]])
    return enrichment(
        "recon_mse",
        np.asarray(values, np.float64),
        attributes,
        names,
        covariates,
        identity,
        counts,
        np.random.default_rng(seed),
    )


def table(worst_with, worst, having, n):
    """Worst or not (n,), and an attribute (n, 1), with these counts."""
    is_worst = np.arange(n) < worst
    attribute = np.zeros((n, 1), np.uint8)
    attribute[:worst_with] = 1
    attribute[worst : worst + having - worst_with] = 1
    return is_worst, attribute


def row(worst_with, worst, having, n):
    """The comparison of the worst 5 % of n strangers with these counts."""
    is_worst, attribute = table(worst_with, worst, having, n)
    (found,) = compared(is_worst, attribute).rows
    assert worst == round(0.05 * n)
    return found


def fisher(worst_with, worst, having, n):
    """Two-sided: all tables that are no likelier than this one, in whole numbers."""
    ways = {a: comb(having, a) * comb(n - having, worst - a) for a in range(min(worst, having) + 1)}
    return sum(w for w in ways.values() if w <= ways[worst_with]) / comb(n, worst)


def draw(rng, n, prevalence, odds_ratio, attributes=1):
    """Values whose worst 5 % have the first attribute so much more often; the other attributes are chance."""
    with_ = (rng.random((n, attributes)) < prevalence).astype(np.uint8)
    odds = np.where(with_[:, 0] == 1, odds_ratio, 1.0)
    p = 0.05 * odds / (1 + 0.05 * (odds - 1))
    return (rng.random(n) < p) + 1e-3 * rng.random(n), with_


def test_the_calibration_of_the_protocol():
    """500 worst of 10,000: 54 with eyeglasses (6.5 %) are 4 standard deviations too many; 1.5 is lost on the bald."""

    def compare(*counts):
        worst, attribute = table(*counts)
        numbers = np.array(counts)
        ratio = np.exp(log_odds_ratio(numbers[:1], numbers[1], numbers[2:3], numbers[3]))[0]
        p, _ = permutation_tests(worst, attribute, unrelated(len(worst)), np.random.default_rng(0), 400)
        return ratio, p[0]

    sd = math.sqrt(500 * 0.065 * 0.935 * 9500 / 9999)
    assert sd == pytest.approx(5.4, abs=0.05)
    assert (54 - 500 * 0.065) / sd == pytest.approx(4, abs=0.01)
    ratio, p = compare(54, 500, 650, 10_000)
    assert ratio == pytest.approx(1.8, abs=0.03)
    assert p < 0.01
    ratio, p = compare(16, 500, 220, 10_000)
    assert ratio == pytest.approx(1.5, abs=0.06)
    assert p > 0.05


def test_the_odds_ratio_is_haldanes_and_its_interval_about_woolfs():
    """Woolf 1955: a normal approximation of the log, for images that are unrelated."""
    found = row(20, 50, 200, 1000)  # 20 30 | 180 770
    assert found.odds_ratio == pytest.approx(20.5 * 770.5 / (30.5 * 180.5), rel=1e-12)
    half = 1.959964 * math.sqrt(1 / 20.5 + 1 / 30.5 + 1 / 180.5 + 1 / 770.5)
    low, high = np.log(found.ci95)
    assert (low, high) == pytest.approx(
        (math.log(found.odds_ratio) - half, math.log(found.odds_ratio) + half), abs=0.15 * half
    )
    assert found.rest_with == 180
    empty = row(0, 50, 200, 1000)
    assert empty.odds_ratio == pytest.approx(0.5 * 750.5 / (50.5 * 200.5), rel=1e-12)


@pytest.mark.parametrize("counts", [(20, 50, 200, 1000), (4, 25, 150, 500), (13, 25, 250, 500)])
def test_p_is_about_fishers_where_nobody_is_seen_twice(counts):
    expected = fisher(*counts)
    error = math.sqrt(expected * (1 - expected) / 20_000)
    assert row(*counts).p == pytest.approx(expected, rel=0.15, abs=4 * error + 1e-4)


def test_what_is_rare_or_nearly_everywhere_is_not_tested_and_says_so():
    rare, common, enough = row(9, 50, 99, 1000), row(45, 50, 901, 1000), row(5, 50, 100, 1000)
    assert (rare.p, rare.tested) == (None, False)
    assert rare.reason == "too few images: 5.0 with it expected among the 50 worst"  # 4.95
    assert common.reason == "too few images: 5.0 without it expected among the 50 worst"
    assert (enough.tested, enough.reason) == (True, "")


def test_a_planted_odds_ratio_of_3_is_recovered_and_its_interval_covers_it():
    rng, estimates, hits = np.random.default_rng(0), [], 0
    counts = resample(unrelated(2000), 200, rng)
    for _ in range(150):
        values, attributes = draw(rng, 2000, 0.3, 3.0)
        worst = values > 1
        table_counts = attributes[worst].sum(0, dtype=np.int64), int(worst.sum()), attributes.sum(0, dtype=np.int64)
        estimates += list(log_odds_ratio(*table_counts, len(worst)))
        ((low, high),) = odds_ratio_intervals(worst, attributes, counts)
        hits += low <= 3 <= high
    assert np.exp(np.mean(estimates)) == pytest.approx(3, rel=0.04)
    assert 0.9 <= hits / 150 <= 0.99


# --- several images of one person -------------------------------------------------------------------------------------


def of_people(rng, people, images):
    """Values and an attribute that are much alike in all images of a person, and have nothing to do with each other."""
    person = np.repeat(np.arange(people), images)
    values = rng.normal(size=people)[person] + 0.7 * rng.normal(size=people * images)
    trait = rng.normal(size=people)[person] + 0.5 * rng.normal(size=people * images)
    return values, (trait > 0.5).astype(np.uint8)[:, None], person


def test_chance_alone_gives_a_small_p_as_often_as_it_says_and_fishers_test_more_often():
    rng, p = np.random.default_rng(0), {"people": [], "images": []}
    for _ in range(300):
        values, attribute, person = of_people(rng, 100, 5)
        worst = values >= np.sort(values)[-25]
        for name, identity in (("people", person), ("images", unrelated(500))):
            p[name].append(permutation_tests(worst, attribute, identity, rng, permutations=200)[0][0])
    assert 0.02 <= np.mean(np.array(p["people"]) < 0.05) <= 0.08
    assert np.mean(np.array(p["images"]) < 0.05) > 0.12


def test_the_interval_of_people_is_wider_than_that_of_images_and_covers_1():
    rng, hits = np.random.default_rng(0), {"people": 0, "images": 0}
    person = np.repeat(np.arange(60), 10)
    counts = {"people": resample(person, 200, rng), "images": resample(unrelated(600), 200, rng)}
    for _ in range(200):
        values, attribute, _ = of_people(rng, 60, 10)
        worst = values >= np.sort(values)[-25]
        for name, drawn in counts.items():
            ((low, high),) = odds_ratio_intervals(worst, attribute, drawn)
            hits[name] += low <= 1 <= high
    assert hits["people"] / 200 >= 0.9
    assert hits["images"] / 200 < hits["people"] / 200 - 0.03


def test_people_with_different_numbers_of_images_exchange_nothing():
    """Where everyone has another number of images, the images as they are are the one permutation."""
    person = np.repeat(np.arange(8), np.arange(1, 9))
    worst = np.arange(36) < 10
    p, p_max = permutation_tests(worst, worst[:, None].astype(np.uint8), person, np.random.default_rng(0), 50)
    assert (p.tolist(), p_max) == ([1.0], 1.0)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_the_whole_finds_the_planted_attribute():
    rng = np.random.default_rng(1)
    values, attributes = draw(rng, 2000, [0.2, 0.2, 0.5, 0.1], 4.0, attributes=4)
    found = compared(values, attributes, rng.normal(size=(2000, 2)))
    assert (found.measure, found.n, found.worst) == ("recon_mse", 2000, 100)
    assert found.rows[0].p == 1 / 20_001  # not once in all permutations
    assert found.rows[0].p == min(r.p for r in found.rows)
    assert found.rows[0].worst_with == attributes[np.argsort(-values)[:100], 0].sum()
    assert found.rows[0].ci95[0] < 4 < found.rows[0].ci95[1]
    assert found.p_max < 0.001
    # covariates that have nothing to do with it change nothing
    assert found.rows[0].adjusted_odds_ratio == pytest.approx(found.rows[0].odds_ratio, rel=0.03)


def test_without_covariates_the_adjusted_odds_ratio_is_the_plain_one():
    worst, attribute = table(20, 50, 200, 1000)
    found = adjusted_odds_ratio(worst, attribute[:, 0], np.zeros((1000, 1)))
    assert found == pytest.approx(20 * 770 / (30 * 180), rel=1e-5)


def test_adjusting_takes_away_what_a_confounder_explains():
    rng = np.random.default_rng(0)
    texture = rng.normal(size=20_000)
    hat = (rng.random(20_000) < 1 / (1 + np.exp(1 - texture))).astype(np.uint8)
    worst = rng.random(20_000) < 1 / (1 + np.exp(3.5 - texture))  # of the texture alone
    plain = log_odds_ratio(
        hat[worst].sum(keepdims=True, dtype=np.int64), int(worst.sum()), hat.sum(keepdims=True), 20_000
    )
    assert np.exp(plain[0]) > 1.8
    adjusted = adjusted_odds_ratio(worst, hat, np.column_stack([50 + 9 * texture, rng.normal(size=20_000)]))
    assert adjusted == pytest.approx(1, abs=0.15)


def test_where_the_likelihood_has_no_maximum_there_is_no_adjusted_odds_ratio():
    rng = np.random.default_rng(0)
    worst, attribute = table(0, 50, 200, 1000)
    assert adjusted_odds_ratio(worst, attribute[:, 0], rng.normal(size=(1000, 1))) is None
    worst, attribute = table(20, 50, 200, 1000)
    assert adjusted_odds_ratio(worst, attribute[:, 0], worst[:, None] + rng.random((1000, 1)) / 2) is None


def test_the_permutation_p_is_that_of_fisher_for_a_symmetric_table():
    """One attribute that half of the images have: both tails are as long."""
    worst, attribute = table(26, 40, 200, 400)
    p, p_max = permutation_tests(worst, attribute, unrelated(400), np.random.default_rng(0), 2000)
    expected = fisher(26, 40, 200, 400)
    assert p_max == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 2000))
    assert p.tolist() == [p_max]
    assert permutation_tests(worst, attribute[:, :0], unrelated(400), np.random.default_rng(0))[1] is None


def test_the_permutation_p_knows_how_many_attributes_there_were_to_choose_from():
    rng = np.random.default_rng(0)
    worst = np.arange(400) < 40
    attributes = (rng.random((400, 30)) < 0.5).astype(np.uint8)

    def p_max(columns, seed):
        found = permutation_tests(rng.permutation(worst), columns, unrelated(400), np.random.default_rng(seed), 200)
        return found[1]

    assert 0.35 <= np.mean([p_max(attributes, seed) for seed in range(40)]) <= 0.65  # uniform where chance is all
    # a copy of an attribute is no further choice
    doubled, single = (
        permutation_tests(worst, attributes[:, columns], unrelated(400), np.random.default_rng(1), 200)
        for columns in ([0, 0, 0], [0])
    )
    assert doubled[1] == single[1]


def test_images_without_a_finite_value_are_left_out():
    rng = np.random.default_rng(0)
    values, attributes = draw(rng, 1000, 0.3, 3.0)
    bad = rng.permutation(1000)[:150]
    values[bad] = np.where(np.arange(150) % 2, math.nan, math.inf)
    kept = np.delete(np.arange(1000), bad)
    found, alone = compared(values, attributes), compared(values[kept], attributes[kept])
    assert (found.n, found.worst) == (850, 42)
    assert [(r.odds_ratio, r.p, r.worst_with) for r in found.rows] == [
        (r.odds_ratio, r.p, r.worst_with) for r in alone.rows
    ]


@pytest.mark.parametrize("values", [[], [math.nan] * 5, [1.0] * 9])
def test_where_there_is_nothing_to_compare_nothing_is_tested(values):
    found = compared(values, np.ones((len(values), 2), np.uint8))
    assert found.p_max is None
    assert [r.tested for r in found.rows] == [False, False]
    assert all(math.isfinite(end) for r in found.rows for end in r.ci95)
    assert compared(np.zeros(3), np.ones((3, 0), np.uint8)).rows == []


def test_attributes_that_are_not_tested_are_not_adjusted():
    rng = np.random.default_rng(0)
    values, attributes = draw(rng, 1000, [0.3, 0.01], 3.0, attributes=2)
    found = compared(values, attributes, rng.normal(size=(1000, 1)))
    assert (found.n, found.worst) == (1000, 50)
    assert found.rows[0].adjusted_odds_ratio > 1
    assert found.rows[1].adjusted_odds_ratio is None
