import pytest

from tests.small_models import FACES, GREY


@pytest.fixture
def images():
    return FACES.copy()


@pytest.fixture
def grey_images():
    return GREY.copy()
