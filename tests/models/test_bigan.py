import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from tests.models.helpers import batch, generator, portraits, step, train, unlabelled
from visage.models import base
from visage.models.bigan import BiGAN, BiGANConfig


def config(**changes):
    widths = {"latent_dim": 8, "width": 8, "code_width": 12, "joint_width": 16}
    return BiGANConfig(**widths | {"dropout": 0.0, "cycle": 0.0, "linear": False} | changes)


def model(size=16, seed=0, **changes):
    torch.manual_seed(seed)
    return BiGAN(config(**changes), size)


def both_losses(m, real):
    return [phase.loss(real, step())[0] for phase in m.phases()]


@pytest.mark.parametrize(
    ("size", "changes", "millions"),
    [
        (64, {"latent_dim": 128, "width": 64, "code_width": 512, "joint_width": 1024}, (3.806, 3.806, 12.001)),
        (32, {"latent_dim": 64, "width": 32, "code_width": 128, "joint_width": 256}, (0.297, 0.297, 0.748)),
    ],
)
def test_parameter_counts(size, changes, millions):
    m = model(size, **changes)
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (m.generator, m.encoder, m.discriminator)]
    assert counts == pytest.approx(millions, abs=0.001)


@pytest.mark.parametrize("size", [8, 48])
def test_sizes_that_cannot_be_halved_down_to_four_are_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        model(size)


def test_pairs_are_an_image_with_its_code_and_a_code_with_its_image():
    real = batch()
    for i in (0, 1):
        m, pairs = model(), []
        m.discriminator.register_forward_pre_hook(lambda _, inputs, pairs=pairs: pairs.append(inputs))
        m.phases()[i].loss(real, step())
        (x, codes), (images, z) = pairs
        assert torch.equal(x, real.x)
        assert torch.equal(codes, m.encoder(real.x))  # in train mode: the same batch, the same statistics
        assert torch.equal(images, m.generator(z))
        assert torch.equal(z, torch.randn(16, 8, generator=generator()))
        assert [len(pair[0]) for pair in pairs] == [16, 16]  # the kinds never share a batch


def test_losses_are_those_of_binary_cross_entropy_with_the_labels_swapped_for_the_encoder_and_the_generator():
    m, real = model(), unlabelled(torch.full((16, 3, 16, 16), 5.0))
    m.discriminator.forward = lambda x, z: torch.where(x[:, 0, 0, 0] == 5, 1.0, -2.0)  # real ones are marked by a 5
    p = torch.tensor([1.0, -2.0]).sigmoid()
    entropy, one, zero = nn.functional.binary_cross_entropy, torch.ones(()), torch.zeros(())
    (d_loss, terms), (eg_loss, _) = (phase.loss(real, step()) for phase in m.phases())
    torch.testing.assert_close(d_loss, entropy(p[0], one) + entropy(p[1], zero))
    torch.testing.assert_close(eg_loss, entropy(p[0], zero) + entropy(p[1], one))
    torch.testing.assert_close(torch.stack([terms["d_encoded"], terms["d_generated"]]), p)


def test_where_the_discriminator_knows_nothing_both_lose_log_4():
    m = model()
    m.discriminator.forward = lambda x, z: torch.zeros(len(x))
    for loss in both_losses(m, batch()):
        assert loss.item() == pytest.approx(math.log(4))  # theorem 1: C(E, G) = -log 4


def test_encoder_and_generator_still_learn_where_the_discriminator_is_sure():
    m, given = model(), iter([torch.full((4,), 20.0, requires_grad=True), torch.full((4,), -20.0, requires_grad=True)])
    logits = []
    m.discriminator.forward = lambda x, z: logits.append(next(given)) or logits[-1]
    loss, _ = m.generator_encoder_loss(batch(4), step())
    of_encoded, of_generated = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(of_encoded, torch.full((4,), 0.25))  # 1 each, mean over four; the saturating loss: 0
    torch.testing.assert_close(of_generated, torch.full((4,), -0.25))


def test_each_player_learns_and_leaves_the_other_alone():
    m = model()
    for phase in m.phases():
        loss, _ = phase.loss(batch(), step())
        for player, modules in m.players().items():
            for module in modules:
                gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
                if player == phase.player:
                    assert all(g.abs().sum() > 0 for g in gradients)
                elif player == "generator_encoder":
                    assert all(g is None for g in gradients)  # no graph is built that nobody uses
    before = [p.detach().clone() for p in m.discriminator.parameters()]
    train(m, [batch()], ["generator_encoder"])
    assert all(torch.equal(a, b) for a, b in zip(before, m.discriminator.parameters(), strict=True))


def test_the_error_of_reconstructions_is_added_to_what_encoder_and_generator_minimise():
    real, m = batch(), model(cycle=3.0)
    loss, terms = m.generator_encoder_loss(real, step())
    fooling, _ = model().generator_encoder_loss(real, step())
    torch.testing.assert_close(loss, fooling + 3 * terms["cycle"])
    z = m.z(real, step())
    codes = m.encoder(real.x)
    error, entropy = nn.functional.mse_loss(m.generator(codes), real.x), nn.functional.binary_cross_entropy_with_logits
    fooling = entropy(m.discriminator(real.x, codes), torch.zeros(16))
    fooling = fooling + entropy(m.discriminator(m.generator(z), z), torch.ones(16))
    torch.testing.assert_close(terms["cycle"], error.detach())
    for network in (m.encoder, m.generator):
        found, expected = (torch.autograd.grad(value, list(network.parameters()), retain_graph=True)
                           for value in (loss, fooling + 3 * error))  # fmt: skip
        torch.testing.assert_close(found, expected)
    without = model(), model(cycle=3.0)
    of_d = [each.discriminator_loss(real, step())[0] for each in without]
    torch.testing.assert_close(*of_d)  # D is not concerned


def test_encoder_and_generator_learn_to_reconstruct_where_the_discriminator_is_of_no_help():
    m, real = model(cycle=10.0), batch()
    m.discriminator.forward = lambda x, z: 0 * x.mean((1, 2, 3)) + 0 * z.mean(1)
    errors = [train(m, [real] * n, ["generator_encoder"])["generator_encoder"]["cycle"] for n in (1, 60)]
    assert errors[1] < 0.7 * errors[0]


def test_an_encoder_learns_from_the_discriminator_that_sees_its_codes():
    m = model()
    x = batch().x
    codes = m.encoder(x)
    (gradient,) = torch.autograd.grad(m.discriminator(x, codes).sum(), codes)
    assert (gradient.norm(dim=1) > 1e-3).all()  # z speaks as loudly as x from the first step


def test_z_and_x_are_heard_alike_at_the_start():
    m = model(32, latent_dim=64, width=32, code_width=128, joint_width=256)
    x, z = batch(16, 32).x, torch.randn(16, 64, generator=generator())
    with torch.no_grad():
        by_code, by_image = m.discriminator.code(z).std(0).mean(), m.discriminator.image(x).std(0).mean()
    assert 0.3 < by_code / by_image < 3
    with torch.no_grad():
        assert 0.3 < m.encoder(x).std() < 3  # codes start on the scale of N(0, I)


def test_all_noise_comes_from_the_generator():
    m = model()
    for phase in m.phases():
        torch.manual_seed(1)
        one = phase.loss(batch(), step(seed=7))[0].item()
        torch.manual_seed(2)
        assert phase.loss(batch(), step(seed=7))[0].item() == one
        assert phase.loss(batch(), step(seed=8))[0].item() != one


def test_dropout_rests_in_evaluation():
    m, x = model(dropout=0.5), batch().x
    z = torch.zeros(16, 8)
    with torch.no_grad():
        assert not torch.equal(m.discriminator(x, z), m.discriminator(x, z))
        m.eval()
        assert torch.equal(m.discriminator(x, z), m.discriminator(x, z))


@torch.no_grad()
def test_in_evaluation_an_image_is_independent_of_its_batch():
    m, x = model(), batch().x
    for i in range(3):
        m.discriminator(m.generator(torch.randn(16, 8, generator=generator(i))), m.encoder(x))  # running statistics
    m.eval()
    buffers = [b.clone() for b in m.buffers()]
    torch.testing.assert_close(m.reconstruct(x[:1]), m.reconstruct(x)[:1])
    torch.testing.assert_close(m.sample(2, generator()), m.sample(16, generator())[:2])
    alone, together = (m.ood_scores(images, generator()) for images in (x[:1], x))
    for name in alone:
        torch.testing.assert_close(alone[name], together[name][:1])
    assert all(torch.equal(a, b) for a, b in zip(buffers, m.buffers(), strict=True))


@torch.no_grad()
def test_scores_are_of_the_image_with_its_own_code():
    m, x = model().eval(), batch().x
    scores, codes = m.ood_scores(x, generator()), m.encode(x)
    assert list(scores) == ["discriminator", "features"]
    torch.testing.assert_close(scores["discriminator"], -m.discriminator(x, codes))
    gap = m.discriminator.features(x, codes) - m.discriminator.features(m.reconstruct(x), codes)
    torch.testing.assert_close(scores["features"], gap.abs().sum(1) / 16)
    m.generator.forward = lambda z: x  # what comes back as it went has no distance
    assert m.ood_scores(x, generator())["features"].abs().max() == 0


@torch.no_grad()
def test_codes_are_unbounded_and_images_are_not():
    m = model().eval()
    m.encoder.head.weight.mul_(1e3)
    m.generator.layers[-1].weight.mul_(1e4)
    assert m.encode(batch().x).abs().max() > 10
    images = m.sample(3, generator())
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert set(m.why_not()) == {base.HasLogProb, base.HasBound}
    for capability in (base.Samples, base.Reconstructs, base.Encodes, base.Decodes, base.ScoresOod):
        assert base.can(m, capability)


def test_losses_and_codes_are_float32_under_bf16():
    m = model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(loss.dtype == torch.float32 for loss in both_losses(m, batch()))
        assert m.encode(batch().x).dtype == torch.float32


def test_the_discriminator_learns_to_tell_and_the_others_to_fool():
    m = model()
    terms = train(m, [batch()] * 25, ["discriminator"])["discriminator"]
    assert terms["d_encoded"] > 0.7 > 0.3 > terms["d_generated"]
    fooled = train(m, [batch()] * 60, ["generator_encoder"])["generator_encoder"]
    assert fooled["d_generated"] > 0.5 > fooled["d_encoded"]


@torch.no_grad()
def test_features_are_what_the_last_layer_weighs_of_an_image_with_its_code():
    m, x = model().eval(), batch(5).x
    logits = m.discriminator.head(m.features(x))
    torch.testing.assert_close(logits, m.discriminator(x, m.encode(x)))
    torch.testing.assert_close(logits, -m.ood_scores(x, generator())[m.discriminator_score])


# --- Linear maps from principal components


def started(n=400, **changes):
    """A model with linear maps and the n images that it was started with."""
    x = portraits(n)
    m = model(**{"linear": True} | changes).double()
    m.initialize(unlabelled(x))
    return m, x


def both(x):
    """Images and their mirror images."""
    return torch.cat([x, x.flip(3)])


def pca_of(x, count):
    return PCA(count, svd_solver="full").fit(both(x).flatten(1).numpy())


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_without_convolutions_a_reconstruction_is_the_projection_on_the_principal_axes(training):
    m, x = started()
    m.train(training)
    pca, other = pca_of(x, 8), portraits(480)[400:]  # none that it was started with
    expected = torch.from_numpy(pca.inverse_transform(pca.transform(other.flatten(1).numpy())))
    torch.testing.assert_close(m.reconstruct(other), expected.view_as(other).clamp(-1, 1), atol=1e-3, rtol=0)
    assert (m.reconstruct(other) - other).abs().mean() > 0.02


@torch.no_grad()
def test_codes_of_the_images_that_it_starts_with_have_the_moments_of_the_prior():
    m, x = started()
    codes = m.encode(both(x))
    torch.testing.assert_close(codes.mean(0), torch.zeros(8).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.T @ codes / len(codes), torch.eye(8).double(), atol=1e-2, rtol=0)


@torch.no_grad()
def test_without_convolutions_draws_have_the_mean_and_the_principal_variances_of_the_images():
    m, x = started()
    pca, n = pca_of(x, 8), 2 * len(x)
    z = math.sqrt(8) * torch.cat([torch.eye(8), -torch.eye(8)]).double()  # moments of N(0, I)
    images = (m.generator.layers(z) + m.generator.linear(z).view(-1, 3, 16, 16)).flatten(1)  # not clamped
    torch.testing.assert_close(images.mean(0), torch.from_numpy(pca.mean_), atol=1e-5, rtol=0)
    centred = (images - images.mean(0)) @ torch.from_numpy(pca.components_.T)
    exact = torch.from_numpy(pca.explained_variance_ * (n - 1) / n)
    torch.testing.assert_close(centred.T @ centred / len(z), exact.diag(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(m.decode(z), images.view(-1, 3, 16, 16).clamp(-1, 1))


@torch.no_grad()
def test_a_new_model_with_the_weights_of_a_started_one_is_the_same():
    m, x = started()
    other = model(seed=1, linear=True).double().eval()
    other.load_state_dict(m.state_dict())
    assert torch.equal(other.reconstruct(x[:4]), m.eval().reconstruct(x[:4]))


def test_the_convolutions_learn_and_the_linear_maps_stay():
    m, real = model(linear=True), batch()
    m.initialize(real)
    before = {name: value.clone() for name, value in m.state_dict().items()}
    train(m, [real] * 3)
    for name, value in m.state_dict().items():
        assert torch.equal(value, before[name]) == (".linear." in name), name


@torch.no_grad()
def test_images_without_variation_have_finite_codes():
    x = torch.full((3, 3, 16, 16), 0.2)
    m = model(linear=True)
    m.initialize(unlabelled(x))
    torch.testing.assert_close(m.encode(x), torch.zeros(3, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(m.reconstruct(x), x)


@torch.no_grad()
def test_without_linear_maps_nothing_depends_on_the_first_images():
    m = model()
    before = {name: value.clone() for name, value in m.state_dict().items()}
    m.initialize(batch())
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())
    assert m.initial_images == base.INITIAL_IMAGES < model(linear=True).initial_images
