import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.models.flow_laws import FlowLaws, jacobian_of, layers_of, trained_on, whitened
from tests.models.helpers import generator, smooth, unlabelled
from visage.maths import noise
from visage.maths.pixels import LEVELS, dequantize
from visage.maths.units import bits_per_dim
from visage.models import base
from visage.models.realnvp import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Chain,
    FactorOut,
    InvertibleConv,
    Logit,
    RealNVP,
    RealNVPConfig,
    Squeeze,
    channelwise,
    checkerboard,
    coupling_net,
)
from visage.nn.flow_layers import Whitening


def randomize(module: nn.Module, std: float = 0.1) -> None:
    """Fresh coupling networks are zero, which would make every law below trivially true."""
    g = generator(7)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                for parameter in part.parameters():
                    parameter.normal_(0, std, generator=g)
            if isinstance(part, ActNorm):
                part.mean.normal_(0, 0.5, generator=g)
                part.log_std.normal_(0, 0.3, generator=g)
            if isinstance(part, InvertibleConv):  # a rotation's log-determinant is zero
                part.weight.add_(torch.randn(part.weight.shape, generator=g), alpha=0.05)


def model(
    size: int = 8, scales: int = 2, conv: bool = True, random: bool = True, width: int = 4, axes: int = 0
) -> RealNVP:
    torch.manual_seed(0)
    settings = RealNVPConfig(scales=scales, width=width, blocks=1, invertible_conv=conv, whitening_axes=axes)
    made = RealNVP(settings, size)
    if random:
        randomize(made)
    return made.eval()


def coupling(mask: Tensor, channels: int) -> AffineCoupling:
    return AffineCoupling(mask, coupling_net(channels, 4, 1), channels)


LAYERS = {
    "logit": (lambda: Logit(), (3, 8, 8)),
    "act_norm": (lambda: ActNorm(3), (3, 8, 8)),
    "invertible_conv": (lambda: InvertibleConv(3), (3, 8, 8)),
    "checkerboard_even": (lambda: coupling(checkerboard(8, 0), 3), (3, 8, 8)),
    "checkerboard_odd": (lambda: coupling(checkerboard(8, 1), 3), (3, 8, 8)),
    "channelwise": (lambda: coupling(channelwise(12, 0), 12), (12, 4, 4)),
    "squeeze": (lambda: Squeeze(Chain(ActNorm(12), coupling(channelwise(12, 1), 12))), (3, 8, 8)),
    "factor_out": (lambda: FactorOut(coupling(checkerboard(4, 0), 6)), (12, 4, 4)),
    "flow": (lambda: model(8, 2, conv=False).flow, (3, 8, 8)),
    "flow_with_convolutions": (lambda: model(8, 3, conv=True).flow, (3, 8, 8)),
    "whitened_flow": (lambda: whitened(model(8, 2, axes=60)).flow, (3, 8, 8)),
}


@pytest.fixture(params=LAYERS)
def layer_and_x(request):
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    layer: Bijection = build().double()
    randomize(layer)
    return layer, torch.rand(2, *shape, dtype=torch.float64, generator=generator(1)) * 0.98 + 0.01


def test_log_jacobian_of_the_logit_at_a_known_point():
    # d/dy logit(.05 + .9 y) = .9 / (w (1 - w)); at y = 1/2 that is 3.6
    z, log_det = Logit().to_noise(torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64))
    assert z.item() == pytest.approx(0.0, abs=1e-12)
    assert log_det.item() == pytest.approx(math.log(3.6), abs=1e-12)


@pytest.mark.parametrize("u", [0.0, 0.5, 0.999])
def test_every_grey_value_survives_the_logit(u):
    v = torch.arange(256.0, dtype=torch.float64)
    y = dequantize(v / 127.5 - 1, torch.tensor(u)).view(1, 1, 16, 16)
    back = Logit().from_noise(Logit().to_noise(y)[0])
    assert torch.equal((LEVELS * back + 1e-9).floor().flatten(), v)


def test_squeeze_is_exact_and_its_first_half_is_one_diagonal_of_every_block():
    size = 6
    x = torch.arange(3.0 * size * size).view(1, 3, size, size)
    z = Squeeze.squeeze(x)
    assert z.shape == (1, 12, 3, 3)
    assert torch.equal(Squeeze.unsqueeze(z), x)
    kept, out = z.chunk(2, dim=1)
    rows, columns = (out.flatten() % size**2) // size, out.flatten() % size
    assert ((rows + columns) % 2 == 1).all(), "the factored-out half is not the odd diagonal"
    # every 2x2 block gives two pixels with all three colours
    block = (rows // 2) * (size // 2) + columns // 2
    assert torch.bincount(block.long()).tolist() == [6] * (size // 2) ** 2
    assert len(set(kept.flatten().tolist()) | set(out.flatten().tolist())) == x.numel()


@pytest.mark.parametrize(
    ("a", "b"), [(checkerboard(8, 0), checkerboard(8, 1)), (channelwise(12, 0), channelwise(12, 1))]
)
def test_masks_of_consecutive_couplings_complement_each_other(a, b):
    assert torch.equal(a + b, torch.ones_like(a))
    assert a.sum() == b.sum()


def test_the_masks_of_a_flow_alternate():
    masks = [layer.mask for layer in model(8, 3).flow.modules() if isinstance(layer, AffineCoupling)]
    assert len(masks) == 3 + 3 + 3 + 3 + 4
    pairs = [(a, b) for a, b in itertools.pairwise(masks) if a.shape == b.shape]
    assert len(pairs) == 2 + 2 + 2 + 2 + 3
    for a, b in pairs:
        assert torch.equal(a + b, torch.ones_like(a))


def test_channelwise_mask_does_not_repeat_the_checkerboard():
    x = checkerboard(8, 0).expand(1, 3, 8, 8)
    groups = Squeeze.squeeze(x) * channelwise(12, 0)
    assert groups.sum() == x.sum() / 2


@pytest.mark.parametrize("parity", [0, 1])
def test_a_coupling_changes_what_its_mask_hides_and_nothing_else(parity):
    layer = coupling(checkerboard(8, parity), 3)
    randomize(layer)
    x = torch.randn(4, 3, 8, 8, generator=generator())
    changed = layer.to_noise(x)[0] != x
    assert torch.equal(changed, (layer.mask == 0).expand_as(x))


def test_every_pixel_is_transformed():
    flow = model(8, 3, conv=False).double().flow
    inner = Chain(*[layer for layer in flow.layers[1].layers if not isinstance(layer, ActNorm)])
    x = torch.randn(3, 8, 8, dtype=torch.float64, generator=generator())
    jacobian = jacobian_of(inner, x)
    off = jacobian - torch.diag(jacobian.diagonal())
    assert (off.abs().amax(1) > 0).all(), "a dimension of the noise depends on its own pixel alone"
    assert (off.abs().amax(0) > 0).all(), "a pixel influences nothing but itself"


def test_density_of_a_two_dimensional_flow_integrates_to_one():
    even = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    flow = Chain(
        ActNorm(2),
        coupling(even, 2),
        ActNorm(2),
        InvertibleConv(2),
        coupling(1 - even, 2),
        ActNorm(2),
        coupling(even, 2),
    ).double()
    randomize(flow, std=0.15)
    with torch.no_grad():
        for norm in layers_of(flow, ActNorm):  # mild, or the density leaves the grid
            norm.log_std.mul_(0.3)
        flow.layers[3].weight.copy_(torch.tensor([[1.0, 0.4], [-0.3, 0.9]]))
        side = torch.linspace(-8, 8, 401, dtype=torch.float64)
        x = torch.cartesian_prod(side, side).view(-1, 2, 1, 1)
        z, log_det = flow.to_noise(x)
        density = (log_det - z.square().flatten(1).sum(1) / 2 - math.log(2 * math.pi)).exp()
    assert density.sum().item() * (16 / 400) ** 2 == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("size", [32, 64])
def test_identity_with_act_norm_gives_uniform_noise_its_known_bits(size):
    # independent of the flow: 8 + cross-entropy of a Gaussian with the logit's moments, minus the uniform's entropy
    flow = model(size, random=False, conv=False)
    v = torch.randint(0, 256, (24, 3, size, size), generator=generator(1))
    x = v / 127.5 - 1
    flow.initialize(unlabelled(x[:16]))
    with torch.no_grad():
        nats = flow.log_prob(x[16:], generator(2))
    assert bits_per_dim(nats.mean().item(), flow.dims) == pytest.approx(8.0577, abs=0.01)


def test_act_norm_starts_from_the_first_batch():
    flow, x = model(), smooth(16, 8)
    flow.initialize(unlabelled(x))
    y = dequantize(x, noise.rand(16, flow.shape, generator(0)))
    out, _ = Chain(*flow.flow.layers[:1], flow.flow.layers[1].layers[0]).to_noise(y)
    std, mean = torch.std_mean(out, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-4, rtol=0)


def test_huge_inputs_stay_finite():
    flow = model(random=True)
    z, log_det = flow.flow.layers[1].to_noise(100 * torch.randn(4, 3, 8, 8, generator=generator()))
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert flow.decode(100 * torch.randn(4, 192, generator=generator())).isfinite().all()


@pytest.fixture(scope="module", params=[0, 300], ids=["plain", "whitened"])
def trained(request) -> tuple[RealNVP, float]:
    return trained_on(model(16, random=False, axes=request.param), smooth(16), 20)


class TestLaws(FlowLaws):
    @staticmethod
    def build(size: int = 8, random: bool = True) -> RealNVP:
        return model(size, random=random)

    @staticmethod
    def build_whitened(size: int = 8, axes: int = 60) -> RealNVP:
        return model(size, random=False, conv=False, axes=axes)


def test_round_trip_of_a_trained_flow(trained):
    flow, _ = trained
    y = dequantize(smooth(8, seed=3), torch.tensor(0.5))
    with torch.no_grad():
        assert (flow.flow.from_noise(flow.flow.to_noise(y)[0]) - y).abs().max() < 1e-3
        double = copy.deepcopy(flow).double().flow
        least = 1e-6 if layers_of(flow.flow, Whitening) else 1e-8  # its axes are orthonormal in float32
        assert (double.from_noise(double.to_noise(y.double())[0]) - y).abs().max() < least


def test_capabilities_are_those_of_the_mathematics():
    flow = model()
    can = {base.Samples, base.Encodes, base.Decodes, base.HasLogProb}
    assert {c for c in base.CAPABILITIES if base.can(flow, c)} == can
    assert all(base.reason(flow, c) for c in base.CAPABILITIES if c not in can)


def test_size_must_suit_the_scales():
    with pytest.raises(ValueError, match="multiple of 8, not 12; set fewer scales"):
        model(12, scales=3)


def test_builds_at_128():
    flow = model(128, scales=4, width=2, random=False)
    assert flow.log_prob(smooth(1, 128), generator()).shape == (1,)
