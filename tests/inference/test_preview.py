import dataclasses

import numpy as np
import pytest
import torch

from tests.small_models import FACES, SIZE, Brighter, Inpainter, LinearVAE, Uniform, Versatile
from visage.data.arrays import Faces
from visage.inference.preview import preview
from visage.maths.pixels import to_uint8

CPU = torch.device("cpu")


@pytest.fixture
def faces():
    """96 faces, of which every second one smiles and none is bald."""
    n = 4 * len(FACES)
    smiling = np.arange(n) % 2
    return Faces(
        images=np.tile(FACES, (4, 1, 1, 1)),
        attributes=np.stack([smiling, 0 * smiling], axis=1).astype(np.uint8),
        names=["Smiling", "Bald"],
        image_id=np.array([f"{i}.jpg" for i in range(n)]),
        identity=np.full(n, -1, np.int32),
        factors=np.zeros((n, 0), np.float32),
        factor_names=[],
    )


def test_a_model_that_samples_shows_the_same_samples_at_every_call(faces):
    samples = preview(LinearVAE().eval(), faces, 0, CPU)
    assert samples.shape == (32, SIZE, SIZE, 3)
    assert np.array_equal(samples, preview(LinearVAE().eval(), faces, 0, CPU))
    assert not np.array_equal(samples, preview(LinearVAE().eval(), faces, 1, CPU))


def test_a_model_that_translates_shows_both_kinds_and_their_translations(faces):
    grid = preview(Versatile().eval(), faces, 0, CPU)
    assert len(grid) == 32
    for start, smiling, shift in ((0, 0, 20), (16, 1, -16)):
        some = faces.images[faces.attributes[:, 0] == smiling][:8]
        x = torch.from_numpy(some).permute(0, 3, 1, 2).float()
        translated = to_uint8((x + shift) / 127.5 - 1).numpy()
        assert np.array_equal(grid[start : start + 8], some)
        assert np.abs(grid[start + 8 : start + 16].astype(int) - translated).max() <= 1
    bald = dataclasses.replace(faces, attributes=np.ones_like(faces.attributes))
    assert preview(Versatile().eval(), bald, 0, CPU) is None  # no face of either kind


def test_a_model_that_reconstructs_shows_faces_above_what_it_makes_of_them(faces):
    grid = preview(Brighter(5), faces, 0, CPU).reshape(4, 8, SIZE, SIZE, 3).astype(int)
    assert np.array_equal(grid[::2].reshape(16, SIZE, SIZE, 3), faces.images[:16])
    assert np.array_equal(grid[1::2], (grid[::2] + 5).clip(0, 255))


def test_a_model_that_fills_in_shows_faces_above_the_completed_ones(faces):
    grid = preview(Inpainter(), faces, 0, CPU).reshape(4, 8, SIZE, SIZE, 3).astype(int)
    assert np.array_equal(grid[1::2, :, 8:], grid[::2, :, 8:])
    assert (np.abs(grid[1::2, :, 0] - grid[::2, :, 0]) <= 6).all()
    assert (grid[1::2, :, 0] != grid[::2, :, 0]).any()


def test_where_there_is_nothing_to_show_there_is_no_grid(faces):
    assert preview(Uniform(), faces, 0, CPU) is None
    few = dataclasses.replace(faces, images=faces.images[:7])
    assert preview(Brighter(5), few, 0, CPU) is None  # not one full row
    assert len(preview(Brighter(5), dataclasses.replace(faces, images=faces.images[:9]), 0, CPU)) == 16
