import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from visage.maths.pixels import LEVELS, dequantize
from visage.maths.units import bits_per_dim
from visage.models import base
from visage.models.base import Batch, Decodes, Encodes, HasBound, HasLogProb, Reconstructs, Samples, ScoresOod, Step
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


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def model(size: int = 8, scales: int = 2, conv: bool = True, random: bool = True, width: int = 4) -> RealNVP:
    torch.manual_seed(0)
    made = RealNVP(RealNVPConfig(scales=scales, width=width, blocks=1, invertible_conv=conv), size)
    if random:
        randomize(made)
    return made.eval()


def images(n: int, size: int = 8, seed: int = 0) -> Tensor:
    """Smooth random images, so that there is something to learn."""
    g = generator(seed)
    x = torch.rand(n, 3, 2, 2, generator=g) * 1.6 - 0.8
    x = nn.functional.interpolate(x, size=size, mode="bilinear") + 0.1 * torch.randn(n, 3, size, size, generator=g)
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def coupling(mask: Tensor, channels: int) -> AffineCoupling:
    return AffineCoupling(mask, coupling_net(channels, 4, 1), channels)


def jacobian_of(layer: Bijection, x: Tensor) -> Tensor:
    """dz/dx by autograd, (D, D), for one image x (C, H, W)."""
    whole = torch.autograd.functional.jacobian(lambda y: layer.to_noise(y[None])[0].flatten(), x)
    return whole.flatten(1)


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
}


@pytest.fixture(params=LAYERS)
def layer_and_x(request):
    build, shape = LAYERS[request.param]
    torch.manual_seed(0)
    layer: Bijection = build().double()
    randomize(layer)
    return layer, torch.rand(2, *shape, dtype=torch.float64, generator=generator(1)) * 0.98 + 0.01


def test_log_det_is_that_of_the_jacobian(layer_and_x):
    layer, x = layer_and_x
    _, log_det = layer.to_noise(x)
    assert log_det.shape == (2,)
    for one, value in zip(x, log_det, strict=True):
        jacobian = jacobian_of(layer, one)
        assert abs(torch.linalg.slogdet(jacobian).logabsdet - value).item() < 1e-6


def test_from_noise_undoes_to_noise(layer_and_x):
    layer, x = layer_and_x
    z, _ = layer.to_noise(x)
    assert z.shape == x.shape
    assert (layer.from_noise(z) - x).abs().max() < 1e-8
    assert layer.from_noise(torch.randn_like(x)).isfinite().all()


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
        for norm in norms(flow):  # mild, or the density leaves the grid
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
    flow.initialize(Batch(x[:16], torch.zeros(16, 0)))
    with torch.no_grad():
        nats = flow.log_prob(x[16:], generator(2))
    assert bits_per_dim(nats.mean().item(), flow.dims) == pytest.approx(8.0577, abs=0.01)


def norms(flow: nn.Module) -> list[ActNorm]:
    return [layer for layer in flow.modules() if isinstance(layer, ActNorm)]


def test_act_norm_starts_from_the_first_batch_and_only_from_it():
    flow = model()
    x = images(16)
    flow.initialize(Batch(x, torch.zeros(16, 0)))
    before = copy.deepcopy(flow.state_dict())
    out, _ = Chain(*flow.flow.layers[:1], flow.flow.layers[1].layers[0]).to_noise(dequantize(x, torch.tensor(0.5)))
    std, mean = torch.std_mean(out, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.ones(3), atol=1e-4, rtol=0)

    flow.train()
    flow.loss(Batch(images(8, seed=5), torch.zeros(8, 0)), Step(0, 10, generator()))
    flow.log_prob(images(8, seed=6), generator())
    resumed = model(random=False)
    resumed.load_state_dict(before)
    resumed.loss(Batch(images(8, seed=7), torch.zeros(8, 0)), Step(5, 10, generator()))
    for key, value in before.items():
        assert torch.equal(flow.state_dict()[key], value), key
        assert torch.equal(resumed.state_dict()[key], value), key
    torch.testing.assert_close(resumed.encode(x), flow.encode(x), rtol=0, atol=0)


def test_initialisation_of_constant_images_stays_finite():
    flow = model(random=False)
    flow.initialize(Batch(torch.full((4, 3, 8, 8), -1.0), torch.zeros(4, 0)))
    assert flow.log_prob(images(2), generator()).isfinite().all()
    assert flow.sample(2, generator()).isfinite().all()


def test_huge_inputs_stay_finite():
    flow = model(random=True)
    z, log_det = flow.flow.layers[1].to_noise(100 * torch.randn(4, 3, 8, 8, generator=generator()))
    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert flow.decode(100 * torch.randn(4, 192, generator=generator())).isfinite().all()


@pytest.fixture(scope="module")
def trained() -> tuple[RealNVP, list[float]]:
    """A small flow after 40 steps on one batch, and the loss of each step in bits per dimension."""
    flow = model(16, random=False).train()
    batch = Batch(images(16, 16), torch.zeros(16, 0))
    flow.initialize(batch)
    parameters = [p for group in flow.players()["flow"] for p in group.parameters()]
    assert len(parameters) == len(list(flow.parameters()))
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    (phase,) = flow.phases()
    bits = []
    for i in range(40):
        loss, terms = phase.loss(batch, Step(i, 40, generator(i)))
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 50.0)
        optimizer.step()
        assert not terms["nll"].requires_grad
        assert terms["nll"].item() == pytest.approx(loss.item())
        bits.append(terms["bits_per_dim"].item())
    return flow.eval(), bits


def test_loss_falls_and_is_the_mean_of_log_prob(trained):
    flow, bits = trained
    assert bits[-1] < bits[0] - 0.7
    x = images(6, 16)
    loss, terms = flow.loss(Batch(x, torch.zeros(6, 0)), Step(0, 1, generator(3)))
    nats = flow.log_prob(x, generator(3))
    assert loss.item() == pytest.approx(-nats.mean().item(), rel=1e-6)
    assert terms["bits_per_dim"].item() == pytest.approx(bits_per_dim(nats.mean().item(), 768), rel=1e-6)


def test_log_prob_of_an_image_does_not_depend_on_its_batch(trained):
    flow, _ = trained
    x = images(6, 16, seed=2)
    together = flow.log_prob(x, generator(4))
    alone = flow.log_prob(x[:1], generator(4))
    other = flow.log_prob(torch.cat([x[:1], -x[1:]]), generator(4))
    assert bits_per_dim((together[0] - alone[0]).item(), 768) == pytest.approx(0, abs=1e-6)
    assert bits_per_dim((together[0] - other[0]).item(), 768) == pytest.approx(0, abs=1e-6)


def test_log_prob_in_float32_is_that_of_float64_and_ignores_autocast(trained):
    flow, _ = trained
    x = images(8, 16, seed=3)
    plain = flow.log_prob(x, generator(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = flow.log_prob(x, generator(4))
        _, terms = flow.loss(Batch(x, torch.zeros(8, 0)), Step(0, 1, generator(4)))
    double = copy.deepcopy(flow).double().log_prob(x.double(), generator(4))
    assert plain.dtype == cast.dtype == double.dtype == torch.float64
    assert bits_per_dim((plain - cast).abs().max(), 768).abs() < 1e-6
    assert bits_per_dim((plain - double).abs().max(), 768).abs() < 1e-3
    # in training the coupling networks do run in bfloat16: close, and not the same
    difference = terms["bits_per_dim"].item() - bits_per_dim(plain.mean().item(), 768)
    assert 0 < abs(difference) < 0.02


def test_round_trip_of_a_trained_flow(trained):
    flow, _ = trained
    y = dequantize(images(8, 16, seed=3), torch.tensor(0.5))
    with torch.no_grad():
        assert (flow.flow.from_noise(flow.flow.to_noise(y)[0]) - y).abs().max() < 1e-3
        double = copy.deepcopy(flow).double().flow
        assert (double.from_noise(double.to_noise(y.double())[0]) - y).abs().max() < 1e-8


def test_decoding_a_code_returns_the_image(trained):
    flow, _ = trained
    x = images(8, 16, seed=3)
    z = flow.encode(x)
    assert z.shape == (8, 768)
    torch.testing.assert_close(flow.decode(z), x, rtol=0, atol=1e-6)


def test_samples_are_8_bit_images_that_do_not_depend_on_how_many_are_drawn(trained):
    flow, _ = trained
    many, one = flow.sample(5, generator(9)), flow.sample(1, generator(9))
    assert many.shape == (5, 3, 16, 16)
    assert many.abs().max() <= 1
    torch.testing.assert_close((many + 1) * 127.5, ((many + 1) * 127.5).round(), rtol=0, atol=1e-4)
    torch.testing.assert_close(many[:1], one, rtol=0, atol=2.1 / 255)
    torch.testing.assert_close(flow.prior(5, generator(9))[:1], flow.prior(1, generator(9)), rtol=0, atol=0)


def test_randomness_comes_from_the_generator_alone(trained):
    flow, _ = trained
    x = images(4, 16)
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        loss, _ = flow.loss(Batch(x, torch.zeros(4, 0)), Step(0, 1, generator(3)))
        results.append((loss.item(), flow.log_prob(x, generator(3)), flow.sample(2, generator(3)), flow.encode(x)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(flow.log_prob(x, generator(3)), flow.log_prob(x, generator(4)))


def test_capabilities():
    flow = base.build("realnvp", {"scales": 2, "width": 4, "blocks": 1, "invertible_conv": False}, 8)
    for capability in (Samples, Encodes, Decodes, HasLogProb):
        assert base.can(flow, capability)
    for capability in (Reconstructs, HasBound, ScoresOod):
        assert not base.can(flow, capability)
        assert flow.why_not()[capability]


def test_size_must_suit_the_scales():
    with pytest.raises(ValueError, match="multiple of 8, not 12; set fewer scales"):
        model(12, scales=3)


def test_builds_at_128():
    flow = model(128, scales=4, width=2, random=False)
    assert flow.log_prob(images(1, 128), generator()).shape == (1,)


def test_the_gradient_in_the_image_is_that_of_finite_differences_in_its_values():
    # v and u enter as (v + u) / 256 alone, and v is 127.5 (x + 1)
    flow, x = model().double(), images(2).double().requires_grad_()
    u = 0.1 + 0.8 * torch.rand(x.shape, generator=generator(3), dtype=torch.float64)
    direction = torch.randn(x.shape, generator=generator(4), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(flow.log_density(x, u).sum(), x)
    with torch.no_grad():
        up, down = (flow.log_density(x, u + h * direction).sum() for h in (1e-4, -1e-4))
    assert (gradient * direction).sum().item() == pytest.approx(127.5 * ((up - down) / 2e-4).item(), rel=1e-5)
