import math

import pytest
import torch

from visage.maths.latents import lerp, slerp


def codes(n=6, d=32):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)


@pytest.mark.parametrize("way", [lerp, slerp])
def test_ways_begin_at_a_and_end_at_b(way):
    a, b = codes()
    torch.testing.assert_close(way(a, b, 0.0), a)
    torch.testing.assert_close(way(a, b, 1.0), b)
    torch.testing.assert_close(way(a, b, 0.3), way(b, a, 0.7))


@pytest.mark.parametrize("way", [lerp, slerp])
def test_a_column_of_times_gives_the_codes_between_two(way):
    a, b = codes(1)
    between = way(a, b, torch.linspace(0, 1, 5)[:, None])
    assert between.shape == (5, 32)
    torch.testing.assert_close(between[1], way(a[0], b[0], 0.25))


def test_lerp_is_straight():
    assert lerp(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0]), 0.25).tolist() == [1.0, 2.0]


def test_slerp_goes_along_the_circle():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    angle = math.pi / 2 * 0.25
    expected = torch.tensor([2 * math.cos(angle), 2 * math.sin(angle)])
    torch.testing.assert_close(slerp(a, b, 0.25), expected)


def test_slerp_keeps_the_length_that_lerp_loses():
    a, b = (v / v.norm(dim=-1, keepdim=True) for v in codes())
    torch.testing.assert_close(slerp(a, b, 0.4).norm(dim=-1), torch.ones(6))
    assert (lerp(a, b, 0.4).norm(dim=-1) < 0.95).all()


@pytest.mark.parametrize("factor", [1.0, 1.0 + 1e-6, 3.0, -1.0])
def test_codes_that_define_no_circle_go_straight(factor):
    a, _ = codes()
    torch.testing.assert_close(slerp(a, factor * a, 0.25), lerp(a, factor * a, 0.25), atol=1e-5, rtol=1e-5)


def test_nearly_parallel_codes_are_precise():
    a = torch.tensor([1.0, 0.0])
    between = slerp(a, torch.tensor([1.0, 1e-4]), 0.5)
    torch.testing.assert_close(between, torch.tensor([1.0, 5e-5]), rtol=1e-4, atol=1e-8)
