import math

import pytest
import torch

from visage.nn.unet import Attention, ResidualBlock, UNet, sinusoidal_embedding

PAPER = {"width": 128, "blocks": 2, "attention": (16,), "dropout": 0.1, "patch": 1}
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.0, "patch": 1}


def awake(net, seed=0):
    """The network with every layer at work: those that start at zero get random weights."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator)
    return net.eval()


@pytest.mark.parametrize(
    ("size", "multipliers", "millions"),
    [
        (32, (1, 2, 2, 2), 35.7),  # the CIFAR-10 network of Ho et al. 2020, appendix B
        (64, (1, 2, 2, 2, 4), 78.7),  # the CelebA network of Song et al. 2021 (arXiv:2010.02502)
    ],
)
def test_published_parameter_counts(size, multipliers, millions):
    with torch.device("meta"):
        net = UNet(3, size, multipliers=multipliers, **PAPER)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_embedding_is_sines_and_cosines_of_falling_frequencies():
    e = sinusoidal_embedding(torch.tensor([0.0, 1.0, 999.0]), 8)
    torch.testing.assert_close(e[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    frequencies = [10000 ** (-i / 4) for i in range(4)]
    expected = [math.sin(f) for f in frequencies] + [math.cos(f) for f in frequencies]
    torch.testing.assert_close(e[1], torch.tensor(expected))
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert (e[i] - e[j]).abs().max() > 0.1


def test_starts_as_zero_and_blocks_start_as_identity():
    net = UNet(3, 8, **SMALL)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 900.0])
    assert (net(x, t) == 0).all()
    h = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8, 8, 32)(h, torch.randn(2, 32)), h)
    assert torch.equal(Attention(8)(h), h)


@pytest.mark.parametrize("patch", [1, 2])
def test_sees_time_condition_and_the_whole_image_but_no_other_image(patch):
    net = awake(UNet(3, 16, condition=2, **SMALL | {"patch": patch, "attention": (8 // patch,)}))
    x, t, y = torch.randn(3, 3, 16, 16), torch.tensor([1.0, 50.0, 900.0]), torch.randn(3, 2)
    out = net(x, t, y)
    assert out.shape == x.shape
    torch.testing.assert_close(net(x[1:2], t[1:2], y[1:2]), out[1:2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(x, t.flip(0), y), out, atol=1e-3)
    assert not torch.allclose(net(x, t, -y), out, atol=1e-3)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, t, y)[0, 0, 0, 0], x)
    assert (gradient[0].abs().sum(0) > 0).all()  # every pixel, by attention
    assert (gradient[1:] == 0).all()


def test_attention_is_softmax_of_scaled_products():
    layer = awake(Attention(8))
    x = torch.randn(1, 8, 2, 2)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).chunk(3, dim=1)  # (1, 8, 4)
    weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(8), dim=2)
    expected = x + layer.out((v @ weights.transpose(1, 2)).reshape(1, 8, 2, 2))
    torch.testing.assert_close(layer(x), expected)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="size 30 cannot be halved 1 times after patches of 2"):
        UNet(3, 30, **SMALL | {"patch": 2})
    with pytest.raises(ValueError, match="width: 6"):
        UNet(3, 16, **SMALL | {"width": 6})
