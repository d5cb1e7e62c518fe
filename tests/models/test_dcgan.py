import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from tests.models.helpers import batch, generator, missing, parameters, portraits, step, train, unlabelled
from visage.models import base
from visage.models.dcgan import DCGAN, DCGANConfig


def model(size=16, seed=0, linear=False):
    torch.manual_seed(seed)
    return DCGAN(DCGANConfig(latent_dim=8, width=8, linear=linear), size)


def gradients(m, phase, s=None):
    """The gradient that a phase gives its player, as the loop takes it."""
    loss, _ = phase.loss(batch(), s or step())
    weights = parameters(m, phase.player)
    return weights, torch.autograd.grad(loss, weights)


@pytest.mark.parametrize(
    ("size", "latent_dim", "width", "millions"),
    [(64, 100, 64, (3.577, 2.766)), (32, 100, 64, (1.069, 0.663)), (32, 100, 32, (0.371, 0.168))],
)
def test_parameter_counts(size, latent_dim, width, millions):
    with torch.device("meta"):
        m = DCGAN(DCGANConfig(latent_dim=latent_dim, width=width, linear=False), size)
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (m.generator, m.discriminator)]
    assert counts == pytest.approx(millions, abs=0.001)


@pytest.mark.parametrize("size", [8, 48])
def test_sizes_that_cannot_be_halved_down_to_four_are_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        model(size)


def test_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    m = DCGAN(DCGANConfig(latent_dim=64, width=32, linear=False), 32)
    for module in m.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.02)
            assert (module.bias == 0).all()


def test_players_are_disjoint_and_hold_every_parameter():
    m = model()
    held = [id(p) for modules in m.players().values() for module in modules for p in module.parameters()]
    assert sorted(held) == sorted(id(p) for p in m.parameters())
    assert [phase.player for phase in m.phases()] == ["discriminator", "generator"]


def test_losses_of_known_logits():
    m = model()
    m.discriminator.forward = lambda x: torch.where(x.flatten(1)[:, 0] == 5, 1.0, -2.0)  # real ones are marked by a 5
    real = unlabelled(torch.full((4, 3, 16, 16), 5.0))
    loss, terms = m.discriminator_loss(real, step())
    softplus = nn.functional.softplus
    torch.testing.assert_close(loss, softplus(torch.tensor(-1.0)) + softplus(torch.tensor(-2.0)))
    torch.testing.assert_close(terms["d_real"], torch.tensor(1.0).sigmoid())
    torch.testing.assert_close(terms["d_fake"], torch.tensor(-2.0).sigmoid())
    torch.testing.assert_close(m.generator_loss(real, step())[0], softplus(torch.tensor(2.0)))


def test_the_generator_still_learns_where_the_discriminator_is_sure():
    m = model()
    logits = torch.full((4,), -20.0, requires_grad=True)
    m.discriminator.forward = lambda x: logits
    loss, _ = m.generator_loss(batch(4), step())
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.full((4,), -0.25))  # -1 each, mean over four; the saturating loss: 0


def test_real_and_generated_images_never_share_a_batch():
    m, calls = model(), []
    m.discriminator.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].detach().clone()))
    real = batch()
    m.discriminator_loss(real, step())
    m.generator_loss(real, step())
    assert [torch.equal(call, real.x) for call in calls] == [True, False, False]
    assert [len(call) for call in calls] == [16, 16, 16]
    # why: in train mode a logit depends on its company
    alone, mixed = m.discriminator(real.x), m.discriminator(torch.cat([real.x, calls[1]]))[:16]
    assert (alone - mixed).abs().max() > 1e-4


def test_no_gradient_leaks_from_one_player_to_the_other():
    m = model()
    discriminator, generator_ = m.phases()
    loss, _ = discriminator.loss(batch(), step())
    leaked = torch.autograd.grad(loss, list(m.generator.parameters()), allow_unused=True)
    assert all(g is None for g in leaked)
    before = [p.detach().clone() for p in m.discriminator.parameters()]
    train(m, [batch()], ["generator"])
    assert all(torch.equal(a, b) for a, b in zip(before, m.discriminator.parameters(), strict=True))
    for phase in (discriminator, generator_):
        assert all(g.abs().sum() > 0 for g in gradients(m, phase)[1])


def test_all_noise_comes_from_the_generator():
    m = model()
    for phase in m.phases():
        torch.manual_seed(1)
        one = phase.loss(batch(), step(seed=7))[0].item()
        torch.manual_seed(2)
        assert phase.loss(batch(), step(seed=7))[0].item() == one
        assert phase.loss(batch(), step(seed=8))[0].item() != one


@torch.no_grad()
def test_in_evaluation_an_image_is_independent_of_its_batch():
    m = model()
    iterate_batches = [m.generator(torch.randn(16, 8, generator=generator(i))) for i in range(3)]  # running statistics
    m.eval()
    z, x = m.prior(16, generator()), torch.cat(iterate_batches)
    torch.testing.assert_close(m.decode(z[:1]), m.decode(z)[:1])
    torch.testing.assert_close(m.sample(2, generator()), m.sample(16, generator())[:2])
    alone, together = (m.ood_scores(images, generator())["discriminator"] for images in (x[:1], x))
    torch.testing.assert_close(alone, together[:1])


def test_running_statistics_follow_training_and_rest_in_evaluation():
    m = model()
    buffers = [b.clone() for b in m.buffers()]
    train(m, [batch()] * 2)
    assert not any(torch.equal(a, b) for a, b in zip(buffers, m.buffers(), strict=True))
    buffers = [b.clone() for b in m.eval().buffers()]
    m.sample(4, generator())
    m.ood_scores(batch().x, generator())
    assert all(torch.equal(a, b) for a, b in zip(buffers, m.buffers(), strict=True))


@torch.no_grad()
def test_images_are_tanh_outputs():
    m = model(32).eval()
    m.generator.layers[-1].weight.mul_(1e4)
    images = m.sample(3, generator())
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1


def test_black_is_minus_one_and_white_one():
    gan = model()
    last = gan.generator.layers[-1]
    for sign in (-1.0, 1.0):
        with torch.no_grad():
            last.weight.fill_(sign)  # behind a ReLU: all of one sign
        images = gan.train().generator(torch.randn(4, 8, generator=generator()))
        assert sign * images.mean() > 0.9


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert missing(m) == {base.Reconstructs, base.Encodes, base.HasLogProb, base.HasBound} == set(m.why_not())


def test_the_score_is_high_where_the_discriminator_disbelieves():
    m, x = model().eval(), batch().x
    with torch.no_grad():
        assert torch.equal(m.ood_scores(x, generator())["discriminator"], -m.discriminator(x))


def test_losses_are_float32_under_bf16():
    m = model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [phase.loss(batch(), step())[0] for phase in m.phases()]
    assert all(loss.dtype == torch.float32 for loss in losses)


def test_the_discriminator_learns_to_tell_and_the_generator_to_fool():
    m = model()
    terms = train(m, [batch()] * 30, ["discriminator"])["discriminator"]
    assert terms["d_real"] > 0.7 > 0.3 > terms["d_fake"]
    fooled = train(m, [batch()] * 60, ["generator"])["generator"]
    assert fooled["d_fake"] > 0.5


@torch.no_grad()
def test_features_are_what_the_last_layer_weighs():
    # with weights that are alike at all 16 positions it is a scalar product with their mean
    m, w = model().eval(), torch.randn(16, generator=generator())
    m.discriminator.layers[-2].weight.copy_(w[None, :, None, None].expand(1, 16, 4, 4) / 16)
    x = batch(5).x
    torch.testing.assert_close(m.features(x) @ w, m.discriminator(x))
    torch.testing.assert_close(m.features(x) @ w, -m.ood_scores(x, generator())[m.discriminator_score])


# --- A linear map from principal components


@torch.no_grad()
def test_without_convolutions_images_are_combinations_of_principal_components():
    m, x = model(linear=True).double(), portraits(400)
    m.initialize(unlabelled(x))
    m.eval()
    pca = PCA(8, svd_solver="full").fit(torch.cat([x, x.flip(3)]).flatten(1).numpy())
    axes = torch.from_numpy(pca.components_ * np.sqrt(pca.explained_variance_)[:, None])
    images = m.decode(torch.eye(8).double()).flatten(1) - m.decode(torch.zeros(8, 8).double()).flatten(1)
    signs = (images * axes).sum(1, keepdim=True).sign()  # of which an axis has two
    z = torch.randn(50, 8, generator=generator()).double()
    expected = torch.from_numpy(pca.mean_) + (z * signs.T) @ axes
    assert (expected.abs() > 1).any()
    torch.testing.assert_close(m.decode(z).flatten(1), expected.clamp(-1, 1), atol=2e-3, rtol=0)


def test_the_convolutions_learn_and_the_linear_map_stays():
    m, real = model(linear=True), batch()
    m.initialize(real)
    before = {name: value.clone() for name, value in m.state_dict().items()}
    train(m, [real] * 3)
    for name, value in m.state_dict().items():
        assert torch.equal(value, before[name]) == (".linear." in name), name


@torch.no_grad()
def test_without_a_linear_map_nothing_depends_on_the_first_images():
    m = model()
    before = {name: value.clone() for name, value in m.state_dict().items()}
    m.initialize(batch())
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
    assert m.initial_images == base.INITIAL_IMAGES < model(linear=True).initial_images
