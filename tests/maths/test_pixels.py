import pytest
import torch

from visage.maths import pixels

ALL = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()


def test_all_levels_survive_the_round_trip():
    assert torch.equal(pixels.to_uint8(pixels.to_float(ALL)), ALL)
    assert torch.equal(pixels.levels(pixels.to_float(ALL)).to(torch.uint8), ALL.permute(0, 3, 1, 2))


def test_float_images_span_minus_one_to_one():
    x = pixels.to_float(ALL)
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == torch.float32
    assert x.min().item() == -1.0
    assert x.max().item() == pytest.approx(1.0, abs=1e-6)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_values_outside_the_range_are_clamped():
    x = torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert pixels.to_uint8(x)[0, 0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("u", [0.0, 0.5, 0.999])
def test_dequantised_values_fall_into_their_own_bin(u):
    y = pixels.dequantize(pixels.to_float(ALL), torch.full((1, 3, 16, 16), u))
    assert y.min() >= 0
    assert y.max() < 1
    assert torch.equal((256 * y).floor().to(torch.uint8), ALL.permute(0, 3, 1, 2))


def test_the_middle_of_a_bin_and_the_way_back():
    x = pixels.to_float(ALL)
    y = pixels.to_middle(x)
    torch.testing.assert_close(y, pixels.dequantize(x, torch.tensor(0.5)), rtol=0, atol=1e-7)
    torch.testing.assert_close(pixels.from_middle(y), x, rtol=0, atol=1e-6)
    between = torch.tensor([-1.2, -0.3333, 0.5, 1.7], dtype=torch.float64)  # neither rounded nor clamped
    torch.testing.assert_close(pixels.from_middle(pixels.to_middle(between)), between)
    # wherever in its bin y lies, the picture shows the bin
    for u in (0.001, 0.5, 0.999):
        assert torch.equal(pixels.to_uint8(pixels.from_middle(pixels.dequantize(x, torch.tensor(u)))), ALL)


def test_levels_are_rounded_to_the_bit_and_have_the_gradient_of_what_is_rounded():
    x = (3 * torch.rand(10_000, generator=torch.Generator().manual_seed(0)) - 1.5).requires_grad_()
    v = pixels.levels(x)
    assert torch.equal(v, ((x + 1) * 127.5).round())
    (gradient,) = torch.autograd.grad(v.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 127.5))
