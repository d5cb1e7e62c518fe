import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch import nn
from torch.nn.utils import parametrizations

from tests.models.helpers import generator, inputs_of, portraits, step, train, uniform
from visage.maths.latents import slerp
from visage.models import base
from visage.models.conditional_gan import ConditionalGAN, ConditionalGANConfig, SpectralNorm, signs

NAMES = ("Male", "No_Beard", "Smiling")


def config(**changes):
    small = {"attributes": NAMES, "latent_dim": 8, "embedding": 6, "width": 8, "linear": False}
    return ConditionalGANConfig(**small | changes)


def model(size=16, seed=0, **changes):
    torch.manual_seed(seed)
    return ConditionalGAN(config(**changes), size)


def people(n):
    """Attributes as faces have them: women have no beards."""
    y = torch.randint(0, 2, (n, 3), generator=generator(5)).float()
    y[:, 1] = torch.where(y[:, 0] == 0, 1.0, y[:, 1])
    return y


def batch(n=16, size=16):
    return base.Batch(uniform(n, size), people(n))


@pytest.mark.parametrize(
    ("size", "changes", "millions"),
    [
        (64, {"latent_dim": 100, "embedding": 64, "width": 64}, (4.102, 2.762)),
        (32, {"latent_dim": 64, "embedding": 32, "width": 32}, (0.362, 0.167)),
    ],
)
def test_parameter_counts(size, changes, millions):
    m = model(size, attributes=tuple("abcdefgh"), **changes)
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (m.generator, m.discriminator)]
    assert counts == pytest.approx(millions, abs=0.001)


@pytest.mark.parametrize("size", [8, 48])
def test_sizes_that_cannot_be_halved_down_to_four_are_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        model(size)


def test_an_attribute_named_twice_is_refused():
    with pytest.raises(ValueError, match="Male is listed 2 times"):
        config(attributes=("Male", "Smiling", "Male"))


# --- Spectral normalisation


def test_spectral_norm_divides_by_the_largest_singular_value():
    w = torch.randn(6, 5, 3, 3, generator=generator())
    norm = SpectralNorm(w)
    for _ in range(200):
        norm(w)
    sigma = torch.linalg.svdvals(w.flatten(1))[0]
    torch.testing.assert_close(norm(w), w / sigma)
    theirs = parametrizations.spectral_norm(nn.Conv2d(5, 6, 3), n_power_iterations=200)
    theirs.parametrizations.weight.original.data = w.clone().requires_grad_()
    torch.testing.assert_close(norm(w), theirs.weight)
    mine = w.clone().requires_grad_()  # gradients see that sigma depends on W
    (a,) = torch.autograd.grad((norm(mine) ** 3).sum(), mine)
    (b,) = torch.autograd.grad((theirs.weight**3).sum(), theirs.parametrizations.weight.original)
    torch.testing.assert_close(a, b)


def test_power_iteration_takes_one_step_a_use_in_training_and_none_in_evaluation():
    w = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    norm = SpectralNorm(w)
    norm.u.copy_(torch.tensor([0.6, 0.8]))
    scaled = norm(w)
    v = torch.tensor([1.2, 0.8]) / 2.08**0.5  # W^T u, normalised
    image = torch.tensor([2.4, 0.8]) / 2.08**0.5  # W v
    torch.testing.assert_close(scaled, w / image.norm())
    torch.testing.assert_close(norm.u, image / image.norm())
    torch.testing.assert_close(v.norm(), torch.tensor(1.0))
    norm.eval()
    before = norm.u.clone()
    assert torch.equal(norm(w), norm(w))
    assert torch.equal(norm.u, before)


def test_every_weight_of_the_discriminator_is_normalised_and_none_of_the_generator():
    m = model()
    for i in range(60):
        m.discriminator(batch(1).x, people(1))
        if i == 0:
            layers = [q for q in m.discriminator.modules() if isinstance(q, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4  # two convolutions at 16 pixels, psi, V
    m.eval()
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0].item()
        assert largest == pytest.approx(1, abs=0.03)
    assert not any(isinstance(q, SpectralNorm) for q in m.generator.modules())
    with torch.no_grad():
        x, before = batch().x, m.discriminator(batch().x, people(16))
        for layer in layers:
            layer.parametrizations.weight.original.mul_(7.0)
        torch.testing.assert_close(m.discriminator(x, people(16)), before)  # the scale of a weight says nothing


def test_an_average_of_weights_is_normalised_by_its_own_norm():
    a, b = (torch.randn(8, 8, generator=generator(i)) for i in (0, 1))
    norm = SpectralNorm(a)
    for _ in range(100):
        norm(a)
    average = 0.9 * a + 0.1 * b
    sigma = torch.linalg.svdvals(norm.eval()(average))[0]
    u = norm.u @ a / (norm.u @ a).norm()  # what PyTorch keeps: the v of the live weights
    stale = torch.linalg.svdvals(average)[0] / (norm.u @ average @ u)
    assert 1 - 1e-4 < sigma < stale


# --- The discriminator and the losses


def test_the_discriminator_is_a_projection():
    m = model().eval()
    x, y = batch().x, signs(people(16))
    d = m.discriminator
    phi = d.layers(x).sum((2, 3))
    expected = torch.einsum("na,ca,nc->n", y, d.projection.weight, phi) + phi @ d.psi.weight[0] + d.psi.bias
    torch.testing.assert_close(d(x, y), expected)


def test_the_discriminators_images_do_not_meet_in_training():
    m = model()
    x, y = batch().x.requires_grad_(), signs(people(16))
    (gradient,) = torch.autograd.grad(m.discriminator(x, y)[0], x)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_losses_of_known_opinions():
    m = model()
    # real ones are marked by a 5; opinions on both sides of the hinges
    m.discriminator.forward = lambda x, y: torch.where(x[:, 0, 0, 0] == 5, 0.25, torch.arange(len(x)) % 2 * 2.0 - 1.5)
    real = base.Batch(torch.full((4, 3, 16, 16), 5.0), people(4))
    loss, terms = m.discriminator_loss(real, step())
    torch.testing.assert_close(loss, torch.tensor(0.75 + 1.5 / 2))  # max(0, 1 - 1/4); max(0, 1 - 3/2), max(0, 1 + 1/2)
    torch.testing.assert_close(torch.stack([terms["d_real"], terms["d_fake"]]), torch.tensor([0.25, -0.5]))
    torch.testing.assert_close(m.generator_loss(real, step())[0], torch.tensor(0.5))  # no hinge for the generator


def test_the_discriminator_is_asked_about_the_attributes_that_the_generator_received():
    real = batch()
    m = model()
    received, seen = inputs_of(m.generator), inputs_of(m.discriminator)
    m.discriminator_loss(real, step())
    (_, y), (x, both) = received[0], seen[0]
    assert torch.equal(x[:16], real.x)
    assert torch.equal(both[:16], 2 * real.y - 1)
    assert torch.equal(both[16:], y)
    m.generator_loss(real, step())
    (z, y), (x, same) = received[1], seen[1]
    assert torch.equal(same, y)
    torch.testing.assert_close(x, m.generator(z, y))


def test_the_generator_receives_whole_rows_of_training_attributes():
    m, real = model(), batch(400)
    _, y = m.inputs(real, step())
    assert not torch.equal(y, signs(real.y))
    rows = lambda y: sorted(map(tuple, y.tolist()))  # noqa: E731
    assert rows(y) == rows(signs(real.y))  # the counts of all combinations: the joint, not the margins alone
    assert not ((y[:, 0] < 0) & (y[:, 1] < 0)).any()


def test_attributes_alone_do_not_tell_what_is_generated():
    """All images are grey, so a discriminator that tells them apart does so by y, as it could from other margins."""
    m, y = model(), people(64)
    grey = base.Batch(torch.zeros(64, 3, 16, 16), y)
    m.generator.forward = lambda z, y: torch.zeros(len(z), 3, 16, 16)
    terms = train(m, [grey] * 40, ["discriminator"])["discriminator"]
    torch.testing.assert_close(terms["d_real"], terms["d_fake"], rtol=0, atol=1e-5)


def test_no_gradient_leaks_from_one_player_to_the_other():
    m = model()
    discriminator, generator_ = m.phases()
    loss, _ = discriminator.loss(batch(), step())
    assert all(g is None for g in torch.autograd.grad(loss, list(m.generator.parameters()), allow_unused=True))
    for phase in (discriminator, generator_):
        (module,) = m.players()[phase.player]
        loss, _ = phase.loss(batch(), step())
        assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, list(module.parameters())))


def test_all_noise_comes_from_the_generator():
    for i in (0, 1):
        losses = []
        for seed, other in ((7, 1), (7, 2), (8, 1)):
            m = model()  # anew: power iteration moves on with every use
            torch.manual_seed(other)
            losses.append(m.phases()[i].loss(batch(), step(seed))[0].item())
        assert losses[0] == losses[1] != losses[2]


def test_both_players_come_to_heed_the_attributes():
    """Images whose brightness is an attribute: each player learns what it is for."""
    m, g = model(width=8), generator(3)
    batches = []
    for _ in range(70):
        y = torch.randint(0, 2, (16, 3), generator=g).float()
        x = 0.6 * signs(y[:, :1, None, None]) + 0.1 * torch.randn(16, 3, 16, 16, generator=g)
        batches.append(base.Batch(x.clamp(-1, 1), y))
    train(m, batches, betas=(0.0, 0.9))
    m.eval()
    with torch.no_grad():
        x, y = batches[-1].x, signs(batches[-1].y)
        turned = y * torch.tensor([-1.0, 1, 1])
        assert (m.discriminator(x, y) > m.discriminator(x, turned)).all()
        y = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
        bright, dark = m.sample_given(y.repeat(8, 1), generator()).mean((1, 2, 3)).reshape(8, 2).T
    assert (bright > dark + 0.2).all()


# --- Capabilities


def test_samples_attributes_follow_the_training_rows():
    m = model()
    m.initialize(batch(50))
    assert torch.equal(m.rows[:50], people(50))
    assert torch.equal(m.rows[50:100], people(50))  # from the first one again
    codes = m.eval().prior(300, generator())
    assert codes.shape == (300, 8 + 3)
    z, y = codes[:, :8], codes[:, 8:]
    assert set(y.unique().tolist()) == {-1.0, 1.0}
    assert not ((y[:, 0] < 0) & (y[:, 1] < 0)).any()
    torch.testing.assert_close(y.mean(0), signs(people(50)).mean(0), rtol=0, atol=0.2)
    assert abs(z.mean()) < 0.1
    assert z.std() == pytest.approx(1, abs=0.1)
    assert torch.equal(m.prior(3, generator()), codes[:3])
    fresh = model(seed=1)
    fresh.load_state_dict(m.state_dict())
    assert torch.equal(fresh.rows, m.rows)


@torch.no_grad()
def test_samples_of_other_attributes_share_their_noise():
    m = model().eval()
    y = people(6)
    images = m.sample_given(y, generator())
    z = torch.stack([torch.randn(8, generator=g) for g in [generator()] for _ in range(6)])
    torch.testing.assert_close(images, m.decode(torch.cat([z, 2 * y - 1], dim=1)))
    for turned in range(3):
        other = y.clone()
        other[:, turned] = 1 - other[:, turned]
        assert ((m.sample_given(other, generator()) - images).abs().amax((1, 2, 3)) > 0).all()


def test_absent_attributes_are_heard():
    m = model()
    with torch.no_grad():
        m.generator.embed.bias.zero_()
    received = inputs_of(m.eval().generator)
    m.sample_given(torch.zeros(2, 3), generator())
    assert (received[0][1] == -1).all()
    assert m.generator.embed(received[0][1]).abs().min() > 0


@torch.no_grad()
def test_on_a_walk_shared_attributes_stay_and_others_turn_round():
    m = model().eval()
    m.initialize(batch(50))
    a, b = m.prior(40, generator()).chunk(2)
    heard = inputs_of(m.generator)
    for t in (0.0, 0.25, 0.5, 1.0):
        m.decode(slerp(a, b, t))
    start, quarter, middle, end = (y for _, y in heard)
    shared = a[:, 8:] == b[:, 8:]
    for y in (start, quarter, middle, end):
        torch.testing.assert_close(y[shared], a[:, 8:][shared])
    torch.testing.assert_close(middle[~shared], torch.zeros_like(middle[~shared]), rtol=0, atol=1e-6)
    torch.testing.assert_close(end, b[:, 8:])
    assert torch.equal(quarter[~shared].sign(), a[:, 8:][~shared])


@torch.no_grad()
def test_the_score_is_the_mean_over_the_training_attributes():
    m, x = model(), batch().x
    m.initialize(batch(50))
    m.eval()
    kinds, counts = m.rows.unique(dim=0, return_counts=True)
    opinions = torch.stack([m.discriminator(x, signs(kind).expand(16, -1)) for kind in kinds])
    expected = -(opinions * counts[:, None]).sum(0) / counts.sum()
    assert (opinions.std(0) > 0).all()
    torch.testing.assert_close(m.ood_scores(x, generator())["discriminator"], expected)


@torch.no_grad()
def test_in_evaluation_nothing_moves_and_images_are_alone():
    m, x = model(), batch().x
    m.initialize(batch())
    for i in range(3):
        m.generator(torch.randn(16, 8, generator=generator(i)), signs(people(16)))  # running statistics
    m.eval()
    buffers = [b.clone() for b in m.buffers()]
    torch.testing.assert_close(m.sample(2, generator()), m.sample(16, generator())[:2])
    alone, together = (m.ood_scores(images, generator())["discriminator"] for images in (x[:1], x))
    torch.testing.assert_close(alone, together[:1])
    assert all(torch.equal(a, b) for a, b in zip(buffers, m.buffers(), strict=True))


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert m.attributes == NAMES
    assert set(m.why_not()) == {base.Reconstructs, base.Encodes, base.HasLogProb, base.HasBound}
    for capability in (base.Samples, base.SamplesGiven, base.Decodes, base.ScoresOod):
        assert base.can(m, capability)


def test_losses_and_norms_are_float32_under_bf16():
    m = model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(phase.loss(batch(), step())[0].dtype == torch.float32 for phase in m.phases())
        exact, w = SpectralNorm(torch.eye(64)), torch.randn(64, 64, generator=generator())
        twin = SpectralNorm(torch.eye(64))
        twin.load_state_dict(exact.state_dict())
        scaled = exact(w)
    assert torch.equal(scaled, twin(w))


@torch.no_grad()
def test_images_are_tanh_outputs():
    m = model(32).eval()
    m.generator.layers[-1].weight.mul_(1e4)
    images = m.sample(3, generator())
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1


@torch.no_grad()
def test_features_are_what_the_last_layers_weigh():
    m, x = model().eval(), batch(5).x
    m.rows.fill_(1.0)  # so that y is 1 in all places
    d, y = m.discriminator, torch.ones(5, len(m.attributes))
    opinion = (d.projection(y) * m.features(x)).sum(1) + d.psi(m.features(x))[:, 0]
    torch.testing.assert_close(opinion, -m.ood_scores(x, generator())[m.discriminator_score])


# --- A linear map from attributes and principal components


def started(n=400):
    """A model with a linear map, in float64, and the n pairs, of images that depend on y, that it was started with."""
    y = people(n).double()
    x = (portraits(n).flatten(1) + y @ torch.randn(3, 768, generator=generator(6)).double() / 3).clamp(-1, 1)
    m = model(linear=True).double()
    m.initialize(base.Batch(x.view(-1, 3, 16, 16), y))
    return m, x.view(-1, 3, 16, 16), y


def fits(x, y):
    """By scikit-learn, of images and their mirror images: regression on attributes and the PCA of what it leaves."""
    x, y = torch.cat([x, x.flip(3)]).flatten(1).numpy(), signs(torch.cat([y, y])).numpy()
    regression = LinearRegression().fit(y, x)
    return regression, PCA(8, svd_solver="full").fit(x - regression.predict(y))


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_without_convolutions_images_are_those_of_regression_and_principal_components(training):
    m, x, y = started()
    m.train(training)
    regression, pca = fits(x, y)
    axes = torch.from_numpy(pca.components_ * np.sqrt(pca.explained_variance_)[:, None])
    nobody = torch.zeros(8, 3).double()  # between all that attributes may be
    images = m.generator(torch.eye(8).double(), nobody) - m.generator(torch.zeros(8, 8).double(), nobody)
    turned = (images.flatten(1) * axes).sum(1).sign()  # of which an axis has two
    z, asked = torch.randn(50, 8, generator=generator()).double(), signs(people(50)).double()
    expected = torch.from_numpy(regression.predict(asked.numpy())) + z * turned @ axes
    assert (expected.abs() > 1).any()
    found = m.decode(torch.cat([z, asked], dim=1)).flatten(1)
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=2e-3, rtol=0)


@torch.no_grad()
def test_without_convolutions_draws_have_the_mean_and_the_covariance_of_what_regression_leaves():
    m, x, y = started()
    regression, pca = fits(x, y)
    z = 8**0.5 * torch.cat([torch.eye(8), -torch.eye(8)]).double()  # moments of N(0, I)
    asked = signs(people(1)).double().expand(16, -1)
    images = m.generator.linear(torch.cat([z, asked], dim=1))  # not cut off
    torch.testing.assert_close(images.mean(0), torch.from_numpy(regression.predict(asked[:1].numpy())[0]))
    centred = (images - images.mean(0)) @ torch.from_numpy(pca.components_.T)
    exact = torch.from_numpy(pca.explained_variance_ * (2 * len(x) - 1) / (2 * len(x)))
    torch.testing.assert_close(centred.T @ centred / len(z), exact.diag(), atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_attributes_that_all_or_none_of_the_images_have_are_without_influence():
    m, x, y = model(linear=True).double(), portraits(40), people(40).double()
    y[:, 2] = 1
    m.initialize(base.Batch(x, y))
    expected, _ = fits(x, y)
    torch.testing.assert_close(m.generator.linear.weight[:, 8:], torch.from_numpy(expected.coef_))
    assert m.generator.linear.weight[:, 10].abs().max() < 1e-8


@torch.no_grad()
def test_a_new_model_with_the_weights_of_a_started_one_is_the_same():
    m, _, _ = started()
    other = model(seed=1, linear=True).double().eval()
    other.load_state_dict(m.state_dict())
    z = torch.randn(4, 11, generator=generator()).double()
    assert torch.equal(other.decode(z), m.eval().decode(z))


def test_the_convolutions_learn_and_the_linear_map_stays():
    m, real = model(linear=True), batch()
    m.initialize(real)
    before = {name: value.clone() for name, value in m.generator.state_dict().items()}
    train(m, [real] * 3)
    for name, value in m.generator.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("linear."), name


@torch.no_grad()
def test_without_a_linear_map_the_first_images_do_not_matter():
    one, other, real = model(), model(), batch()
    one.initialize(real)
    other.initialize(base.Batch(-real.x, real.y))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert one.initial_images == base.INITIAL_IMAGES < model(linear=True).initial_images
