import pytest
import torch

from visage.maths import noise


@pytest.mark.parametrize("draw", [noise.randn, noise.rand])
def test_image_i_gets_the_same_noise_whatever_n_is(draw):
    one, many = (draw(n, (3, 4, 4), torch.Generator().manual_seed(5)) for n in (2, 7))
    assert many.shape == (7, 3, 4, 4)
    assert torch.equal(one, many[:2])
    assert not torch.equal(many[0], many[1])


def test_noise_has_the_distributions_it_names():
    g = torch.Generator().manual_seed(0)
    normal, uniform = noise.randn(100, (1000,), g), noise.rand(100, (1000,), g)
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert 0 <= uniform.min() < 1e-4 < 1 - 1e-4 < uniform.max() < 1
