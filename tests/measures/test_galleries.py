import math

import numpy as np

from visage.measures.galleries import extremes


def test_each_place_of_the_ranking_gives_its_own_positions():
    values = np.array([5.0, 1, 9, 3, 7, 2, 8])  # rising: 1 2 3 5 7 8 9
    found = {place: values[positions].tolist() for place, positions in extremes(values, 3).items()}
    assert found == {"worst": [9, 8, 7], "median": [3, 5, 7], "best": [1, 2, 3]}


def test_the_median_gallery_is_centred_where_the_median_is():
    values = np.random.default_rng(0).permutation(1001).astype(float)
    middle = values[extremes(values, 5)["median"]]
    assert middle.tolist() == [498, 499, 500, 501, 502]
    assert np.median(middle) == np.median(values)


def test_equal_values_keep_their_order_everywhere():
    found = extremes(np.zeros(6), 2)
    assert {place: positions.tolist() for place, positions in found.items()} == {
        "worst": [0, 1],
        "median": [2, 3],
        "best": [0, 1],
    }


def test_values_that_are_not_finite_have_no_place():
    values = np.array([math.nan, 2.0, math.inf, 1.0, -math.inf])
    found = {place: positions.tolist() for place, positions in extremes(values, 5).items()}
    assert found == {"worst": [1, 3], "median": [3, 1], "best": [3, 1]}
    assert not any(len(positions) for positions in extremes(np.array([math.nan]), 5).values())
