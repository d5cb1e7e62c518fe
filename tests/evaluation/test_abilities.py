"""What only some models can do, and what it looks like."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_data import SETTINGS, SPLITS, write_data
from tests.small_models import Brighter, Laborious, Versatile
from visage.evaluation.evaluate import evaluate
from visage.measures.denoising import LEVELS
from visage.measures.table import SETS
from visage.results import PerImage

DERIVED = [name for name in SETS if name != "rare"]


@pytest.fixture(scope="module")
def versatile(measured):
    """The evaluation, of all test faces, of a model that does all that only some can do."""
    return measured(Versatile(), images=0)


def tiles(path):
    """The pictures of a grid, (rows, columns, S, S, 3)."""
    grid = np.asarray(Image.open(path))
    rows, columns = (grid.shape[0] + 2) // 98, (grid.shape[1] + 2) // 98
    return np.array(
        [[grid[r * 98 : r * 98 + 96 : 6, c * 98 : c * 98 + 96 : 6] for c in range(columns)] for r in range(rows)]
    )


@pytest.fixture(scope="module")
def labels(prepared):
    """Of the test faces: Bald, Eyeglasses, Smiling."""
    with np.load(prepared() / "processed" / "labels" / "test.npz") as stored:
        return stored["attributes"]


def test_errors_of_hidden_pixels_and_of_cycles(versatile, labels):
    assert versatile.find("masked_mse").value == pytest.approx((6 / 255) ** 2, rel=1e-3)
    assert versatile.find("masked_mse").n == 24
    for name, smiling in (("cycle_mse_a", 0), ("cycle_mse_b", 1)):
        assert versatile.find(name).value == pytest.approx((4 / 255) ** 2, rel=1e-3)
        assert versatile.find(name).n == ((labels[:, 2] == smiling) & (labels[:, 0] == 0)).sum()
    assert versatile.results.galleries[0].measure == "masked_mse"
    assert versatile.per_image.values.keys() == {"masked_mse", *LEVELS}  # cycles are of some faces alone


def test_errors_after_noise_was_removed(versatile, images):
    """The model's guess is one grey for each level of noise."""
    shown = images[versatile.per_image.rows["test"]] / 255
    for metric, sigma in LEVELS.items():
        errors = np.square(shown - min(1, sigma / 5)).mean((1, 2, 3))
        assert versatile.per_image.values[metric] == pytest.approx(errors, rel=1e-4)
        assert versatile.find(metric).value == pytest.approx(errors.mean(), rel=1e-4)
        assert (versatile.find(metric).kind, versatile.find(metric).n) == ("estimate", 24)


def test_pictures_of_hidden_parts_and_of_wanted_attributes(versatile, images):
    rows = versatile.per_image.rows["test"]
    shown, seen, filled = tiles(versatile.out / "inpainting.png")
    assert np.array_equal(shown, images[rows[:8]])
    assert (seen[:, :2] == 128).all()  # hidden parts are grey
    assert np.array_equal(seen[:, 8:], shown[:, 8:])
    assert np.array_equal(filled[:, 0].astype(int), np.minimum(shown[:, 0].astype(int) + 6, 255))

    wanted = tiles(versatile.out / "wanted_attributes.png").astype(int)
    assert wanted.shape[:2] == (4, 3)
    changed = np.abs(np.diff(wanted[:, [0, 1]], axis=1)).mean((1, 2, 3))  # first attribute flipped: red alone
    assert (changed[:, 0] > 50).all()
    assert (changed[:, 1:] == 0).all()
    guidance = tiles(versatile.out / "guidance.png").astype(int)
    assert (np.abs(guidance[1] - guidance[0])[..., 2] > 50).all()  # w colours blue
    assert (guidance[1] == guidance[0])[..., :2].all()
    dark, light = tiles(versatile.out / "variants.png")
    assert dark.max() == 0
    assert light.min() == 255


def test_pictures_carry_the_facts_that_their_captions_need(versatile):
    facts = {name: picture.facts for name, picture in versatile.pictures.items() if picture.facts}
    assert facts == {
        "wanted_attributes.png": {"attributes": ["Smiling", "Bald"]},
        "guidance.png": {"scales": ["0", "2"]},
        "variants.png": {"names": ["dark", "light"]},
    }


def test_translations_are_shown_both_ways(run, tmp_path, images):
    """Of either kind: faces, their translations, and these translated back."""
    labels = {split: np.zeros((len(some), 3)) for split, some in SPLITS.items()}
    labels["test"][::2, 2] = 1
    write_data(tmp_path, settings=replace(SETTINGS, images=0), attributes=labels)
    (tmp_path / "out").mkdir()
    settings = replace(SETTINGS, images=0)
    found = evaluate(Versatile(), run, settings, tmp_path, tmp_path / "out", torch.device("cpu"), progress=False)
    (picture,) = [picture for picture in found.results.pictures if picture.file == "translations.png"]
    assert (picture.columns, picture.rows) == (8, 6)
    assert picture.facts == {"domains": ["not Smiling", "Smiling"]}
    rows = PerImage.load(tmp_path / "out" / "scores.npz").rows["test"]
    shown = tiles(tmp_path / "out" / "translations.png").astype(int)
    for first, smiling, shift in ((0, 0, 20), (3, 1, -16)):
        some = images[rows[labels["test"][rows, 2] == smiling][:8]].astype(int)
        assert np.array_equal(shown[first], some)
        assert np.array_equal(shown[first + 1], (some + shift).clip(0, 255))
        assert np.abs(shown[first + 2] - some).max() <= 20


def test_too_few_faces_of_a_kind_for_a_row_show_no_translations(versatile, labels):
    assert min(((labels[:, 2] == s) & (labels[:, 0] == 0)).sum() for s in (0, 1)) < 8
    assert "translations.png" not in versatile.pictures


def test_likelihoods_that_take_many_calls_are_measured_on_fewer_images(measured):
    model = Laborious()
    found = measured(model, images=20, network_calls=17, draws=1)
    assert found.find("bits_per_dim").kind == "estimate"
    assert found.find("bits_per_dim").value == pytest.approx(8)
    assert found.find("bits_per_dim").n == 17
    assert found.find("auroc", "grey").n == 17 + 10
    assert found.find("auroc", "dark").n == 17 + 7
    assert model.asked == 17 + 8 + 10 + 7  # test, valid, external sets; no derived ones
    assert len(found.per_image.scores["test"]["nll"]) == 17
    for name in DERIVED:
        record = found.find("auroc", name, "nll")
        assert (record.kind, record.note) == (
            "undefined",
            "its likelihood takes too many network calls for this many sets",
        )
        assert "nll" not in found.per_image.scores.get(name, {})


def test_scores_that_take_many_calls_are_asked_of_fewer_derived_images(measured):
    """9 calls at 32 pixels are 36 at 16: 18 images of 2 calls; a fifth of derived ones, but never less than 16."""

    class Slow(Brighter):
        score_calls = 2

    found = measured(Slow(3), images=0, derived_images=20, network_calls=9)
    sizes = {name: len(scores["recon"]) for name, scores in found.per_image.scores.items()}
    assert sizes == {"test": 18, "valid": 8, "grey": 10, "dark": 7, **dict.fromkeys(DERIVED, 16)}
