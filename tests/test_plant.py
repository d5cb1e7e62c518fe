"""The list of planted mistakes stays true to the code: `python -m tests.plant` can be run at any time."""

import ast

import pytest

from tests.plant import MISTAKES, mistakes, place
from visage.models import base


def test_every_model_has_at_least_three_mistakes():
    assert {path.stem for path in MISTAKES.glob("*.yaml")} == set(base.names())
    for name in base.names():
        assert len(mistakes(name)) >= 3, name


@pytest.mark.parametrize("name", base.names())
def test_each_can_be_planted_and_leaves_python(name):
    for mistake in mistakes(name):
        text = place(mistake).read_text()
        planted = mistake.plant(text)
        assert planted != text
        ast.parse(planted)
