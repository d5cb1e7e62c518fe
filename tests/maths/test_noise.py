import pytest
import torch

from visage.maths import noise


@pytest.mark.parametrize("draw", [noise.randn, noise.rand])
def test_image_i_gets_the_same_noise_whatever_n_is(draw):
    one, many = (draw(n, (3, 4, 4), torch.Generator().manual_seed(5)) for n in (2, 7))
    assert many.shape == (7, 3, 4, 4)
    assert torch.equal(one, many[:2])
    assert not torch.equal(many[0], many[1])


def test_each_image_has_the_noise_of_its_own_generator():
    for shape in ((3, 8, 8), (3, 3, 3), (2, 2)):  # PyTorch draws 16 numbers at a time, and what remains one by one
        many = noise.randn_each([torch.Generator().manual_seed(i) for i in range(4)], shape)
        for i in range(4):
            assert torch.equal(many[i], torch.randn(shape, generator=torch.Generator().manual_seed(i)))


def test_noise_has_the_distributions_it_names():
    g, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    for normal, uniform in (
        (noise.randn(100, (1000,), g), noise.rand(100, (1000,), g)),
        (noise.normal((100, 1000), g, cpu), noise.uniform((100, 1000), g, cpu)),
    ):
        assert normal.shape == uniform.shape == (100, 1000)
        assert abs(normal.mean()) < 0.01
        assert abs(normal.std() - 1) < 0.01
        assert 0 <= uniform.min() < 1e-4 < 1 - 1e-4 < uniform.max() < 1
    counts = noise.integers(2, 5, 30_000, g, cpu).bincount()
    assert counts[:2].tolist() == [0, 0]
    assert (counts[2:] / 10_000 - 1).abs().max() < 0.05
