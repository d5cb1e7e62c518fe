import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from tests.models.helpers import batch, generator, parameters, portraits, step, train, uniform, unlabelled
from visage.models import base
from visage.models.wgan import WGAN, ResidualBlock, WGANConfig
from visage.training.plan import total_steps

CLIP = WGANConfig(
    constraint="clip",
    clip=0.01,
    penalty=0.0,
    n_critic=5,
    blocks="convolutional",
    norm="batch",
    latent_dim=8,
    width=8,
    linear=False,
)
PENALTY = dataclasses.replace(CLIP, constraint="penalty", clip=0.0, penalty=10.0, norm="none")
RESIDUAL = dataclasses.replace(PENALTY, blocks="residual", norm="layer", width=4)
ALL = pytest.mark.parametrize("config", [CLIP, PENALTY, RESIDUAL], ids=["clip", "penalty", "residual"])


def model(config, size=16, seed=0):
    torch.manual_seed(seed)
    return WGAN(config, size)


class Linear(nn.Module):
    """f(x) = <w, x>, whose slope is |w| everywhere."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        return (x * self.w).flatten(1).sum(1)


# --- Settings and networks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch"}, "norm=batch"),
        ({"clip": 0.01}, r"clip=0.01 .* set it to 0"),
        ({"penalty": 0.0}, r"penalty=0.0 .* above 0"),
        ({"constraint": "clip"}, r"clip=0.0 .* above 0"),
        ({"constraint": "clip", "clip": 0.01}, r"penalty=10.0 .* set it to 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PENALTY, **change)


@pytest.mark.parametrize("size", [8, 48])
def test_sizes_that_cannot_be_halved_down_to_four_are_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        model(RESIDUAL, size)


@pytest.mark.parametrize(
    ("config", "size", "counts"),
    [
        # 64 pixels, compared with networks of martinarjovsky/WassersteinGAN and igul222/improved_wgan_training
        (dataclasses.replace(CLIP, latent_dim=100, width=64), 64, (3_576_704, 2_765_568)),
        (dataclasses.replace(RESIDUAL, latent_dim=128, width=64), 64, (8_540_483, 7_491_840)),
        (dataclasses.replace(PENALTY, latent_dim=64, width=32), 32, (296_896, 167_648)),
    ],
)
def test_parameter_counts(config, size, counts):
    m = model(config, size)
    assert tuple(sum(p.numel() for p in net.parameters()) for net in (m.generator, m.critic)) == counts


@pytest.mark.parametrize("resize", ["double", "halve"])
def test_a_residual_block_adds_to_its_resized_input(resize):
    block, x = ResidualBlock(3, 5, "layer", resize), uniform(2)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    direct = (x.movedim(1, 3) @ block.skip.weight[:, :, 0, 0].T + block.skip.bias).movedim(3, 1)
    if resize == "double":
        expected = direct.repeat_interleave(2, 2).repeat_interleave(2, 3)
    else:
        expected = direct.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
    torch.testing.assert_close(block(x), expected)
    nn.init.constant_(block.conv2.bias, 1.0)
    torch.testing.assert_close(block(x), expected + 1)
    assert (block.conv1.out_channels, block.conv2.in_channels) == ((5, 5) if resize == "double" else (3, 3))


def test_layer_normalisation_is_over_all_channels_and_positions_of_an_image():
    m = model(RESIDUAL)
    seen = []
    m.critic.layers[1].norm1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    m.critic(torch.cat([uniform(2), 0.1 * uniform(2)]))
    torch.testing.assert_close(seen[0].flatten(1).mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0].flatten(1).var(1, unbiased=False), torch.ones(4), atol=5e-3, rtol=0)
    assert seen[0].mean((2, 3)).abs().max() > 0.01  # not channel by channel


@ALL
def test_the_critic_may_say_any_number(config):
    m, x = model(config), uniform(8)
    before = m.critic(x)
    with torch.no_grad():
        m.critic.layers[-2].weight.mul_(1e6)
    torch.testing.assert_close(m.critic(x), 1e6 * before, rtol=1e-3, atol=1e-3)  # a sigmoid would end at 1


@torch.no_grad()
@ALL
def test_generated_images_are_tanh_outputs(config):
    m = model(config).eval()
    m.generator.layers[-1].weight.mul_(1e4)
    x = m.sample(3, generator())
    assert x.shape == (3, 3, 16, 16)
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1


# --- The objective


def test_losses_of_known_opinions():
    m = model(CLIP)
    m.critic.forward = lambda x: torch.where(x.flatten(1)[:, 0] == 5, 3.0, -2.0)  # real ones are marked by a 5
    real = unlabelled(torch.full((4, 3, 16, 16), 5.0))
    loss, terms = m.critic_loss(real, step())
    assert loss.item() == -(3 - -2)
    assert terms["gap"].item() == 5
    assert m.generator_loss(real, step())[0].item() == 2


def test_both_players_feel_the_critic_with_equal_weight_however_sure_it_is():
    m, opinions = model(CLIP), torch.full((4,), -20.0, requires_grad=True)
    m.critic.forward = lambda x: opinions
    (gradient,) = torch.autograd.grad(m.generator_loss(batch(4), step())[0], opinions)
    torch.testing.assert_close(gradient, torch.full((4,), -0.25))


@pytest.mark.parametrize("config", [CLIP, PENALTY], ids=["clip", "penalty"])
def test_the_critic_widens_the_gap_and_the_generator_closes_it(config):
    m = model(dataclasses.replace(config, n_critic=1))
    start = m.critic_loss(batch(8), step())[1]["gap"].item()
    trained = train(m, [batch(8)] * 15, ["critic"])["critic"]["gap"].item()
    assert trained > start + 0.01
    before = m.generator_loss(batch(8), step())[0].item()
    train(m, [batch(8)] * 15, ["generator"])
    assert m.generator_loss(batch(8), step())[0].item() < before
    assert m.critic_loss(batch(8), step())[1]["gap"].item() < 0.8 * trained


def test_a_linear_critics_penalty_is_known():
    m, w = model(PENALTY), torch.randn(3, 16, 16, generator=generator())
    norm = w.norm().item()
    m.critic = Linear(w)
    real = batch(8)
    loss, terms = m.critic_loss(real, step())
    torch.testing.assert_close(terms["penalty"].item(), 10 * (norm - 1) ** 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["slope"].item(), norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.item(), (terms["penalty"] - terms["gap"]).item())
    penalty = 10 * (m.slopes(real.x, uniform(8, seed=5), step()) - 1).square().mean()
    (gradient,) = torch.autograd.grad(penalty, m.critic.w)
    torch.testing.assert_close(gradient, 20 * (norm - 1) * w / norm, rtol=1e-4, atol=1e-6)


def test_the_penalty_is_a_mean_over_images():
    """f = |x|^2 / 2 has the slope |x|."""
    m, seen = model(PENALTY), []
    m.critic.forward = lambda x: (seen.append(x.detach()), x.square().flatten(1).sum(1) / 2)[1]
    _, terms = m.critic_loss(batch(8), step())
    lengths = seen[-1].flatten(1).norm(dim=1)
    torch.testing.assert_close(terms["penalty"], 10 * (lengths - 1).square().mean())
    assert lengths.std() > 1  # it makes a difference that deviations, not slopes, are averaged


def test_slopes_agree_with_finite_differences():
    m, real, fake = model(RESIDUAL).double(), uniform(4).double(), uniform(4, seed=5).double()
    seen = []
    m.critic.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    slopes = m.slopes(real, fake, step())
    m.critic.forward = lambda x: m.critic.layers(x)  # in double precision to the end
    at = seen[0].requires_grad_()
    (gradient,) = torch.autograd.grad(m.critic(at).sum(), at)
    uphill = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    rise = (m.critic(at + 1e-5 * uphill) - m.critic(at - 1e-5 * uphill)) / 2e-5
    torch.testing.assert_close(slopes, rise, rtol=1e-4, atol=0)


def test_points_lie_between_pairs_at_a_place_of_their_own():
    m, real, fake, seen = model(PENALTY), uniform(64), uniform(64, seed=5), []
    m.critic.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    m.slopes(real, fake, step())
    places = ((seen[0] - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(places.median(1).values[:, None].expand_as(places), places, atol=0.02, rtol=0)
    epsilon = places.median(1).values
    torch.testing.assert_close(epsilon, torch.rand(64, generator=generator(2)), atol=1e-4, rtol=1e-4)


def test_between_two_images_the_best_penalised_critic_is_known():
    """For real x and generated y at distance d, a slope s earns s d - lambda (s - 1)^2: s = 1 + d / (2 lambda)."""
    m = model(dataclasses.replace(PENALTY, n_critic=1))
    x, y = uniform(1), uniform(1, seed=5)
    y = x + (y - x) * 10 / (y - x).norm()
    m.generator.forward = lambda z: y.expand(len(z), -1, -1, -1)
    data = unlabelled(x.expand(8, -1, -1, -1))
    terms = train(m, [data] * 150, ["critic"], lr=5e-3)["critic"]
    best = 1 + 10 / 20
    assert terms["slope"].item() == pytest.approx(best, rel=0.05)
    assert terms["gap"].item() == pytest.approx(10 * best, rel=0.05)
    assert (terms["gap"] - terms["penalty"]).item() == pytest.approx(10 + 10**2 / 40, rel=0.05)


@pytest.mark.parametrize("config", [PENALTY, RESIDUAL], ids=["penalty", "residual"])
def test_in_training_a_penalised_critic_judges_each_image_by_itself(config):
    m, x = model(config).train(), uniform(2).requires_grad_()
    (gradient,) = torch.autograd.grad(m.critic(x)[0], x)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_a_critic_without_slope_has_a_finite_gradient():
    m = model(PENALTY)
    m.critic = Linear(torch.zeros(3, 16, 16))
    loss, terms = m.critic_loss(batch(8), step())
    assert terms["penalty"].item() == 10
    assert torch.isfinite(torch.autograd.grad(loss, m.critic.w)[0]).all()


def test_the_penalty_is_computed_in_full_precision():
    m, real, fake = model(PENALTY), batch(8), uniform(8, seed=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slopes = m.slopes(real.x, fake, step())
        assert all(phase.loss(real, step())[0].dtype == torch.float32 for phase in m.phases())
    exact = m.double().slopes(real.x.double(), fake.double(), step())
    torch.testing.assert_close(slopes.double(), exact, rtol=1e-5, atol=0)


# --- The game


def test_weights_of_the_critic_never_leave_the_box():
    m = model(CLIP)
    kinds = {type(module) for module in m.critic.modules() if list(module.parameters(recurse=False))}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}
    for n in (0, 1):
        train(m, [batch(8)] * n, lr=0.05)
        for p in m.critic.parameters():
            assert p.abs().max() <= 0.01 + 1e-8
    assert max(p.abs().max().item() for p in m.generator.parameters()) > 0.05
    before = [p.detach().clone() for p in m.parameters()]
    m.clip_weights()
    assert all(torch.equal(a, b) for a, b in zip(before, m.parameters(), strict=True))


def test_the_share_of_weights_at_the_bound_is_counted():
    m = model(CLIP)
    with torch.no_grad():
        for p in m.critic.parameters():
            p.fill_(0.005)
        m.critic.layers[0].weight.fill_(-1.0)
    m.clip_weights()
    counts = [p.numel() for p in m.critic.parameters()]
    assert m.critic_loss(batch(8), step())[1]["at_bound"].item() == pytest.approx(counts[0] / sum(counts))


def test_a_penalised_critic_is_not_clipped():
    m = model(PENALTY)
    before = [p.detach().clone() for p in m.critic.parameters()]
    m.critic.layers[0].weight.data.mul_(100)
    m.phases()[0].after()
    assert m.critic.layers[0].weight.abs().max() > 1
    assert all(torch.equal(a, b) for a, b in zip(before[1:], list(m.critic.parameters())[1:], strict=True))


def test_every_step_of_the_critic_has_new_images_and_the_generators_none():
    phases = model(CLIP).phases()
    assert [phase.player for phase in phases] == 5 * ["critic"] + ["generator"]
    assert [phase.fresh for phase in phases] == 5 * [True] + [False]
    # 10 steps of the generator are 50 of the critic, which show 50 batches
    assert total_steps(SimpleNamespace(kimg=50 * 64 / 1000, batch_size=64), phases) == 10


@ALL
def test_no_gradient_leaks_from_one_player_to_the_other(config):
    m = model(config)
    loss, _ = m.critic_loss(batch(8), step())
    leaked = torch.autograd.grad(loss, parameters(m, "generator"), allow_unused=True, retain_graph=True)
    assert all(g is None for g in leaked)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, parameters(m, "critic")))
    gradients = torch.autograd.grad(m.generator_loss(batch(8), step())[0], parameters(m, "generator"))
    assert all(g.abs().sum() > 0 for g in gradients if g.ndim > 1)


def test_real_and_generated_images_never_share_a_batch():
    m, calls = model(CLIP), []
    m.critic.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].detach().clone()))
    m.critic_loss(batch(8), step())
    m.generator_loss(batch(8), step())
    assert [torch.equal(call, batch(8).x) for call in calls] == [True, False, False]
    assert [len(call) for call in calls] == [8, 8, 8]


@ALL
def test_all_noise_comes_from_the_generator(config):
    m = model(config)
    for phase in m.phases()[-2:]:
        torch.manual_seed(1)
        one = phase.loss(batch(8), step(seed=7))[0].item()
        torch.manual_seed(2)
        assert phase.loss(batch(8), step(seed=7))[0].item() == one
        assert phase.loss(batch(8), step(seed=8))[0].item() != one


def test_recipes_train_as_the_papers_say(run_config):
    for scale in ("demo", "full"):
        clip, penalty = (run_config(recipe, 32, scale) for recipe in ("wgan", "wgan_gp"))
        assert clip.settings["constraint"] == "clip"
        assert clip.train.optimizer == "rmsprop"  # without momentum
        assert penalty.settings["constraint"] == "penalty"
        assert penalty.train.betas[0] == 0
        assert penalty.settings["norm"] != "batch"


# --- Capabilities


def test_capabilities_are_those_of_the_mathematics():
    m = model(CLIP)
    missing = {c for c in base.CAPABILITIES if not base.can(m, c) and c in m.why_not()}
    assert missing == {base.Reconstructs, base.Encodes, base.HasLogProb, base.HasBound} == set(m.why_not())


@torch.no_grad()
@ALL
def test_the_score_is_high_where_the_critic_disbelieves(config):
    m, x = model(config).eval(), uniform(8)
    assert torch.equal(m.ood_scores(x, generator())["critic"], -m.critic(x))


@ALL
@torch.no_grad()
def test_features_are_what_the_last_layer_weighs(config):
    # with weights that are alike at all 16 positions it is a scalar product with their mean
    m, x = model(config).eval(), uniform(5)
    channels = m.features(x).shape[1]
    w = torch.randn(channels, generator=generator())
    m.critic.layers[-2].weight.copy_(w[:, None].expand(-1, 16).reshape(1, -1) / 16)
    torch.testing.assert_close(m.features(x) @ w, m.critic(x))
    torch.testing.assert_close(m.features(x) @ w, -m.ood_scores(x, generator())["critic"])
    assert not m.discriminator_score  # a critic that is sure still teaches


# --- A linear map from principal components

LINEAR = dataclasses.replace(CLIP, linear=True)


def started(n=400, config=LINEAR):
    """A model with a linear map, in float64, and the n images that it was started with."""
    x = portraits(n)
    m = model(config).double()
    m.initialize(unlabelled(x))
    return m, x


@torch.no_grad()
@ALL
def test_without_convolutions_images_are_combinations_of_principal_components(config):
    m, x = started(config=dataclasses.replace(config, linear=True))
    m.eval()
    pca = PCA(8, svd_solver="full").fit(torch.cat([x, x.flip(3)]).flatten(1).numpy())
    axes = torch.from_numpy(pca.components_ * np.sqrt(pca.explained_variance_)[:, None])
    images = m.decode(torch.eye(8).double()).flatten(1) - m.decode(torch.zeros(8, 8).double()).flatten(1)
    signs = (images * axes).sum(1, keepdim=True).sign()  # of which an axis has two
    z = torch.randn(50, 8, generator=generator()).double()
    expected = torch.from_numpy(pca.mean_) + (z * signs.T) @ axes
    assert (expected.abs() > 1).any()
    torch.testing.assert_close(m.decode(z).flatten(1), expected.clamp(-1, 1), atol=2e-3, rtol=0)


@torch.no_grad()
def test_without_convolutions_draws_have_the_mean_and_the_principal_variances_of_the_images():
    m, x = started()
    pca = PCA(8, svd_solver="full").fit(torch.cat([x, x.flip(3)]).flatten(1).numpy())
    z = math.sqrt(8) * torch.cat([torch.eye(8), -torch.eye(8)]).double()  # moments of N(0, I)
    images = m.generator.layers(z).flatten(1) + m.generator.linear(z)  # not cut off
    torch.testing.assert_close(images.mean(0), torch.from_numpy(pca.mean_), atol=1e-5, rtol=0)
    centred = (images - images.mean(0)) @ torch.from_numpy(pca.components_.T)
    exact = torch.from_numpy(pca.explained_variance_ * (2 * len(x) - 1) / (2 * len(x)))
    torch.testing.assert_close(centred.T @ centred / len(z), exact.diag(), atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_a_new_model_with_the_weights_of_a_started_one_is_the_same():
    m, _ = started()
    other = model(LINEAR, seed=1).double().eval()
    other.load_state_dict(m.state_dict())
    z = torch.randn(4, 8, generator=generator()).double()
    assert torch.equal(other.decode(z), m.eval().decode(z))


def test_the_convolutions_learn_and_the_linear_map_stays():
    m, real = model(dataclasses.replace(PENALTY, linear=True)), batch()
    m.initialize(real)
    before = {name: value.clone() for name, value in m.state_dict().items()}
    train(m, [real] * 3)
    for name, value in m.state_dict().items():
        assert torch.equal(value, before[name]) == (".linear." in name), name


@torch.no_grad()
def test_without_a_linear_map_nothing_depends_on_the_first_images():
    m = model(CLIP)
    before = {name: value.clone() for name, value in m.state_dict().items()}
    m.initialize(batch())
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
    assert m.initial_images == base.INITIAL_IMAGES < model(LINEAR).initial_images
