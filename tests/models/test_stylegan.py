import copy
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.helpers import batch, generator, missing, portraits, step, train, uniform, unlabelled
from visage.models import base
from visage.models import stylegan as sg
from visage.models.stylegan import StyleGAN, StyleGANConfig
from visage.training.ema import Ema

FILTER = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64
SETTINGS = {
    "latent_dim": 6,
    "mapping_layers": 2,
    "width": 4,
    "max_width": 8,
    "r1_gamma": 0.5,
    "r1_every": 16,
    "path_every": 4,
    "noise_speed": 1.0,
    "mixing": 0.9,
    "linear": False,
}


def model(size=16, seed=0, **settings):
    torch.manual_seed(seed)
    return StyleGAN(StyleGANConfig(**SETTINGS | settings), size)


def randn(*shape, seed=3):
    return torch.randn(shape, generator=generator(seed))


def noisy(m):
    """The model with noise that can be seen: its strengths start at 0."""
    with torch.no_grad():
        for conv in m.synthesis.convs:
            conv.strength.fill_(0.5)
    return m


def chirp(*shape, phase=0):
    """Numbers that look random and are the same in every version of PyTorch."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (1.5 * torch.sin(0.37 * k * k + phase)).float().reshape(shape)


class CallCounter(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


# --- Sizes and settings


@pytest.mark.parametrize(
    ("size", "latent_dim", "mapping_layers", "width", "max_width", "numbers"),
    [
        (64, 256, 4, 128, 256, (5_699_224, 5_854_593)),
        (32, 256, 4, 256, 256, (5_124_627, 5_379_585)),
        (64, 512, 2, 256, 512, (22_243_608, 23_407_361)),  # the authors' automatic configuration at 64 pixels
        (32, 64, 2, 16, 64, (188_611, 218_449)),
    ],
)
def test_parameter_counts_are_the_authors(size, latent_dim, mapping_layers, width, max_width, numbers):
    m = model(size, latent_dim=latent_dim, mapping_layers=mapping_layers, width=width, max_width=max_width)
    assert tuple(sum(p.numel() for net in nets for p in net.parameters()) for nets in m.players().values()) == numbers


@pytest.mark.parametrize("size", [4, 30, 48])
def test_sizes_that_are_not_doubled_from_four_are_refused(size):
    with pytest.raises(ValueError, match=f"size {size}"):
        model(size)


def test_a_narrower_middle_is_refused():
    with pytest.raises(ValueError, match="max_width=4 < width=8"):
        model(width=8, max_width=4)


def test_phases_are_lazy_and_those_switched_off_are_missing():
    phases = [(p.player, p.every, p.fresh) for p in model().phases()]
    assert phases == [
        ("discriminator", 1, True),
        ("discriminator", 16, False),
        ("generator", 1, False),
        ("generator", 4, False),
    ]
    assert [p.every for p in model(r1_every=0, path_every=0).phases()] == [1, 1]


# --- Equalised learning rates


def test_weights_start_with_unit_variance_and_biases_at_zero_or_one():
    m = model(32, latent_dim=32, width=16, max_width=32)
    for name, p in m.named_parameters():
        if p.ndim > 1:
            unit = 100.0 if name.startswith("mapping") else 1.0
            assert p.std().item() == pytest.approx(unit, rel=0.3 if p.numel() < 100 else 0.1), name
        else:
            assert (p == float("affine" in name)).all(), name


def test_activations_keep_their_size_through_eight_layers():
    m = model(latent_dim=256, mapping_layers=8)
    w = m.mapping(5 * randn(64, 256))  # however long z is
    assert w.square().mean().item() == pytest.approx(1.0, abs=0.25)
    torch.manual_seed(0)
    x = torch.randn(4, 128, 18, 18)
    with torch.no_grad():
        for _ in range(8):
            x = sg.lrelu(sg.Conv(128, 128, 3)(x))
    assert x[:, :, 8:-8, 8:-8].square().mean().item() == pytest.approx(1.0, abs=0.4)


def test_gain_and_speed_are_applied_when_a_layer_is_used():
    layer = sg.Linear(4, 1, speed=0.01)
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(2.0)
    torch.testing.assert_close(layer(torch.ones(1, 4)), torch.tensor([[0.01 * (3.0 * 4 / math.sqrt(4) + 2.0)]]))


# --- Modulation and resampling


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_convolution_is_that_of_the_paper(up):
    """Equations 1 and 3, one image after the other: zeros between the pixels, a filter for its own, noise, bias."""
    torch.manual_seed(0)
    conv = sg.StyledConv(5, 7, 6, noise_speed=0.5, up=up)
    with torch.no_grad():
        conv.bias.normal_()
        conv.strength.fill_(0.7)
    side = 12 if up else 6
    x, w, noise = randn(3, 5, 6, 6), randn(3, 6, seed=4), randn(3, 1, side, side, seed=5)
    out = conv(x, w, noise)
    for i in range(3):
        s = conv.affine.weight @ w[i] / math.sqrt(6) + conv.affine.bias
        kernel = conv.weight / math.sqrt(5 * 9) * s[None, :, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            h = F.conv_transpose2d(x[i : i + 1], kernel.transpose(0, 1), stride=2)
            h = F.conv2d(h, 4 * FILTER.expand(7, 1, 4, 4), padding=1, groups=7)
        else:
            h = F.conv2d(x[i : i + 1], kernel, padding=1)
        h = h + 0.5 * 0.7 * noise[i] + conv.bias[:, None, None]
        expected = torch.where(h > 0, h, 0.2 * h)[0] * math.sqrt(2)
        torch.testing.assert_close(out[i], expected, rtol=1e-4, atol=1e-5)


def test_demodulation_gives_unit_variance_whatever_the_styles(monkeypatch):
    monkeypatch.setattr(sg, "lrelu", lambda x: x)
    torch.manual_seed(0)
    conv, x, w = sg.StyledConv(32, 48, 6, noise_speed=1.0, up=False), torch.randn(16, 32, 16, 16), torch.randn(16, 6)
    with torch.no_grad():
        out = conv(x, w, torch.zeros(1, 1, 16, 16))
        assert out[:, :, 1:-1, 1:-1].std((0, 2, 3)).mean().item() == pytest.approx(1.0, abs=0.05)
        conv.affine.weight.mul_(10)
        conv.affine.bias.mul_(10)
        torch.testing.assert_close(conv(x, w, torch.zeros(1, 1, 16, 16)), out, rtol=1e-3, atol=1e-4)


def test_colours_grow_with_the_styles():
    torch.manual_seed(0)
    rgb, x, w = sg.ToRGB(32, 6), torch.randn(4, 32, 8, 8), torch.randn(4, 6)
    with torch.no_grad():
        out = rgb(x, w)
        rgb.affine.weight.mul_(10)
        rgb.affine.bias.mul_(10)
        torch.testing.assert_close(rgb(x, w), 10 * out, rtol=1e-3, atol=1e-4)


def test_halving_convolutions_smooth_first():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, 8)
    for kernel in (1, 3):
        conv = sg.Conv(5, 7, kernel, down=True)
        pad = 1 + kernel // 2
        h = F.conv2d(x, FILTER.expand(5, 1, 4, 4), padding=pad, groups=5)
        h = F.conv2d(h, conv.weight / math.sqrt(5 * kernel**2), conv.bias, stride=2)
        torch.testing.assert_close(conv(x), h)


def test_doubling_an_image_is_zeros_between_its_pixels_and_four_times_the_filter():
    x = randn(2, 3, 5, 5)
    expected = F.conv_transpose2d(x, 4 * FILTER.expand(3, 1, 4, 4), stride=2, padding=1, groups=3)
    torch.testing.assert_close(sg.upsample(x), expected)
    torch.testing.assert_close(sg.upsample(torch.ones(1, 1, 4, 4))[..., 1:-1, 1:-1], torch.ones(1, 1, 6, 6))


@torch.no_grad()
def test_networks_agree_with_the_authors():
    """Figures from NVlabs/stylegan2-ada-pytorch (d72cc7d) with these weights, in its grouped-convolution form."""
    m = model()
    for i, p in enumerate(m.parameters()):
        p.copy_(chirp(*p.shape, phase=i))
    for layer in m.mapping.layers:
        layer.weight.mul_(100)
    m.noise.copy_(torch.cos(0.3 * torch.arange(m.noise.numel())))
    w = m.mapping(chirp(4, 6, phase=100))
    torch.testing.assert_close(w[1, :3], torch.tensor([3.650158166885376, 4.045897006988525, 4.015857696533203]))
    images = m.synthesis(w[:, None].expand(-1, 6, -1), m.noise)
    pixel = torch.tensor([0.4794929623603821, -1.074692726135254, -0.8895879983901978])
    torch.testing.assert_close(images[2, :, 5, 11], pixel, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.stack([images.mean(), images.std()]), torch.tensor([3.0911684, 5.5389166]))
    logits = torch.tensor([-1.0411522388458252, 0.026132404804229736, -2.32157564163208, 1.098325490951538])
    torch.testing.assert_close(m.discriminator(images), logits, rtol=1e-4, atol=1e-4)
    with torch.enable_grad():
        _, terms = m.r1(unlabelled(images), step())
    assert terms["r1"].item() == pytest.approx(0.018058793619275093, rel=1e-4)


# --- What an image depends on


@torch.no_grad()
def test_an_image_depends_on_its_own_code_and_noise_alone():
    m = noisy(model())
    ws, noise = randn(4, 6, 6), randn(4, m.synthesis.noise_dim, seed=4)
    images = m.synthesis(ws, noise)
    ws[1:], noise[1:] = randn(3, 6, 6, seed=5), randn(3, m.synthesis.noise_dim, seed=6)
    others = m.synthesis(ws, noise)
    torch.testing.assert_close(others[0], images[0])
    assert (others[1:] - images[1:]).flatten(1).abs().amax(1).min() > 1e-3


@torch.no_grad()
def test_every_layer_has_a_style_and_every_convolution_noise_of_its_own():
    m = noisy(model())
    ws, noise = randn(1, 6, 6), randn(1, m.synthesis.noise_dim, seed=4)
    assert m.synthesis.noise_dim == 16 + 2 * 64 + 2 * 256
    image = m.synthesis(ws, noise)
    for layer in range(6):
        other = ws.clone()
        other[:, layer] += 1
        assert (m.synthesis(other, noise) - image).abs().max() > 1e-3
    for start, stop in ((0, 16), (16, 80), (80, 144), (144, 400), (400, 656)):
        other = noise.clone()
        other[:, start:stop] += randn(1, stop - start, seed=5)
        assert (m.synthesis(ws, other) - image).abs().max() > 1e-3


def test_spread_of_groups():
    x = torch.zeros(8, 1, 4, 4)
    x[0], x[2], x[4], x[6] = 0.0, 2.0, 4.0, 6.0  # every second image is of the first group, as in the authors' code
    first, second = math.sqrt(5.0), 1e-4  # variance of 0, 2, 4, 6 without Bessel's correction; eps
    torch.testing.assert_close(sg.spread(x), torch.tensor([first, second] * 4), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sg.spread(x[:6:2]), torch.full((3,), math.sqrt(8 / 3)))
    torch.testing.assert_close(sg.spread(torch.cat([x[:1], x[4:5]])), torch.full((2,), 2.0))


@torch.no_grad()
def test_in_training_other_images_count_by_their_spread_alone(monkeypatch):
    m = model()
    x = batch(4).x
    other = torch.cat([x[:1], uniform(3, seed=9)])
    assert (m.discriminator(x)[0] - m.discriminator(other)[0]).abs() > 1e-4
    monkeypatch.setattr(sg, "spread", lambda x: torch.ones(len(x)))
    torch.testing.assert_close(m.discriminator(x)[0], m.discriminator(other)[0])


@torch.no_grad()
def test_in_evaluation_an_image_is_judged_by_itself():
    m = model()
    x = batch(16).x
    seen = [sg.spread(m.discriminator.blocks(sg.lrelu(m.discriminator.from_rgb(x)))).mean() for _ in range(2)]
    m.discriminator(x)
    torch.testing.assert_close(m.discriminator.spread, 0.99 + 0.01 * seen[0])
    before = m.eval().discriminator.spread.clone()
    together, alone = (m.ood_scores(images, generator())["discriminator"] for images in (x, x[:1]))
    torch.testing.assert_close(together[:1], alone)
    torch.testing.assert_close(together, -m.discriminator(x))
    assert torch.equal(m.discriminator.spread, before)
    m.discriminator.spread.add_(1.0)  # the stored spread is what D sees
    assert (m.discriminator(x[:1]) + alone).abs() > 1e-4


# --- Losses


def test_losses_of_known_logits():
    m = model()
    m.discriminator.forward = lambda x: torch.where(x.flatten(1)[:, 0] == 5, 1.0, -2.0)  # real ones are marked by a 5
    real = unlabelled(torch.full((4, 3, 16, 16), 5.0))
    loss, terms = m.discriminator_loss(real, step())
    torch.testing.assert_close(loss, F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(-2.0)))
    torch.testing.assert_close(terms["d_real"], torch.tensor(1.0).sigmoid())
    torch.testing.assert_close(m.generator_loss(real, step())[0], F.softplus(torch.tensor(2.0)))


def test_r1_of_a_linear_and_of_a_quadratic_discriminator():
    m, a = model(), torch.nn.Parameter(randn(3, 16, 16))
    x = batch(8).x
    m.discriminator.forward = lambda x: (a * x).sum((1, 2, 3))
    loss, terms = m.r1(batch(8), step())
    torch.testing.assert_close(terms["r1"], a.detach().square().sum())  # over pixels, mean over images
    torch.testing.assert_close(torch.autograd.grad(loss, a)[0], 16 * 0.5 * a.detach())
    m.discriminator.forward = lambda x: (a * x.square()).sum((1, 2, 3)) / 2
    loss, _ = m.r1(batch(8), step())
    torch.testing.assert_close(loss, 16 * 0.5 / 2 * (a * x).square().sum((1, 2, 3)).mean())
    torch.testing.assert_close(torch.autograd.grad(loss, a)[0], 16 * 0.5 * a.detach() * x.square().mean(0))


def test_a_lazy_penalty_weighs_as_much_as_one_at_every_step():
    often, lazy = model(r1_every=1, path_every=1), model(r1_every=16, path_every=4)
    torch.testing.assert_close(lazy.r1(batch(8), step())[0], 16 * often.r1(batch(8), step())[0])
    torch.testing.assert_close(lazy.path_length(batch(8), step())[0], 4 * often.path_length(batch(8), step())[0])


@pytest.mark.parametrize("penalty", ["r1", "path_length"])
def test_penalties_take_no_more_calls_for_more_channels(penalty):
    """PyTorch differentiates grouped convolutions twice with a call for every group: hundreds of them at full width."""

    def calls(**settings):
        m = model(**settings)
        counter = CallCounter()
        with counter:
            loss, _ = getattr(m, penalty)(batch(4), step())
            torch.autograd.grad(loss, [p for p in m.parameters() if p.requires_grad], allow_unused=True)
        return counter.calls

    assert calls(width=8, max_width=16) == calls(width=4, max_width=8) > 0


def test_path_lengths_of_a_linear_generator(monkeypatch):
    """Images = scale_i * sum over layers of M w_l: the gradient of <image, y> is scale_i * M^T y for every layer."""
    m = model(mixing=0.0)
    weights, scale = torch.nn.Parameter(randn(768, 6)), torch.tensor([1.0, 2.0, 3.0, 4.0])
    m.synthesis.forward = lambda ws, noise: (scale[:, None] * (ws.sum(1) @ weights.T)).reshape(-1, 3, 16, 16)
    y, usual = chirp(4, 3, 16, 16), torch.randn
    monkeypatch.setattr(torch, "randn", lambda size, **kw: y if size == y.shape else usual(size, **kw))
    m.pl_mean.fill_(2.0)
    loss, terms = m.path_length(batch(8), step())  # half of the batch
    unit = (weights.T @ (y.reshape(4, -1) / 16).T).norm(dim=0)
    lengths = scale * unit
    mean = 0.99 * 2.0 + 0.01 * lengths.mean()
    torch.testing.assert_close(m.pl_mean, mean.detach())
    torch.testing.assert_close(terms["path_mean"], mean.detach())
    expected = 4 * 2 * (lengths - mean.detach()).square().mean()
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, weights)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_path_noise_does_not_grow_with_the_image():
    """E |J^T y|^2 is the squared Frobenius norm of J over the number of pixels of one colour."""
    m = model(mixing=0.0)
    m.synthesis.forward = lambda ws, noise: ws.sum((1, 2))[:, None, None, None].expand(-1, 3, 16, 16)
    for seed in range(40):
        m.path_length(batch(64), step(seed))
    # every one of 6 dimensions moves 3 * 256 pixels by 1: lengths^2 is 6 * (sum y / 16)^2, sum y / 16 ~ N(0, 3)
    expected = (1 - 0.99**40) * math.sqrt(6) * math.sqrt(3) * math.sqrt(2 / math.pi)  # E |N(0, 1)|
    assert m.pl_mean.item() == pytest.approx(expected, rel=0.05)


def test_no_gradient_leaks_from_one_player_to_the_other():
    m = model()
    players = {name: [p for q in nets for p in q.parameters()] for name, nets in m.players().items()}
    assert sorted(id(p) for ps in players.values() for p in ps) == sorted(id(p) for p in m.parameters())
    for phase in m.phases()[:2]:
        loss, _ = phase.loss(batch(8), step())
        leaked = torch.autograd.grad(loss, players["generator"], allow_unused=True, retain_graph=True)
        assert all(g is None for g in leaked)
    for phase in m.phases():
        loss, _ = phase.loss(batch(8), step())
        reached = torch.autograd.grad(loss, players[phase.player], allow_unused=True)
        moved = sum(g is not None and bool(g.abs().sum() > 0) for g in reached)
        assert moved > len(reached) / 2


def test_losses_are_float32_under_bf16_and_penalties_exact():
    m = model()
    exact = [phase.loss(batch(8), step())[0] for phase in copy.deepcopy(m).phases()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [phase.loss(batch(8), step())[0] for phase in m.phases()]
    assert all(loss.dtype == torch.float32 for loss in losses)
    torch.testing.assert_close(losses[1::2], exact[1::2])


def test_the_discriminator_learns_to_tell_and_the_generator_to_fool():
    m = model(mixing=0.0)
    terms = train(m, [batch(8)] * 30, ["discriminator"], 1e-2, (0.0, 0.99))["discriminator"]
    assert terms["d_real"] > 0.7 > 0.3 > terms["d_fake"]
    assert train(m, [batch(8)] * 60, ["generator"], 1e-2, (0.0, 0.99))["generator"]["d_fake"] > 0.5


# --- Style mixing, running means


def test_mixed_images_change_their_code_once_and_at_places_of_their_own():
    m = model(mixing=0.75)
    _, ws = m.generate(400, step())
    changes = (ws[:, 1:] != ws[:, :-1]).any(2)
    assert (changes.sum(1) <= 1).all()
    assert changes.any(1).float().mean().item() == pytest.approx(0.75, abs=0.06)
    assert changes.float().mean(0).tolist() == pytest.approx([0.15] * 5, abs=0.06)
    _, same = model(mixing=0.0).generate(4, step())
    assert (same == same[:, :1]).all()


def test_running_means_follow_training_and_rest_in_evaluation():
    m = model()
    seen = []
    m.mapping.register_forward_hook(lambda _, z, w: seen.append(w.detach().clone()))
    for loss in (m.discriminator_loss, m.r1, m.path_length):
        loss(batch(8), step())
        assert (m.w_avg == 0).all()
    m.generator_loss(batch(8), step())
    torch.testing.assert_close(m.w_avg, 0.005 * seen[-2].mean(0))  # of the first codes, not of those mixed in
    assert m.pl_mean > 0
    ema = Ema(m, 0.9)
    m.generator_loss(batch(8), step())
    m.path_length(batch(8), step())
    ema.update(m, 0)
    for name in ("w_avg", "pl_mean", "noise"):
        assert torch.equal(getattr(m, name), getattr(ema.model, name)), name
    before = [b.clone() for b in m.eval().buffers()]
    m.sample(4, generator())
    m.ood_scores(batch(8).x, generator())
    assert all(torch.equal(a, b) for a, b in zip(before, m.buffers(), strict=True))


# --- Capabilities


def trained():
    """A model whose mean code and noise can be told from nothing."""
    m = noisy(model()).eval()
    m.w_avg.copy_(randn(6))
    with torch.no_grad():
        for rgb in m.synthesis.rgbs:
            rgb.conv.weight.mul_(0.1)  # inside of [-1, 1]
    return m


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert missing(m) == {base.Reconstructs, base.Encodes, base.HasLogProb, base.HasBound} == set(m.why_not())
    assert base.can(m, base.HasVariants)


@torch.no_grad()
def test_truncation_goes_from_the_mean_code_to_the_sample():
    m = trained()
    none, full = m.truncated(5, generator(), 0.0), m.truncated(5, generator(), 1.0)
    dims = 6 + m.synthesis.noise_dim
    g = generator()
    z, noise = torch.stack([torch.randn(dims, generator=g) for _ in range(5)]).split([6, dims - 6], 1)
    torch.testing.assert_close(none, m.images(m.w_avg.expand(5, -1), noise))
    torch.testing.assert_close(full, m.images(m.mapping(z), noise))
    torch.testing.assert_close(full, m.sample(5, generator()))
    variants = {name: draw(5, generator()) for name, draw in m.variants().items()}
    assert list(variants) == ["psi 1", "psi 0.7", "psi 0.5"]
    distances = [(images - none).square().mean() for images in variants.values()]
    assert distances[0] > distances[1] > distances[2] > 0


@torch.no_grad()
def test_codes_are_of_w_and_their_images_have_one_noise():
    m = trained()
    w = m.prior(3, generator())
    torch.testing.assert_close(w[:1], m.mapping(torch.randn(1, 6, generator=generator())))
    torch.testing.assert_close(m.decode(w[1:2]), m.decode(w)[1:2])
    torch.testing.assert_close(m.decode(w), m.images(w, m.noise.expand(3, -1)))
    assert (m.sample(1, generator()) - m.decode(w[:1])).abs().max() > 1e-3  # a sample's noise is its own


@torch.no_grad()
def test_images_are_clamped():
    m = trained()
    m.synthesis.rgbs[-1].conv.weight.mul_(1e4)
    for images in (m.sample(2, generator()), m.decode(m.prior(2, generator()))):
        assert images.abs().max() == 1


@torch.no_grad()
def test_features_are_what_the_last_layer_weighs():
    m, x = model().eval(), batch(5).x
    logits = m.discriminator.out(m.features(x))[:, 0]
    torch.testing.assert_close(logits, m.discriminator(x))
    torch.testing.assert_close(logits, -m.ood_scores(x, generator())[m.discriminator_score])


# --- Principal components


def test_linear_maps_start_at_images_of_the_right_mean_and_covariance():
    x = portraits(300).float()
    m = model(linear=True, latent_dim=12, mixing=0.0)
    m.initialize(unlabelled(x))
    w = m.mapping(torch.randn(10_000, 12, generator=generator(8)))
    with torch.no_grad():
        drawn = m.synthesis(w[:, None].expand(-1, m.synthesis.layers, -1), m.noise).flatten(1)
    mirrored = torch.cat([x, x.flip(3)]).flatten(1)
    pca = PCA(12).fit(mirrored.numpy())
    torch.testing.assert_close(drawn.mean(0), mirrored.mean(0), rtol=0, atol=0.02)
    axes, variances = (torch.from_numpy(part).float() for part in (pca.components_, pca.explained_variance_))
    along = (drawn - drawn.mean(0)) @ axes.T / variances.sqrt()
    torch.testing.assert_close(along.T.cov(), torch.eye(12), rtol=0, atol=0.06)
    torch.testing.assert_close(along * variances.sqrt() @ axes, drawn - drawn.mean(0), rtol=0, atol=1e-3)


def test_the_linear_map_follows_the_code_that_is_decoded_and_truncated():
    m = model(linear=True, mixing=0.0)
    m.initialize(unlabelled(portraits(100).float()))
    z = m.prior(3, generator())
    expected = m.synthesis.linear(z).view(3, 3, 16, 16).clamp(-1, 1)  # the layers add no colour yet
    torch.testing.assert_close(m.decode(z), expected)
    m.w_avg.copy_(z[0])
    torch.testing.assert_close(m.truncated(2, generator(), 0.0), expected[:1].expand(2, -1, -1, -1))


def test_without_linear_maps_nothing_is_initialised_from_images():
    m = model()
    before = copy.deepcopy(m.state_dict())
    m.initialize(unlabelled(portraits(50).float()))
    assert m.initial_images == 1024
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
