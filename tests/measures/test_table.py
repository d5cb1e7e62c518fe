"""The words about figures are complete; that every recorded figure has a row is checked where figures are recorded."""

import re

import pytest

from visage.measures.gaussian import FullGaussian
from visage.measures.image_statistics import PixelGaussian, baselines
from visage.measures.principal_components import LinearAutoencoder
from visage.measures.table import BASELINES, BY_KEY, GROUPS, MEASURES, SCORES, SETS
from visage.results import EvaluationCost, Footprint, TrainingCost


def test_names_are_unique_and_fit_for_files():
    assert len(BY_KEY) == len(MEASURES)
    for name in (*BY_KEY, *SETS, *SCORES, *BASELINES):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.key)
def test_a_row_says_what_the_page_needs(measure):
    assert measure.group in GROUPS
    assert measure.title
    assert measure.explanation


def test_every_trivial_score_has_its_words(images):
    found = baselines(images, PixelGaussian.fit(images), LinearAutoencoder.fit(images), FullGaussian.fit(images))
    assert list(found) == list(BASELINES)


def test_every_cost_is_a_field_of_what_is_stored():
    fields = {*TrainingCost.__slots__, *EvaluationCost.__slots__, *Footprint.__slots__, "parameters", "kimg"}
    assert {measure.key for measure in MEASURES if measure.group == "cost"} <= fields
