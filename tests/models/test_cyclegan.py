import copy

import pytest
import torch
from torch import nn

from tests.models.helpers import generator, step, train, uniform
from visage.models import base
from visage.models.cyclegan import CycleGAN, CycleGANConfig, Generator, History, Judge, judge_halvings

SETTINGS = {
    "domain_a": "Black_Hair",
    "domain_b": "Blond_Hair",
    "cycle": 10.0,
    "identity": 0.5,
    "history": 4,
    "width": 4,
    "halvings": 1,
    "blocks": 1,
    "patch": 2,
    "judge_width": 4,
}
PAPER = {"width": 64, "halvings": 2, "blocks": 6, "patch": 1, "judge_width": 64}


def config(**changes):
    return CycleGANConfig(**SETTINGS | changes)


def model(size=24, **changes):
    torch.manual_seed(0)
    return CycleGAN(config(**changes), size)


def labelled(x):
    return base.Batch(x, torch.zeros(len(x), 2))


def constant(*values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 24, 24)


def by_hand(m):
    """Networks that one can compute in one's head: G(x) = 2x + 0.3, F(x) = x - 0.1, D_B(x) = 2x, D_A(x) = 3x."""
    m.to_b.forward = lambda x: 2 * x + 0.3
    m.to_a.forward = lambda x: x - 0.1
    m.judge_b.forward = lambda x: 2 * x[:, :1]
    m.judge_a.forward = lambda x: 3 * x[:, :1]
    return m


# --- networks


def test_parameter_counts_are_those_of_the_paper():
    # junyanz/pytorch-CycleGAN-and-pix2pix: 7,837,699 in the generator with 6 blocks, 2,764,737 in the discriminator
    # with 3 halvings; of these 3,712 and 896 are biases that instance normalisation takes off again
    nets = Generator(config(**PAPER), 128), Judge(config(**PAPER), 128)
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert counts == [7_837_699 - 3_712, 2_764_737 - 896]


@pytest.mark.parametrize(("size", "field"), [(32, 16), (64, 34), (128, 70), (256, 70)])
def test_a_patch_is_narrower_than_the_image(size, field):
    judge = Judge(config(judge_width=1), size)
    for i, layer in enumerate(judge.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            judge.layers[i] = nn.Identity()  # it looks at the mean of the image, in every patch
        elif isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    x = torch.ones(1, 3, size, size, requires_grad=True)
    found = judge(x)
    middle = found.shape[-1] // 2
    (gradient,) = torch.autograd.grad(found[0, 0, middle, middle], x)
    seen = (gradient[0, 0] > 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [field, field]
    assert field == 9 * 2 ** judge_halvings(size) - 2 < size


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (30, {}, "multiple of 4, from 8 on"),
        (24, {"halvings": 4, "patch": 1}, "multiple of 16, from 32 on"),
        (32, {"halvings": 4, "patch": 2}, "multiple of 32, from 64 on"),
        (16, {}, "16 pixels wide"),
    ],
)
def test_sizes_that_do_not_suit_are_refused(size, changes, message):
    with pytest.raises(ValueError, match=rf"size {size}: .*{message}"):
        model(size, **changes)


def test_weights_start_as_in_the_paper():
    m = model(width=16, judge_width=16)
    for layer in m.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("patch", [1, 2])
def test_an_even_image_has_no_border(patch):
    g = Generator(config(halvings=0, patch=patch), 24)
    nn.init.normal_(g.layers[-2].bias)
    with torch.no_grad():
        pixels = g(constant(0.7)).unfold(2, patch, patch).unfold(3, patch, patch)
    torch.testing.assert_close(pixels, pixels[:, :, :1, :1].expand_as(pixels))


@torch.no_grad()
def test_an_image_is_alone_in_training_and_in_evaluation():
    m, x = model(), uniform(8, size=24)
    for net in (m.to_a, m.to_b, m.judge_a, m.judge_b):
        together = net.train()(x)
        torch.testing.assert_close(net(x[:2]), together[:2])
        torch.testing.assert_close(net.eval()(x), together)


@torch.no_grad()
def test_images_are_tanh_outputs():
    m = model(32)
    m.to_b.layers[-2].weight.mul_(1e4)
    images = m.translate(uniform(2, 32), 1)
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0.9 < images.abs().max() <= 1


# --- domains


@pytest.mark.parametrize(
    ("domains", "attributes", "groups"),
    [
        (("Male", "Young"), ("Male", "Young"), [-1, 1, 0, -1]),
        (("not Male", "Young"), ("Male", "Young"), [0, -1, -1, 1]),
        (("not Male", "not Young"), ("Male", "Young"), [-1, 0, 1, -1]),
        (("not Male", "Male"), ("Male",), [0, 0, 1, 1]),
        (("Male", "not Male"), ("Male",), [1, 1, 0, 0]),
    ],
)
def test_an_image_belongs_to_the_one_domain_that_it_meets_alone(domains, attributes, groups):
    m = model(domain_a=domains[0], domain_b=domains[1])
    assert m.attributes == attributes
    assert m.domains == domains
    everybody = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])[:, : len(attributes)]
    assert m.groups(everybody).tolist() == groups


def test_equal_domains_are_refused():
    with pytest.raises(ValueError, match="'Male'"):
        config(domain_a="Male", domain_b="Male")


# --- losses


def test_losses_computed_by_hand():
    m = by_hand(model(history=0))
    assert [(phase.player, phase.fresh) for phase in m.phases()] == [("generators", True), ("discriminators", False)]
    generators, discriminators = m.phases()
    a_then_b = labelled(constant(0.0, 0.0, 0.5, 0.5))

    loss, terms = generators.loss(a_then_b, step())
    # G(a) = 0.3, D_B = 0.6; F(b) = 0.4, D_A = 1.2
    assert terms["fooling"].item() == pytest.approx(0.4**2 + 0.2**2)
    # F(G(a)) = 0.2, G(F(b)) = 1.1
    assert terms["cycle"].item() == pytest.approx(0.2 + 0.6)
    # G(b) = 1.3, F(a) = -0.1
    assert terms["identity"].item() == pytest.approx(0.8 + 0.1)
    assert loss.item() == pytest.approx(0.2 + 10 * 0.8 + 5 * 0.9)

    loss, terms = discriminators.loss(a_then_b, step())
    # D_A(a) = 0, D_A(F(b)) = 1.2; D_B(b) = 1, D_B(G(a)) = 0.6
    assert loss.item() == pytest.approx((1 + 1.2**2) / 2 + (0 + 0.6**2) / 2)
    assert terms["d_real"].item() == pytest.approx(0.5)
    assert terms["d_fake"].item() == pytest.approx(0.9)


def test_generators_that_change_nothing_have_only_the_judges_to_please():
    m, x = model(), uniform(8, size=24)
    m.to_a.forward = m.to_b.forward = lambda x: x
    loss, terms = m.generators_loss(labelled(x), step())
    assert terms["cycle"] == terms["identity"] == 0
    a, b = x.chunk(2)
    torch.testing.assert_close(loss, (m.judge_b(a) - 1).square().mean() + (m.judge_a(b) - 1).square().mean())


def test_each_judge_sees_images_of_its_own_domain():
    m, seen = model(history=0), {}
    for name in ("judge_a", "judge_b"):
        judge = getattr(m, name)
        judge.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0]))
    x = uniform(8, size=24)
    a, b = x.chunk(2)
    m.generators_loss(labelled(x), step())
    m.discriminators_loss(labelled(x), step())
    with torch.no_grad():
        fake_a, fake_b = m.to_a(b), m.to_b(a)
    for name, real, fake in (("judge_a", a, fake_a), ("judge_b", b, fake_b)):
        torch.testing.assert_close(torch.cat(seen[name]), torch.cat([fake, real, fake]))


def test_no_gradient_leaks_from_the_judges_to_the_generators():
    m = model()
    loss, _ = m.discriminators_loss(labelled(uniform(8, size=24)), step())
    mine = [p for net in (m.to_a, m.to_b) for p in net.parameters()]
    assert all(g is None for g in torch.autograd.grad(loss, mine, allow_unused=True))


def test_losses_are_float32_under_bf16():
    m = model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [phase.loss(labelled(uniform(8, size=24)), step())[0] for phase in m.phases()]
    assert all(loss.dtype == torch.float32 for loss in losses)


# --- the history


def images(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)


def first(x):
    return x[:, 0, 0, 0].tolist()


def test_the_history_is_that_of_a_plain_list():
    history, g, twin, stored = History(2, 2), generator(5), generator(5), []
    exchanged = 0
    for i in range(30):
        new = [3.0 * i, 3.0 * i + 1, 3.0 * i + 2]
        expected = []
        places, swaps = torch.randint(2, (3,), generator=twin).tolist(), torch.rand(3, generator=twin).tolist()
        for image, place, swap in zip(new, places, swaps, strict=True):
            if len(stored) < 2:
                stored.append(image)
                expected.append(image)
            elif swap < 0.5:
                expected.append(stored[place])
                stored[place] = image
                exchanged += 1
            else:
                expected.append(image)
        assert first(history.exchange(images(*new), g)) == expected
        assert first(history.images) == stored
    assert 30 < exchanged < 58  # of 88 with probability 1/2


def test_the_history_first_keeps_what_it_gives_out():
    history, g = History(5, 2), generator()
    assert first(history.exchange(images(1, 2, 3), g)) == [1, 2, 3]
    assert first(history.images) == [1, 2, 3, 0, 0]
    assert history.count == 3


def test_a_full_history_loses_nothing():
    history, g = History(3, 2), generator()
    history.exchange(images(1, 2, 3), g)
    for i in range(4, 40, 4):
        before = first(history.images)
        new = images(i, i + 1, i + 2, i + 3)
        given = history.exchange(new, g)
        assert sorted(before + first(new)) == sorted(first(given) + first(history.images))


def test_without_a_history_images_pass():
    g = generator()
    assert first(History(0, 2).exchange(images(1, 2, 3), g)) == [1, 2, 3]
    assert torch.equal(g.get_state(), generator().get_state())


def test_what_the_history_gives_out_is_a_copy_without_gradients():
    history, g = History(1, 2), generator()
    given = []
    for i in range(20):
        given.append(history.exchange(images(i).clone().requires_grad_(), g))
    assert not any(x.requires_grad for x in given)
    shown = [first(x)[0] for x in given]
    assert shown[0] == 0
    assert sorted([*shown[1:], history.images[0, 0, 0, 0].item()]) == list(range(20))  # none was overwritten later


def test_the_judges_learn_from_the_history():
    m, x = model(history=4), uniform(8, size=24)
    seen = []
    m.judge_b.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][4:].clone()))
    for seed in range(3):
        m.discriminators_loss(labelled(x), step(seed))
        with torch.no_grad():
            m.to_b.layers[-2].bias.add_(0.3)  # G changes; what it made before is still shown
    assert m.history_a.count == m.history_b.count == 4
    with torch.no_grad():
        now = m.to_b(x[:4])
    assert (seen[2] - now).abs().mean(0).max() > 0.1


def test_a_checkpoint_holds_the_history():
    m, batch = model(history=4), labelled(uniform(8, size=24))
    for seed in range(3):
        m.discriminators_loss(batch, step(seed))
    resumed = model(history=4)
    resumed.load_state_dict(copy.deepcopy(m.state_dict()))
    for seed in range(4, 8):
        assert torch.equal(
            m.discriminators_loss(batch, step(seed))[0], resumed.discriminators_loss(batch, step(seed))[0]
        )
    assert torch.equal(m.history_b.images, resumed.history_b.images)


def test_all_choices_come_from_the_generator():
    m, batch = model(history=4), labelled(uniform(8, size=24))
    m.discriminators_loss(batch, step())  # fills it
    twins = [copy.deepcopy(m) for _ in range(3)]
    for twin, seed, of_torch in zip(twins, (7, 7, 8), (1, 2, 1), strict=True):
        torch.manual_seed(of_torch)
        twin.discriminators_loss(labelled(uniform(8, seed=3, size=24)), step(seed))
    one, same, other = (twin.history_b.images for twin in twins)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# --- what it can do


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert {c for c in base.CAPABILITIES if base.can(m, c)} == {base.Translates, base.ScoresOod}


def test_translations_and_scores_computed_by_hand():
    m = by_hand(model())
    x = constant(-0.5, 0.5)
    torch.testing.assert_close(m.translate(x, 1), constant(-0.7, 1.3))
    torch.testing.assert_close(m.translate(x, 0), constant(-0.6, 0.4))
    scores = m.ood_scores(x, generator())
    assert next(iter(scores)) == "cycle"
    # F(G(x)) = -0.8 and 1.2, G(F(x)) = -0.9 and 1.1
    torch.testing.assert_close(scores["cycle"], torch.tensor([0.3, 0.6]))
    torch.testing.assert_close(scores["discriminator_a"], torch.tensor([1.5, -1.5]))
    torch.testing.assert_close(scores["discriminator_b"], torch.tensor([1.0, -1.0]))


def test_the_judges_learn_to_tell_and_the_generators_to_fool():
    m, batch = model(), labelled(uniform(8, size=24))
    told = train(m, [batch] * 30, ["discriminators"], lr=5e-3)["discriminators"]
    assert told["d_real"] > 0.7 > 0.3 > told["d_fake"]
    fooled = train(m, [batch] * 30, ["generators"], lr=5e-3)["generators"]
    assert fooled["fooling"] < 0.3


def test_dark_images_become_bright_and_bright_ones_dark():
    m = model(cycle=1.0)
    dark, bright = 0.3 * uniform(8, size=24) - 0.5, 0.3 * uniform(8, seed=3, size=24) + 0.5
    train(m, [labelled(torch.cat([dark, bright]))] * 40, lr=1e-2)
    with torch.no_grad():
        assert m.translate(dark, 1).mean() > 0.2
        assert m.translate(bright, 0).mean() < -0.2


@torch.no_grad()
def test_features_are_what_the_last_layer_of_either_judge_is_given():
    m, x, seen = model().eval(), uniform(4, size=24), []
    for judge in (m.judge_a, m.judge_b):
        judge.layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    m.ood_scores(x, generator())
    torch.testing.assert_close(m.features(x), torch.cat([activations.mean((2, 3)) for activations in seen], dim=1))
    assert not m.discriminator_score  # there are two of them
