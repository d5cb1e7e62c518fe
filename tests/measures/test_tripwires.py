import math

import numpy as np
import pytest

from visage.measures.tripwires import (
    HALF_STEP,
    active_units,
    codebook_collapse,
    discriminator_saturation,
    mode_collapse,
    non_finite,
    perplexity,
    posterior_collapse,
    round_trip,
    undefined,
)
from visage.results import Tripwire


def test_non_finite_counts_and_says_where():
    fine, bad = np.ones(4), np.array([1.0, math.nan, math.inf, -math.inf])
    assert non_finite({"nll": fine, "history": fine}).verdict == "ok"
    found = non_finite({"nll": fine, "history": bad})
    assert (found.verdict, found.value, found.limit) == ("tripped", 3, 0)
    assert found.text == "not finite, of 8 values: 3 in history"
    assert non_finite({"nll": np.ones(0)}).verdict == "undefined"


def test_units_are_active_where_the_posterior_mean_varies():
    """The linear-Gaussian posterior mean s x / (s^2 + 1) of x ~ N(0, s^2 + 1) has variance s^2 / (s^2 + 1)."""
    x = np.random.default_rng(0).normal(size=(20_000, 1))
    s = np.array([0.0, 0.05, 0.09, 0.12, 1.0])  # variances 0, .0025, .0080, .0142, .5
    means = s / np.sqrt(s**2 + 1) * x + 7
    assert active_units(means) == 2
    assert active_units(means.astype(np.float32)) == 2


@pytest.mark.parametrize(
    ("active", "rate", "verdict", "value", "limit"),
    [
        (10, 50.0, "ok", 0.1, 0.1),
        (9, 50.0, "tripped", 0.09, 0.1),
        (100, 0.5, "tripped", 0.5, 1.0),
        (0, 0.0, "tripped", 0.0, 0.1),
        (9, None, "tripped", 0.09, 0.1),
        (None, 1.5, "ok", 1.5, 1.0),
        (None, math.nan, "tripped", None, 1.0),
        (None, None, "undefined", None, None),
    ],
)
def test_posterior_collapse_by_units_or_by_rate(active, rate, verdict, value, limit):
    means = None
    if active is not None:
        means = np.zeros((50, 100))
        means[::2, :active] = 1
    found = posterior_collapse(means, rate)
    assert (found.verdict, found.value, found.limit) == (verdict, value, limit)


def test_one_image_says_nothing_of_the_posterior():
    assert posterior_collapse(np.ones((1, 8)), None).verdict == "undefined"


def test_perplexity_is_the_number_of_codes_that_are_used_alike():
    assert perplexity(np.full(512, 3)) == pytest.approx(512)
    assert perplexity(np.array([7, 0, 0, 0])) == 1
    assert perplexity(np.array([5, 0, 5, 5])) == pytest.approx(3)
    assert perplexity(np.array([2, 1, 1])) == pytest.approx(2**1.5)  # 1.5 bits
    assert perplexity(np.zeros(4, int)) == 0


@pytest.mark.parametrize(("used", "verdict"), [(512, "ok"), (52, "ok"), (51, "tripped"), (1, "tripped")])
def test_codebook_collapse_below_a_tenth_of_the_codes(used, verdict):
    found = codebook_collapse(perplexity((np.arange(512) < used).astype(int)), 512)
    assert found.verdict == verdict
    assert found.value == pytest.approx(used / 512)


def test_a_discriminator_is_saturated_where_it_makes_five_mistakes_in_a_hundred():
    """d' = sqrt(2) Phi^-1(AUROC): 3.29 at .99; it then mistakes Phi(-d'/2) = 5 % at the best threshold."""
    rng = np.random.default_rng(0)
    faces = rng.normal(size=4000)
    assert discriminator_saturation(faces, rng.normal(3.6, 1, 4000)).verdict == "tripped"
    assert discriminator_saturation(faces, rng.normal(3.0, 1, 4000)).verdict == "ok"
    at_limit = rng.normal(3.29, 1, 4000)
    assert discriminator_saturation(faces, at_limit).value == pytest.approx(0.99, abs=0.003)
    assert (at_limit < 3.29 / 2).mean() == pytest.approx(0.05, abs=0.01)
    # one that takes samples for faces is wrong, not saturated
    assert discriminator_saturation(faces, rng.normal(-9, 1, 4000)).verdict == "ok"


def test_the_area_at_the_limit_trips():
    faces = np.arange(10.0)
    samples = np.full(10, 9.5)
    samples[0] = 8.5  # one of the 100 pairs is the wrong way round
    found = discriminator_saturation(faces, samples)
    assert (found.verdict, found.value) == ("tripped", 0.99)


def test_scores_that_are_missing_or_broken_have_their_verdict():
    faces = np.zeros(3)
    assert discriminator_saturation(faces, np.zeros(0)).verdict == "undefined"
    found = discriminator_saturation(faces, np.array([1.0, math.nan]))
    assert (found.verdict, found.value) == ("tripped", None)


@pytest.mark.parametrize(
    ("near_duplicates", "coverage", "verdict", "value"),
    [
        (0.0, 0.97, "ok", 0.0),
        (0.2, 0.1, "ok", 0.2),
        (0.21, 0.97, "tripped", 0.21),
        (0.0, 0.09, "tripped", 0.09),
        (None, 0.5, "ok", 0.5),
        (0.5, None, "tripped", 0.5),
        (0.0, math.nan, "tripped", None),
        (None, None, "undefined", None),
    ],
)
def test_mode_collapse_by_duplicates_or_by_coverage(near_duplicates, coverage, verdict, value):
    found = mode_collapse(near_duplicates, coverage)
    assert (found.verdict, found.value) == (verdict, value)


def test_the_limit_of_a_round_trip_is_where_8_bit_values_change():
    v = np.arange(256)

    def moved(error):
        return ((v / 255 + error) * 255).round() != v

    assert not moved(0.999 * HALF_STEP).any()
    assert round_trip(0.999 * HALF_STEP).verdict == "ok"
    assert moved(1.001 * HALF_STEP).all()
    assert round_trip(1.001 * HALF_STEP).verdict == "tripped"
    assert (round_trip(math.inf).verdict, round_trip(math.inf).value) == ("tripped", None)


def test_a_wire_that_does_not_apply_says_why():
    assert undefined("codebook_collapse", "has no codebook") == Tripwire(
        "codebook_collapse", "undefined", "has no codebook"
    )
