import pytest
import torch

from visage.maths.principal import principal_axes
from visage.nn.axes import Axes, MirroredAxes

DIMS = 3 * 8 * 8


def images(n, seed=0):
    """Images (n, 3, 8, 8), float64, whose neighbouring pixels are alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator, dtype=torch.float64).cumsum(3).cumsum(2)


@pytest.mark.parametrize("kind", [Axes, MirroredAxes])
@pytest.mark.parametrize("count", [0, 1, 20, 150, DIMS, 2 * DIMS])
def test_products_are_those_with_the_axes_as_they_were_set(count, kind):
    axes = principal_axes(images(500), min(count, DIMS)).axes
    kept = kind(3, 8, count).double()
    places = kept.set(axes)
    assert sorted(places[places >= 0].tolist()) == list(range(min(count, DIMS)))
    x, used = images(5, seed=1).flatten(1), places >= 0
    products = x @ axes
    found = kept.coefficients(x)
    torch.testing.assert_close(found[:, used], products[:, places[used]])
    assert not found[:, ~used].any()
    torch.testing.assert_close(kept.combine(found), products @ axes.T)


@pytest.mark.parametrize("kind", [Axes, MirroredAxes])
def test_axes_that_few_images_lack_are_not_used(kind):
    axes = principal_axes(images(4), 30).axes
    there = axes.norm(dim=0) > 0.5
    assert 0 < there.sum() < 30
    kept = kind(3, 8, 30).double()
    places = kept.set(axes)
    assert sorted(places[places >= 0].tolist()) == there.nonzero()[:, 0].tolist()


def test_axes_set_anew_leave_nothing_of_those_before():
    mirrored = MirroredAxes(3, 8, 20).double()
    mirrored.set(principal_axes(images(500), 20).axes)
    few = principal_axes(images(500), 20).axes[:, :3]
    assert (mirrored.set(few) >= 0).sum() == 3
    x = images(5, seed=1).flatten(1)
    torch.testing.assert_close(mirrored.combine(mirrored.coefficients(x)), x @ few @ few.T)
