import math
from math import comb

import numpy as np
import pytest

from visage.measures.enrichment import (
    adjusted_odds_ratio,
    associations,
    enrichment,
    permutation_p,
)


def table(worst_with, worst, having, n):
    """Worst or not (n,), and an attribute (n, 1), with these counts."""
    is_worst = np.arange(n) < worst
    attribute = np.zeros((n, 1), np.uint8)
    attribute[:worst_with] = 1
    attribute[worst : worst + having - worst_with] = 1
    return is_worst, attribute


def row(*counts):
    (found,) = associations(*table(*counts), ["it"])
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
    glasses = row(54, 500, 650, 10_000)
    assert glasses.expected == 32.5
    sd = math.sqrt(500 * 0.065 * 0.935 * 9500 / 9999)
    assert sd == pytest.approx(5.4, abs=0.05)
    assert (glasses.worst_with - glasses.expected) / sd == pytest.approx(4, abs=0.01)
    assert glasses.odds_ratio == pytest.approx(1.8, abs=0.03)
    assert glasses.p < 0.001
    bald = row(16, 500, 220, 10_000)
    assert bald.expected == 11
    assert bald.odds_ratio == pytest.approx(1.5, abs=0.06)
    assert bald.p > 0.05


def test_odds_ratio_and_interval_are_those_of_haldane_and_woolf():
    found = row(20, 50, 200, 1000)  # 20 30 | 180 770
    assert found.odds_ratio == pytest.approx(20.5 * 770.5 / (30.5 * 180.5), rel=1e-12)
    half = 1.959964 * math.sqrt(1 / 20.5 + 1 / 30.5 + 1 / 180.5 + 1 / 770.5)
    assert np.log(found.ci95) == pytest.approx([math.log(found.odds_ratio) + s * half for s in (-1, 1)], rel=1e-9)
    assert found.rest_with == 180
    empty = row(0, 50, 200, 1000)
    assert empty.odds_ratio == pytest.approx(0.5 * 750.5 / (50.5 * 200.5), rel=1e-12)


@pytest.mark.parametrize("counts", [(20, 50, 200, 1000), (4, 25, 150, 500), (13, 25, 260, 500), (0, 30, 30, 120)])
def test_p_is_fishers_in_whole_numbers(counts):
    assert row(*counts).p == pytest.approx(fisher(*counts), rel=1e-9)


def test_what_is_rare_or_nearly_everywhere_is_not_tested_and_says_so():
    rare, common, enough = row(9, 50, 99, 1000), row(45, 50, 901, 1000), row(5, 50, 100, 1000)
    assert (rare.p, rare.tested) == (None, False)
    assert rare.reason == "too few images: 5.0 with it expected among the 50 worst"  # 4.95
    assert common.reason == "too few images: 5.0 without it expected among the 50 worst"
    assert (enough.tested, enough.reason) == (True, "")


def test_a_planted_odds_ratio_of_3_is_recovered_and_its_interval_covers_it():
    rng, estimates, hits = np.random.default_rng(0), [], 0
    for _ in range(200):
        values, attributes = draw(rng, 4000, 0.3, 3.0)
        (found,) = associations(values > 1, attributes, ["it"])
        estimates.append(math.log(found.odds_ratio))
        hits += found.ci95[0] <= 3 <= found.ci95[1]
    assert np.exp(np.mean(estimates)) == pytest.approx(3, rel=0.03)
    assert 0.91 <= hits / 200 <= 0.985


def test_chance_alone_hardly_ever_gives_a_small_p():
    """Fisher's test is exact, and conservative where counts are few: at most a share of p falls below p."""
    rng = np.random.default_rng(0)
    _, attributes = draw(rng, 1000, [0.2, 0.5], 1.0, attributes=2)
    worst = np.arange(1000) < 50
    p = np.array([[r.p for r in associations(rng.permutation(worst), attributes, list("ab"))] for _ in range(1000)])
    for level in (0.05, 0.2):
        assert level / 2 < (p < level).mean() < level + 3 * math.sqrt(level / 2000)


def test_the_whole_finds_the_planted_attribute():
    rng = np.random.default_rng(1)
    values, attributes = draw(rng, 6000, [0.2, 0.2, 0.5, 0.1], 3.0, attributes=4)
    found = enrichment("recon_mse", values, attributes, list("abcd"), rng.normal(size=(6000, 2)), rng)
    assert (found.measure, found.n, found.worst) == ("recon_mse", 6000, 300)
    assert found.rows[0].p < 1e-6
    assert found.rows[0].p == min(r.p for r in found.rows)
    assert found.rows[0].worst_with == attributes[np.argsort(-values)[:300], 0].sum()
    assert found.p_max < 0.01
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
    (plain,) = associations(worst, hat[:, None], ["hat"])
    assert plain.odds_ratio > 1.8
    adjusted = adjusted_odds_ratio(worst, hat, np.column_stack([50 + 9 * texture, rng.normal(size=20_000)]))
    assert adjusted == pytest.approx(1, abs=0.15)


def test_where_the_likelihood_has_no_maximum_there_is_no_adjusted_odds_ratio():
    rng = np.random.default_rng(0)
    worst, attribute = table(0, 50, 200, 1000)
    assert adjusted_odds_ratio(worst, attribute[:, 0], rng.normal(size=(1000, 1))) is None
    worst, attribute = table(20, 50, 200, 1000)
    assert adjusted_odds_ratio(worst, attribute[:, 0], worst[:, None] + rng.random((1000, 1)) / 2) is None


def test_the_permutation_p_is_that_of_fisher_for_a_symmetric_table():
    """One attribute that half of the images have: the largest |log odds ratio| is the two-sided tail."""
    worst, attribute = table(26, 40, 200, 400)
    found = permutation_p(worst, attribute, np.random.default_rng(0))
    expected = fisher(26, 40, 200, 400)
    assert found == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 1000))
    assert permutation_p(worst, attribute[:, :0], np.random.default_rng(0)) is None


def test_the_permutation_p_knows_how_many_attributes_there_were_to_choose_from():
    rng = np.random.default_rng(0)
    worst = np.arange(400) < 40
    attributes = (rng.random((400, 30)) < 0.5).astype(np.uint8)
    p = [permutation_p(rng.permutation(worst), attributes, rng) for _ in range(40)]
    assert 0.35 <= np.mean(p) <= 0.65  # uniform on (0, 1] where chance is all there is
    # a copy of an attribute is no further choice
    doubled = permutation_p(worst, attributes[:, [0, 0, 0]], np.random.default_rng(1))
    assert doubled == permutation_p(worst, attributes[:, :1], np.random.default_rng(1))


def test_images_without_a_finite_value_are_left_out():
    rng = np.random.default_rng(0)
    values, attributes = draw(rng, 2000, 0.3, 3.0)
    covariates = rng.normal(size=(2000, 1))
    bad = rng.permutation(2000)[:300]
    values[bad] = np.where(np.arange(300) % 2, math.nan, math.inf)
    kept = np.delete(np.arange(2000), bad)
    found = enrichment("m", values, attributes, ["it"], covariates, np.random.default_rng(1))
    alone = enrichment("m", values[kept], attributes[kept], ["it"], covariates[kept], np.random.default_rng(1))
    assert found == alone
    assert (found.n, found.worst) == (1700, 85)


@pytest.mark.parametrize("values", [[], [math.nan] * 5, [1.0] * 9])
def test_where_there_is_nothing_to_compare_nothing_is_tested(values):
    n = len(values)
    found = enrichment(
        "m", np.array(values), np.ones((n, 2), np.uint8), ["a", "b"], np.zeros((n, 1)), np.random.default_rng(0)
    )
    assert found.p_max is None
    assert [r.tested for r in found.rows] == [False, False]
    assert not associations(np.zeros(n, bool), np.ones((n, 0), np.uint8), [])


def test_attributes_that_are_not_tested_are_not_adjusted():
    rng = np.random.default_rng(0)
    values, attributes = draw(rng, 1000, [0.3, 0.01], 3.0, attributes=2)
    found = enrichment("m", values, attributes, ["a", "b"], rng.normal(size=(1000, 1)), rng)
    assert (found.n, found.worst) == (1000, 50)
    assert found.rows[0].adjusted_odds_ratio > 1
    assert found.rows[1].adjusted_odds_ratio is None
