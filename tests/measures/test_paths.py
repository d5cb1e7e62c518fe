import math

import numpy as np
import pytest

from visage.measures.paths import smoothness


def test_smoothness_of_known_paths():
    t = np.linspace(0, 1, 6)
    angle = t * math.pi / 2
    line, uneven = np.outer(t, [3, -4, 0]), np.outer(t**2, [1, 1, 1])
    circle = np.column_stack([np.cos(angle), np.sin(angle), 0 * t])
    jump = np.outer(t > 0.5, [0, 2, 1])
    found = smoothness(np.stack([line, circle, jump, uneven]).astype(np.float32))
    chord = 4 * math.sin(math.pi / 20) ** 2  # squared, of each of the five steps
    steps = np.diff(t**2)
    assert found == pytest.approx([1, 25 * chord / 2, 5, 5 * (steps**2).sum()], rel=1e-5)


def test_smoothness_is_at_least_one_and_has_no_unit():
    paths = np.random.default_rng(0).normal(size=(50, 7, 4))
    found = smoothness(paths)
    assert (found >= 1).all()
    assert smoothness(paths * 1000 + 5) == pytest.approx(found)


def test_smoothness_of_paths_that_lead_nowhere():
    there_and_back = np.array([[[0.0], [1.0], [0.0]], [[2.0], [2.0], [2.0]]])
    found = smoothness(there_and_back)
    assert math.isinf(found[0])
    assert math.isnan(found[1])
