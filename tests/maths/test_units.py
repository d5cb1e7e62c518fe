import math

import pytest
import torch

from visage.maths.pixels import quantization_nats
from visage.maths.units import bits_per_dim


@pytest.mark.parametrize(("size", "nats"), [(32, 17034.8), (64, 68139.1), (128, 272556.6)])
def test_uniform_model_has_exactly_eight_bits_per_dim(size, nats):
    dims = 3 * size * size
    assert quantization_nats(dims) == pytest.approx(nats, abs=0.06)
    assert bits_per_dim(-quantization_nats(dims), dims) == pytest.approx(8.0, abs=1e-12)


def test_one_nat_per_image():
    assert bits_per_dim(-1.0, 3 * 32 * 32) == pytest.approx(4.70e-4, rel=1e-3)
    assert bits_per_dim(-1.0, 3 * 64 * 64) == pytest.approx(1.174e-4, rel=1e-3)


def test_tensors_and_numbers_agree():
    nats = torch.tensor([-100.0, -200.0], dtype=torch.float64)
    bits = bits_per_dim(nats, 12)
    assert bits.tolist() == [bits_per_dim(-100.0, 12), bits_per_dim(-200.0, 12)]
    assert bits[1].item() == pytest.approx(200 / 12 / math.log(2))
