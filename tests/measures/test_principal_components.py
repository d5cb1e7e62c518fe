import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from visage.measures import principal_components
from visage.measures.principal_components import CODES, LinearAutoencoder
from visage.measures.reconstruction import PER_IMAGE, mse

SIDE = 12
DIMS = 3 * SIDE**2


def drawn(n, seed):
    """Images whose pixels hang together along 300 directions, in their middle levels."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(300, DIMS)) * 0.985 ** np.arange(300)[:, None]
    values = 128 + 3 * rng.normal(size=(n, 300)) @ directions
    return values.round().clip(0, 255).astype(np.uint8).reshape(n, SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def fitted():
    return LinearAutoencoder.fit(drawn(600, 0))


@pytest.mark.parametrize("numbers", CODES)
def test_errors_are_those_of_another_librarys_components_of_faces_and_mirror_images(fitted, numbers):
    train, test = drawn(600, 0), drawn(50, 1)
    both = np.concatenate([train, train[:, :, ::-1]]).reshape(1200, -1) / 255
    pca = PCA(numbers, svd_solver="full").fit(both)
    x = test.reshape(50, -1) / 255
    expected = ((x - pca.inverse_transform(pca.transform(x)).clip(0, 1)) ** 2).mean(1)
    assert fitted.errors(test, numbers, {"mse": mse})["mse"] == pytest.approx(expected, rel=0.02)


def test_all_measures_are_those_of_the_reconstruction(fitted):
    test = drawn(5, 1)
    x = torch.from_numpy(test).permute(0, 3, 1, 2) / 127.5 - 1
    y = fitted.reconstruct(x, 32)
    found = fitted.errors(test, 32, PER_IMAGE)
    for name, measure in PER_IMAGE.items():
        assert found[name] == pytest.approx(measure(x, y).numpy(), rel=1e-3), name
    rounded = fitted.reconstructions(test, 32)
    assert np.abs(rounded - (y.permute(0, 2, 3, 1).numpy() + 1) * 127.5).max() < 0.501


def test_no_image_leaves_the_range(fitted):
    extreme = 255 * np.random.default_rng(0).integers(0, 2, (20, SIDE, SIDE, 3), dtype=np.uint8)
    x = torch.from_numpy(extreme).permute(0, 3, 1, 2) / 127.5 - 1
    y = fitted.reconstruct(x, 256)
    assert y.abs().max() == 1


def test_the_batch_makes_no_difference(fitted, monkeypatch):
    test = drawn(30, 1)
    whole = fitted.errors(test, 32, {"mse": mse})["mse"]
    monkeypatch.setattr(principal_components, "CHUNK", 7)
    assert fitted.errors(test, 32, {"mse": mse})["mse"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("limit", [{"MOST_IMAGES": 60}, {"MOST_VALUES": 60 * DIMS}])
def test_no_more_images_are_used_than_said(monkeypatch, limit):
    """They are spread over all of them: the first ones may be of another kind."""
    images, test = drawn(600, 0), drawn(5, 1)
    some = LinearAutoencoder.fit(images[::10]).errors(test, 16, {"mse": mse})["mse"]
    for name, value in limit.items():
        monkeypatch.setattr(principal_components, name, value)
    assert np.array_equal(LinearAutoencoder.fit(images).errors(test, 16, {"mse": mse})["mse"], some)
