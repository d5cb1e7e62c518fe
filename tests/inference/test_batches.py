from itertools import pairwise

import numpy as np
import pytest
import torch

from visage.inference.batches import answers, embedded, per_image
from visage.maths import noise
from visage.maths.pixels import levels

CPU = torch.device("cpu")


class Cramped:
    """Has memory for `most` images at a time."""

    def __init__(self, most):
        self.most, self.tried = most, []

    def __call__(self, x, generator):
        self.tried.append(len(x))
        drawn = noise.randn(len(x), (), generator)  # before the memory runs out, as in a model
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return levels(x).flatten(1).mean(1) + drawn


@pytest.mark.parametrize("most", [100, 7, 3, 1])
def test_a_batch_that_does_not_fit_is_tried_in_halves_with_the_same_noise(images, most):
    cramped, generator = Cramped(most), torch.Generator().manual_seed(0)
    found = per_image(lambda x: cramped(x, generator), images, 16, CPU, [generator])
    drawn = noise.randn(len(images), (), torch.Generator().manual_seed(0)).double().numpy()
    assert found == pytest.approx(images.mean((1, 2, 3)) + drawn, abs=1e-4)
    sizes = cramped.tried
    assert sizes[0] == 16
    assert all(later <= earlier for earlier, later in pairwise(sizes))  # no size is tried twice
    assert sum(size for size in sizes if size <= most) == len(images)


def test_where_one_image_does_not_fit_there_is_nothing_to_be_done(images):
    with pytest.raises(torch.OutOfMemoryError):
        list(answers(lambda x: Cramped(0)(x, torch.Generator()), images, 4, CPU))


def test_answers_come_in_order(images):
    found = embedded(lambda x: levels(x)[:, :, 0, 0], images, 5, CPU)
    assert np.array_equal(found, images[:, 0, 0].astype(np.float32))
