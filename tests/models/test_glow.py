import math

import pytest
import torch
from torch import Tensor, nn

from tests.models.flow_laws import FlowLaws, jacobian_of, layers_of, trained_on, whitened
from tests.models.helpers import generator, smooth, unlabelled
from visage.maths import noise
from visage.maths.pixels import to_uint8
from visage.maths.units import bits_per_dim
from visage.models import base
from visage.models.glow import AffineCoupling, Glow, GlowConfig, Split, TopPrior, ZeroConv, level, step_of_flow
from visage.nn.flow_layers import ActNorm, Bijection, Chain, InvertibleConv, Squeeze


def randomize(module: nn.Module) -> nn.Module:
    """Fresh networks end in zeros, which would make every law below trivially true."""
    g = generator(7)
    with torch.no_grad():
        for parameter in module.parameters():
            rotation = parameter.ndim == 2  # of an InvertibleConv: stays well-conditioned, its determinant leaves one
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.02 if rotation else 0.1)
    return module


def settings(levels: int, steps: int, width: int, axes: int = 0, least: float = 0.1) -> GlowConfig:
    return GlowConfig(levels=levels, steps=steps, width=width, least_scale=least, whitening_axes=axes)


def model(size: int = 8, levels: int = 2, random: bool = True, width: int = 4, axes: int = 0) -> Glow:
    """As the recipes have it: with scales from 1/2 on where the image is whitened."""
    torch.manual_seed(0)
    made = Glow(settings(levels, 2, width, axes, 0.5 if axes else 0.1), size)
    return (randomize(made) if random else made).eval()


LAYERS = {
    "affine_coupling": (lambda: AffineCoupling(4, 6, 0.1), (4, 4, 4)),
    "step_of_flow": (lambda: step_of_flow(12, 4, 0.5), (12, 4, 4)),
    "split": (lambda: Split(6, TopPrior(3, 4)), (6, 4, 4)),
    "top_prior": (lambda: TopPrior(3, 4), (3, 4, 4)),
    "flow": (lambda: model(8, 3).flow, (3, 8, 8)),
    "whitened_flow": (lambda: whitened(model(8, 2, axes=60)).flow, (3, 8, 8)),
}


@pytest.fixture(params=LAYERS)
def layer_and_x(request) -> tuple[Bijection, Tensor]:
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return randomize(build().double()), torch.randn(2, *shape, dtype=torch.float64, generator=generator(1))


def test_to_noise_undoes_from_noise(layer_and_x):
    layer, x = layer_and_x
    assert (layer.to_noise(layer.from_noise(x))[0] - x).abs().max() < 1e-5


def test_every_pixel_is_transformed_and_every_number_of_the_noise_depends_on_others():
    flow = model(8, 3).double().flow
    x = torch.randn(3, 8, 8, dtype=torch.float64, generator=generator(1))
    jacobian = jacobian_of(flow, x)
    off = (jacobian - torch.diag(jacobian.diagonal())).abs()
    assert (off.amax(1) > 1e-6).all()
    assert (off.amax(0) > 1e-6).all()


# Known answers


def test_one_step_of_flow_by_hand():
    step = step_of_flow(2, 1, 0.1).double()
    norm, conv, coupling = step.layers
    with torch.no_grad():
        norm.mean.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
        norm.log_std.copy_(torch.tensor([2.0, 0.5]).log().view(1, 2, 1, 1))
        conv.weight.copy_(torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
        coupling.net[-1].conv.bias.copy_(torch.tensor([-2.0, 7.0]))  # sigmoid(-2 + 2) = 1/2
        coupling.net[-1].gain[:, 1] = math.log(2.0) / 3  # shift 7 * exp(3 g) = 14
    x = torch.tensor([5.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 3, 2)
    # ActNorm: (5 - 1) / 2 = 2, 4 / .5 = 8; W: (3 * 8, 2) = (24, 2); coupling: (.55 * 24 + 14, 2)
    z, log_det = step.to_noise(x)
    torch.testing.assert_close(z[0, :, 0, 0], torch.tensor([0.55 * 24 + 14, 2.0], dtype=torch.float64))
    assert log_det.item() == pytest.approx(3 * 2 * (-math.log(2 * 0.5) + math.log(3) + math.log(0.55)))


def test_log_density_of_the_published_code():
    # rosinality/glow-pytorch, model.py: Glow(3, 1, 2) in float64 with these weights, its images padded with zeros, its
    # couplings in the paper's form s * x_a + t, its squeeze in the order of ours
    flow = level(settings(2, 1, 4, least=0.0), 3, 8, 0).double()
    with torch.no_grad():
        for i, parameter in enumerate(flow.parameters()):
            parameter.copy_(0.2 * torch.sin(i + torch.arange(parameter.numel())).view(parameter.shape))
        for conv in layers_of(flow, InvertibleConv):
            conv.weight.add_(torch.eye(len(conv.weight)))
        (top,) = layers_of(flow, TopPrior)
        for parameter in (top.mean, top.log_std):
            parameter.copy_(parameter[:, :, :1, :1])
        x = torch.sin(torch.arange(2.0 * 192, dtype=torch.float64)).view(2, 3, 8, 8) / 2
        e, log_det = flow.to_noise(x)
    log_p = log_det - (e.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
    assert log_p.tolist() == pytest.approx([-296.8690439583, -303.9731048543], abs=1e-9)


def test_a_fresh_flow_gives_uniform_noise_its_known_bits():
    # independent of the flow: whitened, a uniform variable costs as many bits as a Gaussian of its variance, 1/12
    flow = model(16, random=False)
    for coupling in layers_of(flow, AffineCoupling):  # s = 1: the one after the last ActNorm would not be undone
        nn.init.constant_(coupling.net[-1].conv.bias.chunk(2)[0], 20.0)
    v = torch.randint(0, 256, (48, 3, 16, 16), generator=generator(1))
    x = v / 127.5 - 1
    flow.initialize(unlabelled(x[:32]))
    with torch.no_grad():
        nats = flow.log_prob(x[32:], generator(2))
    expected = 8 + math.log2(math.sqrt(2 * math.pi * math.e / 12))
    assert bits_per_dim(nats.mean().item(), flow.dims) == pytest.approx(expected, abs=0.01)


@torch.no_grad()
def test_what_leaves_follows_its_learned_prior():
    split = randomize(Split(4, Chain())).double()
    h = torch.randn(1, 2, 2, 2, dtype=torch.float64, generator=generator(1))
    mean, log_std = split.mean_and_log_std(h)
    z = torch.cat([h, torch.randn(1, 2, 2, 2, dtype=torch.float64, generator=generator(2))], dim=1)
    e, log_det = split.to_noise(z)
    assert torch.equal(e[:, :2], h)
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(
        log_det + normal.log_prob(e[:, 2:]).sum(),
        torch.distributions.Normal(mean, log_std.exp()).log_prob(z[:, 2:]).sum()[None],
    )
    moved, _ = split.mean_and_log_std(h + 1)
    assert (moved - mean).abs().min() > 0  # given h, not a constant


@torch.no_grad()
def test_couplings_and_learned_priors_start_without_effect():
    coupling, split = AffineCoupling(4, 8, 0.3), Split(4, Chain())
    x = torch.randn(2, 4, 4, 4, generator=generator())
    s, t = coupling.scale_and_shift(x[:, 2:])
    torch.testing.assert_close(s, torch.full_like(s, 0.3 + 0.7 / (1 + math.exp(-2))))
    assert (t == 0).all()
    assert torch.equal(split.to_noise(x)[0], x)
    conv = ZeroConv(2, 3)
    conv.conv.weight.fill_(1.0)
    conv.gain.fill_(0.5)
    one = torch.zeros(1, 2, 3, 3)
    one[0, 0, 1, 1] = 1.0
    torch.testing.assert_close(conv(one), torch.full((1, 3, 3, 3), math.exp(1.5)))


def test_levels_halve_the_image_and_hand_on_half_of_its_channels():
    flow = model(16, 3).flow
    assert [len(norm.mean[0]) for norm in layers_of(flow, ActNorm)] == [12, 12, 24, 24, 48, 48]
    (top,) = layers_of(flow, TopPrior)
    assert top.mean.shape == (1, 48, 2, 2)
    assert len(layers_of(flow, Squeeze)) == 3
    assert len(layers_of(flow, Split)) == 2


def test_parameter_count_of_the_full_recipe():
    made = Glow(settings(4, 16, 256), 64)
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(14.4, abs=0.1)


def test_huge_inputs_stay_finite_both_ways():
    flow = model(random=True)
    for coupling in layers_of(flow, AffineCoupling):
        nn.init.normal_(coupling.net[-1].conv.weight, std=3.0)
    e, log_det = flow.flow.to_noise(100 * torch.randn(4, 3, 8, 8, generator=generator()))
    assert e.isfinite().all()
    assert log_det.isfinite().all()
    for codes in (torch.randn(4, 192, generator=generator()), 100 * torch.randn(4, 192, generator=generator())):
        assert flow.flow.from_noise(codes.view(4, 3, 8, 8)).isfinite().all()


# Initialisation


def test_act_norms_start_from_the_first_unlabelled():
    flow, x = model(random=False), smooth(32, 8)
    flow.initialize(unlabelled(x))
    squeezed = Squeeze.squeeze(flow.observe(x, noise.rand(32, flow.shape, generator(0))))
    out, _ = layers_of(flow.flow, ActNorm)[0].to_noise(squeezed)
    std, mean = torch.std_mean(out, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(12), atol=1e-4, rtol=0)


# Training and capabilities


@pytest.fixture(scope="module", params=[0, 300], ids=["plain", "whitened"])
def trained(request) -> tuple[Glow, float]:
    return trained_on(model(16, random=False, width=16, axes=request.param), smooth(16), 20)


class TestLaws(FlowLaws):
    offset = 0.5

    @staticmethod
    def build(size: int = 8, random: bool = True) -> Glow:
        return model(size, random=random)

    @staticmethod
    def build_whitened(size: int = 8, axes: int = 60) -> Glow:
        return model(size, random=False, axes=axes)


def test_every_grey_value_lies_within_a_half_and_comes_back():
    flow = model(random=False)
    flow.flow = Chain()
    x = (torch.arange(256.0) / 127.5 - 1)[:192].view(1, 3, 8, 8)
    for u in (0.001, 0.5, 0.999):
        y = flow.observe(x, torch.tensor(u))
        torch.testing.assert_close(y.flatten(), (torch.arange(192) + u) / 256 - 0.5)
        assert torch.equal(to_uint8(flow.decode(y.flatten(1))), to_uint8(x))


@torch.no_grad()
def test_temperature_scales_the_noise_of_every_level(trained):
    flow, _ = trained
    variants = flow.variants()
    assert list(variants) == ["T 1", "T 0.8", "T 0.7", "T 0.5"]
    assert torch.equal(variants["T 1"](3, generator(9)), flow.sample(3, generator(9)))
    cool = variants["T 0.5"](3, generator(9))
    codes = flow.prior(3, generator(9))
    assert torch.equal(cool, flow.decode(0.5 * codes).clamp(-1, 1))
    torch.testing.assert_close(flow.encode(flow.decode(0.5 * codes)), 0.5 * codes, rtol=1e-3, atol=1e-3)


def test_capabilities_are_those_of_the_mathematics():
    flow = model()
    can = {base.Samples, base.Encodes, base.Decodes, base.HasLogProb}
    assert {c for c in base.CAPABILITIES if base.can(flow, c)} == can
    assert base.can(flow, base.HasVariants)
    assert all(base.reason(flow, c) for c in base.CAPABILITIES if c not in can)


def test_size_must_suit_the_levels():
    with pytest.raises(ValueError, match="multiple of 8, not 12: set fewer levels"):
        model(12, levels=3)
