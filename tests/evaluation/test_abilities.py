"""What only some models can do, and what it looks like."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from visage.evaluation.preview import preview

from tests.small_models import SIZE, Laborious, LinearVAE, Uniform, Versatile
from visage.data.arrays import load_faces
from visage.evaluation.evaluate import evaluate
from visage.maths.pixels import to_uint8

CPU = torch.device("cpu")


@pytest.fixture
def measured(run, settings, data, tmp_path):
    def call(model, **changes):
        out = tmp_path / "out"
        result = evaluate(model, run, dataclasses.replace(settings, **changes), data, out, CPU, progress=False)
        return {record.name: record for record in result.records}, out

    return call


def tiles(path):
    """The pictures of a grid, (rows, columns, S, S, 3)."""
    grid = np.asarray(Image.open(path))
    rows, columns = (grid.shape[0] + 2) // 98, (grid.shape[1] + 2) // 98
    return np.array(
        [[grid[r * 98 : r * 98 + 96 : 6, c * 98 : c * 98 + 96 : 6] for c in range(columns)] for r in range(rows)]
    )


def test_errors_of_hidden_pixels_and_of_cycles(measured):
    records, out = measured(Versatile(), images=0)
    assert records["masked_mse"].value == pytest.approx((6 / 255) ** 2, rel=1e-3)
    assert records["masked_mse"].n == 24
    labels = np.load(out.parent / "processed" / "labels" / "test.npz")["attributes"]  # Bald, Eyeglasses, Smiling
    for name, smiling in (("cycle_mse_a", 0), ("cycle_mse_b", 1)):
        assert records[name].value == pytest.approx((4 / 255) ** 2, rel=1e-3)
        assert records[name].n == ((labels[:, 2] == smiling) & (labels[:, 0] == 0)).sum()


def test_pictures_of_hidden_parts_and_wishes(measured, images):
    _, out = measured(Versatile())
    rows = np.load(out / "scores.npz")["test_index"]
    shown, seen, filled = tiles(out / "inpainting.png")
    assert np.array_equal(shown, images[rows[:8]])
    assert (seen[:, :2] == 128).all()  # hidden parts are grey
    assert np.array_equal(seen[:, 8:], shown[:, 8:])
    assert np.array_equal(filled[:, 0].astype(int), np.minimum(shown[:, 0].astype(int) + 6, 255))

    wishes = tiles(out / "wishes.png").astype(int)
    assert wishes.shape[:2] == (4, 3)
    changed = np.abs(np.diff(wishes[:, [0, 1]], axis=1)).mean((1, 2, 3))  # first attribute turned: red alone
    assert (changed[:, 0] > 50).all()
    assert (changed[:, 1:] == 0).all()
    pictures = json.loads((out / "pictures.json").read_text())
    assert "Smiling, Bald" in pictures["wishes.png"]["caption"]
    guidance = tiles(out / "guidance.png").astype(int)
    assert (np.abs(guidance[1] - guidance[0])[..., 2] > 50).all()  # w colours blue
    assert (guidance[1] == guidance[0])[..., :2].all()
    assert "w = 0, w = 2" in pictures["guidance.png"]["caption"]
    dark, light = tiles(out / "variants.png")
    assert dark.max() == 0
    assert light.min() == 255
    assert pictures["variants.png"]["caption"] == "From the same noise, row by row: dark, light."


def test_translations_are_shown_both_ways(measured, settings, images):
    _, out = measured(Versatile(), images=0)
    pictures = json.loads((out / "pictures.json").read_text())
    labels = np.load(out.parent / "processed" / "labels" / "test.npz")["attributes"]
    few = min(((labels[:, 2] == s) & (labels[:, 0] == 0)).sum() for s in (0, 1))
    if few < 8:
        assert "translations.png" not in pictures  # too few of one kind to fill a row
        return
    assert pictures["translations.png"]["rows"] == 6
    assert "not Smiling and Smiling" in pictures["translations.png"]["caption"]


def test_likelihoods_that_take_many_calls_are_measured_on_fewer_images(measured):
    model = Laborious()
    records, out = measured(model, images=20, network_calls=17, draws=1)
    assert records["bits_per_dim"].kind == "estimate"
    assert records["bits_per_dim"].value == pytest.approx(8)
    assert records["bits_per_dim"].n == 17
    assert records["ood/nll"].n == 17 + 10
    assert records["ood_baseline/grey"].n == 20 + 10
    assert model.asked == 17 + 8 + 10  # test, valid, other images; none of the sets made of test faces
    assert "too many network calls" in records["suite/blur"].note
    assert len(np.load(out / "scores.npz")["test/nll"]) == 17


def test_previews_show_samples_or_what_becomes_of_faces(processed):
    faces = load_faces("test", SIZE, processed)
    samples = preview(LinearVAE().eval(), faces, 0, CPU)
    assert samples.shape == (64, SIZE, SIZE, 3)
    assert np.array_equal(samples, preview(LinearVAE().eval(), faces, 0, CPU))
    assert preview(Uniform(), faces, 0, CPU) is None
    many = dataclasses.replace(
        faces, images=np.tile(faces.images, (4, 1, 1, 1)), attributes=np.tile(faces.attributes, (4, 1))
    )
    grid = preview(Versatile().eval(), many, 0, CPU)
    group = Versatile().groups(torch.from_numpy(many.columns(["Smiling", "Bald"])).float()).numpy()
    first = many.images[group == 0][:8]
    assert len(grid) % 16 == 0
    assert np.array_equal(grid[:8], first)
    shifted = to_uint8((torch.from_numpy(first).permute(0, 3, 1, 2) + 20.0) / 127.5 - 1).numpy()
    assert np.abs(grid[8:16].astype(int) - shifted).max() <= 1
    bald = dataclasses.replace(many, attributes=np.ones_like(many.attributes))
    assert preview(Versatile().eval(), bald, 0, CPU) is None  # no face of either kind
