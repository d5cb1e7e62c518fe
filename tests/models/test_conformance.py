"""Laws that every model obeys. A new file under visage/models, with a recipe in params.yaml, is tested by existing."""

import copy
import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from tests.conftest import ROOT
from tests.models.helpers import generator, parameters, step
from tests.models.other_device import META, DeviceGenerator, NothingMixed, no_autocast
from visage import params
from visage.config import RuntimeConfig
from visage.maths.pixels import to_float
from visage.models import base
from visage.models.base import Batch, Step, can
from visage.training.devices import start_device
from visage.training.feed import Feed
from visage.training.loop import Training
from visage.training.outputs import build_model

CPU = torch.device("cpu")
RECIPES = sorted(params.load(ROOT / "params.yaml").recipes)
LARGE = {"cyclegan", "vae_128"}
"""Recipes that cannot do images of 16 pixels."""
MORE = {"beta_vae", "vae_mse", "vae_128", "wgan_gp"}
"""Recipes of a model that another recipe shows already; what else their settings lead to stands in `VARIANTS`."""


@pytest.fixture(
    params=[
        *(
            pytest.param(
                (recipe, 32 if recipe in LARGE else 16), id=recipe, marks=[pytest.mark.long] * (recipe in MORE)
            )
            for recipe in RECIPES
        ),
        *(
            pytest.param((recipe, 32), id=f"{recipe}-32", marks=pytest.mark.long)
            for recipe in RECIPES
            if recipe not in LARGE
        ),
    ]
)
def recipe_and_size(request):
    """The laws hold at every size; at 32 pixels, as most runs are trained, it takes four times as long to see."""
    return request.param


@pytest.fixture
def recipe(recipe_and_size):
    return recipe_and_size[0]


@pytest.fixture
def size(recipe_and_size):
    return recipe_and_size[1]


@pytest.fixture
def images(images, size):
    step = images.shape[1] // size
    return np.ascontiguousarray(images[:, ::step, ::step])


@pytest.fixture
def config(recipe, size, run_config):
    return run_config(recipe, size)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config)


FEW = {"timesteps": 8, "sampling_steps": 2, "bound_terms": 2, "pc_steps": 2, "ode_steps": 1, "likelihood_steps": 1,
       "multipliers": (1,), "halvings": 3, "steps": 1, "blocks": 1, "prior_layers": 2}  # fmt: skip
"""Settings that make a model quick to ask."""
SHAPES = {"halvings", "multipliers"}
"""Those of them that decide which sizes a model can do."""
NETWORKS = SHAPES | {"timesteps", "steps", "blocks", "prior_layers"}
"""Those of them that decide what is learned, and not only how a learned model is asked."""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("visage.models.vae.REGRET_STEPS", 1)
    monkeypatch.setattr("visage.maths.samplers.REDRAW_STEPS", 1)


def with_few(config, but=frozenset(), **changes):
    few = {name: number for name, number in FEW.items() if name in config.settings and name not in but}
    return dataclasses.replace(config, settings=config.settings | few | changes)


@pytest.fixture
def asked(config, quick):
    """The model as it is, but for how often it calls its network to draw an image, or to judge one."""
    torch.manual_seed(0)
    return build_model(with_few(config, but=NETWORKS))


@pytest.fixture
def batch(model, images):
    y = labels_of(model, len(images))
    rows = torch.arange(16)
    if (group := model.groups(y)) is not None:
        rows = torch.cat([(group == i).nonzero().flatten()[:8] for i in (0, 1)])
    return Batch(to_float(torch.from_numpy(images[rows.numpy()])), y[rows])


def labels_of(model, n):
    return torch.randint(0, 2, (n, len(model.attributes)), generator=generator(4)).float()


def training_of(config, images, steps=100, device=CPU, batch_size=16):
    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    shown = batch_size * sum(phase.fresh and phase.span[0] == 0 for phase in model.phases())  # images in a step
    train = dataclasses.replace(config.train, batch_size=batch_size, kimg=steps * shown / 1000)
    y = labels_of(model, len(images))
    feed = Feed(
        images,
        y.numpy().astype(np.uint8),
        batch_size=batch_size,
        flip=True,
        seed=0,
        device=device,
        groups=model.groups(y),
    )
    return Training(model, train, feed, seed=0)


def test_every_model_file_has_a_recipe(shipped):
    assert {recipe.file or name for name, recipe in shipped.recipes.items()} == set(base.names())


@pytest.mark.parametrize("recipe", RECIPES)
def test_file_names_its_paper_and_its_settings_have_no_defaults(recipe, run_config):
    kind = base.find(run_config(recipe).model)
    assert "arXiv" in inspect.getmodule(kind).__doc__
    assert kind.paper
    assert kind.__doc__
    for field in dataclasses.fields(base.config_type(kind)):
        assert field.default is dataclasses.MISSING, f"{field.name}: params.yaml is the place for values"


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES)
def test_builds_at_every_size_and_scale(recipe, run_config):
    for size in (32, 64, 128):
        run_config(recipe, size, "demo")
    run_config(recipe, 64, "full")


def test_players_are_disjoint_and_hold_every_parameter(model):
    seen = [id(p) for modules in model.players().values() for m in modules for p in m.parameters()]
    assert len(seen) == len(set(seen))
    assert set(seen) == {id(p) for p in model.parameters() if p.requires_grad}
    assert {phase.player for phase in model.phases()} == set(model.players())


def test_losses_are_finite_scalars_and_reach_every_parameter_of_their_player(model, batch):
    model.train().initialize(batch)
    reached = set()
    for phase in model.phases():
        loss, terms = phase.loss(batch, step())
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(term).all() and term.numel() == 1 for term in terms.values())
        mine = parameters(model, phase.player)
        for p, g in zip(mine, torch.autograd.grad(loss, mine, allow_unused=True), strict=True):
            if g is not None:
                reached.add(id(p))
    assert reached == {id(p) for p in model.parameters() if p.requires_grad}


def without_dropout(model):
    """The model; dropout is the one thing that PyTorch draws from its global generator."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_randomness_comes_from_the_generator_alone(model, batch):
    model.train().initialize(batch)
    twin = copy.deepcopy(without_dropout(model))
    before = torch.get_rng_state()
    for mine, same in zip(model.phases(), twin.phases(), strict=True):
        torch.testing.assert_close(mine.loss(batch, step(3))[0], same.loss(batch, step(3))[0], rtol=0, atol=0)
    assert torch.equal(before, torch.get_rng_state())


def test_one_players_update_leaves_the_others_alone(config, images):
    training = training_of(config, images, batch_size=8)
    for phase in training.phases:
        before = {player: [p.clone() for p in ps] for player, ps in training.parameters.items()}
        training._minimise(phase, training.feed.next())
        for player, parameters_ in training.parameters.items():
            same = all(torch.equal(a, b) for a, b in zip(before[player], parameters_, strict=True))
            assert same == (player != phase.player)


def test_loss_falls_on_a_single_batch(config, images):
    at_once = dataclasses.replace(config.train, warmup_kimg=0)
    training = training_of(dataclasses.replace(config, train=at_once), images)
    if len(training.parameters) > 1:
        pytest.skip("players compete: a falling loss means nothing (the model's own tests say what does)")
    batch = training.feed.next()
    first = training.phases[0].loss(batch, step(index=99))[0].item()
    # hardly any of what a filter leaves of an image can be predicted; the constant of a large sigma is most of the loss
    least = 0.0005 if "residual" in config.settings.values() or config.settings.get("sigma") else 0.02
    for _ in range(6):  # of eight steps: where the best linear model is the start, the first ones lead away from it
        for _ in range(8):
            training._minimise(training.phases[0], batch)
        last = training.phases[0].loss(batch, step(index=99))[0].item()
        if last < first - least * abs(first):
            return
    pytest.fail(f"from {first:.1f} to {last:.1f} in 48 steps")


def test_interrupted_training_ends_bit_identical(config, images):
    whole = training_of(config, images, batch_size=8)
    for _ in range(3):
        whole.iterate()
    half = training_of(config, images, batch_size=8)  # only now: both begin with the same random state, for dropout
    for _ in range(2):
        half.iterate()
    state = copy.deepcopy(half.state_dict())
    torch.manual_seed(999)  # a new process has another random state
    resumed = training_of(config, images, batch_size=8)
    resumed.load_state_dict(state)
    resumed.iterate()
    for ours, theirs in ((whole.model, resumed.model), (whole.ema.model, resumed.ema.model)):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    for ours, averaged in zip(resumed.model.buffers(), resumed.ema.model.buffers(), strict=True):
        assert ours is averaged  # none has been replaced by another tensor
    assert whole.row() == resumed.row()


def test_images_shown_counts_every_real_image(config, images):
    training = training_of(config, images, batch_size=8)
    for _ in range(2):
        training.iterate()
    assert training.images_shown == 2 * 8 * sum(phase.fresh and phase.span[0] == 0 for phase in training.phases)
    assert training.phases[0].fresh


def test_each_capability_is_there_or_its_absence_has_a_reason(model):
    for capability in base.CAPABILITIES:
        assert can(model, capability) != bool(base.reason(model, capability)), capability.__name__


def needs(model, capability):
    if not can(model, capability):
        pytest.skip(base.reason(model, capability) or f"this model has no {capability.__name__}")


@torch.no_grad()
def test_samples_are_images_that_do_not_depend_on_how_many_there_are(asked, batch, size):
    model = asked
    needs(model, base.Samples)
    model.train().initialize(batch)
    model.eval()
    before = torch.get_rng_state()
    three, one = (model.sample(n, generator()) for n in (3, 1))
    assert three.shape == (3, 3, size, size)
    assert -1 <= three.min() <= three.max() <= 1
    torch.testing.assert_close(three[:1], one, rtol=0, atol=2e-5)
    assert torch.equal(before, torch.get_rng_state())


@torch.no_grad()
@pytest.mark.parametrize(
    "capability",
    [
        base.Reconstructs,
        base.Encodes,
        base.Translates,
        base.Inpaints,
        base.Denoises,
        base.HasLogProb,
        base.HasBound,
        base.EstimatesLogProb,
        base.ImportanceWeighted,
        base.ScoresOod,
        base.ScoresOodSlowly,
        base.HasFeatures,
    ],
)
def test_what_is_said_of_an_image_does_not_depend_on_its_batch(asked, batch, capability):
    model = asked
    needs(model, capability)
    model.train().initialize(batch)
    model.eval()

    def ask(x):
        seeded = generator(5)
        if capability is base.Reconstructs:
            return model.reconstruct(x)
        if capability is base.Encodes:
            return model.encode(x)
        if capability is base.Translates:
            return model.translate(x, 1)
        if capability is base.Inpaints:
            return model.inpaint(x, seeded)[0]
        if capability is base.Denoises:
            return model.denoise(x, 0.5)
        if capability is base.EstimatesLogProb:
            return model.estimate_log_prob(x, seeded)
        if capability is base.HasLogProb:
            return model.log_prob(x, seeded)
        if capability is base.HasBound:
            return model.bound(x, seeded).elbo
        if capability is base.ImportanceWeighted:
            return model.log_weight(x, seeded)
        if capability is base.HasFeatures:
            return model.features(x)
        scores = model.ood_scores if capability is base.ScoresOod else model.slow_ood_scores
        return torch.stack(list(scores(x, seeded).values()), dim=1)

    x = batch.x[:3]
    together, alone = ask(x), ask(x[:1])
    assert together.shape[0] == 3
    assert together.isfinite().all()
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)
    other = torch.cat([x[:1], -x[1:]])  # other company, same image
    torch.testing.assert_close(ask(other)[:1], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_decoded_priors_are_images(asked, batch, size):
    model = asked
    needs(model, base.Decodes)
    model.train().initialize(batch)
    model.eval()
    z = model.prior(3, generator(0))
    assert z.ndim == 2
    x = model.decode(z)
    assert x.shape == (3, 3, size, size)
    if not (can(model, base.HasLogProb) and can(model, base.Encodes)):  # an exact inverse is not clamped
        assert -1 <= x.min() <= x.max() <= 1
    if can(model, base.Encodes):
        assert model.encode(x).shape == z.shape


@torch.no_grad()
def test_variants_are_samples_too(asked, batch, size):
    model = asked
    needs(model, base.HasVariants)
    model.train().initialize(batch)
    model.eval()
    for name, sampler in model.variants().items():
        assert len(name) < 24, "a short name, as the label of a row of pictures"
        two, one = (sampler(n, generator()) for n in (2, 1))
        assert two.shape == (2, 3, size, size)
        assert -1 <= two.min() <= two.max() <= 1
        torch.testing.assert_close(two[:1], one, rtol=0, atol=2e-5)


@torch.no_grad()
def test_images_of_given_attributes_do_not_depend_on_other_rows(asked, batch, size):
    model = asked
    needs(model, base.SamplesGiven)
    model.train().initialize(batch)
    model.eval()
    y = batch.y[:3]

    def draw(y, **options):
        ask = model.sample_guided if options else model.sample_given
        return ask(y, generator(1), **options)

    images = draw(y)
    assert images.shape == (3, 3, size, size)
    assert -1 <= images.min() <= images.max() <= 1
    torch.testing.assert_close(draw(y[:2]), images[:2], rtol=0, atol=2e-5)
    torch.testing.assert_close(draw(torch.cat([y[:2], 1 - y[2:]]))[:2], images[:2], rtol=0, atol=2e-5)
    if can(model, base.Guides):
        w = model.guidance_scales[-1]
        torch.testing.assert_close(draw(y[:2], w=w), draw(y, w=w)[:2], rtol=0, atol=2e-5)


@torch.no_grad()
def test_what_is_visible_stays_and_hidden_parts_come_from_the_generator(asked, batch, size):
    model = asked
    needs(model, base.Inpaints)
    model.train().initialize(batch)
    model.eval()
    x = batch.x[:4]
    (filled, hidden), (_, others) = (model.inpaint(x, generator(i)) for i in (0, 1))
    assert hidden.shape == (4, 1, size, size)
    assert set(hidden.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(filled * (1 - hidden), x * (1 - hidden))
    assert not torch.equal(hidden, others)
    assert not torch.equal(hidden[0], hidden[1])


@torch.no_grad()
def test_translations_are_images_of_the_other_kind(model, batch, size):
    needs(model, base.Translates)
    model.train().initialize(batch)
    model.eval()
    assert len(set(model.domains)) == 2
    to_b, to_a = (model.translate(batch.x[:4], to) for to in (1, 0))
    assert to_b.shape == (4, 3, size, size)
    assert -1 <= to_b.min() <= to_b.max() <= 1
    assert not torch.equal(to_a, to_b)
    group = model.groups(labels_of(model, 200))
    assert group.shape == (200,)
    assert {0, 1} <= set(group.tolist()) <= {-1, 0, 1}


@torch.no_grad()
def test_compressed_images_come_back_with_their_shape(model, batch):
    needs(model, base.Compresses)
    model.eval()
    z = model.compress(batch.x[:3], torch.randn(3, *model.latent_shape, generator=generator(0)))
    assert z.shape == (3, *model.latent_shape)
    assert z[0].numel() < batch.x[0].numel()
    back = model.decompress(z)
    assert back.shape == batch.x[:3].shape
    assert -1 <= back.min() <= back.max() <= 1


@torch.no_grad()
def test_features_are_numbers_of_the_image_alone(model, batch):
    needs(model, base.HasFeatures)
    model.train().initialize(batch)
    model.eval()
    before = torch.get_rng_state()
    features = model.features(batch.x)
    assert features.shape == (16, features.shape[1])
    assert features.dtype == torch.float32
    assert torch.equal(model.features(batch.x), features)
    assert torch.equal(before, torch.get_rng_state())
    assert features.std(0).max() > 0


@torch.no_grad()
def test_log_weights_have_the_bound_for_their_mean(model, batch):
    needs(model, base.ImportanceWeighted)
    assert can(model, base.HasBound), "there must be a bound to tighten"
    model.eval()

    def draw(seed):
        # the same draws for both, so that what differs is the KL divergence: sampled or in closed form
        weight, bound = (f(batch.x[:4], generator(seed)) for f in (model.log_weight, model.bound))
        return (weight - bound.elbo).double().mean()

    differences = torch.stack([draw(seed) for seed in range(50)])
    assert differences.std() > 0
    assert abs(differences.mean()) < 3 * differences.std() / len(differences) ** 0.5


def test_slow_scores_need_no_gradients_around_them_and_leave_none(asked, batch):
    model = asked
    needs(model, base.ScoresOodSlowly)
    model.train().initialize(batch)
    model.eval()
    before = [p.clone() for p in model.parameters()]
    asked = []
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            asked.append(model.slow_ood_scores(batch.x[:2], generator(0)))
    with_, without = asked
    assert set(with_) == set(without)
    assert not set(with_) & set(model.ood_scores(batch.x[:2], torch.Generator()))
    for name, score in with_.items():
        torch.testing.assert_close(score.detach(), without[name])
        assert not without[name].requires_grad
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert model.slow_ood_calls > 1


def test_likelihoods_have_gradients_in_the_image(asked, batch):
    model = asked
    capability = next((c for c in (base.HasLogProb, base.HasBound) if can(model, c)), None)
    if capability is None:
        pytest.skip("this model has no likelihood")
    model.train().initialize(batch)
    model.eval()
    x = batch.x[:3].clone()
    x[0], x[1] = -1, 1  # black and white: the first and the last of the 256 values
    x.requires_grad_()
    seeded = generator(0)
    nats = model.log_prob(x, seeded) if capability is base.HasLogProb else model.bound(x, seeded).elbo
    (gradient,) = torch.autograd.grad(nats.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@torch.no_grad()
def test_the_discriminators_score_is_among_those_of_the_model(model, batch):
    if not model.discriminator_score:
        pytest.skip("this model has no judge of its own samples")
    model.train().initialize(batch)
    assert model.discriminator_score in model.eval().ood_scores(batch.x[:2], generator(0))


# --- on another device than the CPU


VARIANTS = {
    "stylegan": [{"path_every": 2, "mixing": 0.9}],
    "ddpm": [
        {"sampler": "ancestral"},
        {"sampler": "ddim", "schedule": "linear", "prediction": "epsilon", "filter_axes": 0, "variance": "large"},
    ],
    "conditional_diffusion": [{"guidance": 0.0, "prediction": "epsilon", "filter_axes": 0, "sampler": "ddim"}],
    "score_sde": [
        {"sde": "ve", "sampler": "pc", "snr": 0.17},
        {"parametrization": "epsilon", "filter_axes": 0},
    ],
    "vae": [
        {"likelihood": "discretized_logistic", "linear": False},
        {"likelihood": "bernoulli", "linear": False},
        {"sigma": 0.1},
        {"linear": False},
    ],
    "vae_mse": [{"bottom": 2}],
    "vae_128": [{"likelihood": "laplace", "sigma": 1.0, "output": "sigmoid"}],
    "autoencoder": [{"linear": False}],
    "latent_diffusion": [{"sampler": "ddim"}],
    "bigan": [{"linear": False}],
    "conditional_gan": [{"linear": False}],
    "wgan": [{"linear": False}],
    "wgan_gp": [{"blocks": "residual", "norm": "layer"}],
    "mae": [{"normalize_targets": True}],
    "cyclegan": [{"history": 0, "patch": 1}],
}
"""Settings of recipes that lead through code which the recipes of the demo do not."""


def on_the_other_device(config, changes, batch):
    return build_model(with_few(config, **changes)).to(META), Batch(batch.x.to(META), batch.y.to(META))


def answers(model, batch):
    """What the model says when it is asked for everything that it can do; the noise comes from the CPU."""
    x, y, g = batch.x[:4], batch.y[:4], generator()
    ask = {
        base.Samples: lambda: model.sample(2, g),
        base.SamplesGiven: lambda: model.sample_given(y, g),
        base.Guides: lambda: [model.sample_guided(y, g, w) for w in (0.0, 1.0)],
        base.HasVariants: lambda: [sampler(2, g) for sampler in model.variants().values()],
        base.Translates: lambda: [model.translate(x, to) for to in (0, 1)],
        base.Inpaints: lambda: model.inpaint(x, g),
        base.Compresses: lambda: model.decompress(model.compress(x, torch.randn(4, *model.latent_shape).to(x.device))),
        base.Quantizes: lambda: model.codes(x),
        base.Reconstructs: lambda: model.reconstruct(x),
        base.Encodes: lambda: model.encode(x),
        base.Decodes: lambda: model.decode(model.prior(2, g)),
        base.HasLogProb: lambda: model.log_prob(x, g),
        base.HasBound: lambda: model.bound(x, g).elbo,
        base.ImportanceWeighted: lambda: model.log_weight(x, g),
        base.EstimatesLogProb: lambda: model.estimate_log_prob(x, g),
        base.ScoresOod: lambda: model.ood_scores(x, g),
        base.ScoresOodSlowly: lambda: model.slow_ood_scores(x, g),
        base.HasFeatures: lambda: model.features(x),
    }
    return {capability: question() for capability, question in ask.items() if can(model, capability)}


@pytest.fixture(params=["shipped", pytest.param("changed", marks=pytest.mark.long)])
def ways(request, recipe):
    """The settings to change: none, or each of the ways in `VARIANTS`."""
    if request.param == "shipped":
        return [{}]
    return VARIANTS.get(recipe) or pytest.skip("its settings lead nowhere else")


def test_training_stays_on_its_device_and_never_waits_for_it(config, ways, batch, monkeypatch):
    for changes in ways:
        model, there = on_the_other_device(config, changes, batch)
        with no_autocast(monkeypatch):
            with NothingMixed(copies=True):
                model.train().initialize(there)
            for phase in model.phases():
                with NothingMixed(copies=False):
                    loss, terms = phase.loss(there, Step(1, 10, DeviceGenerator()))
                    mine = parameters(model, phase.player)
                    torch.autograd.grad(loss, mine, allow_unused=True)
                    phase.after()
                assert {loss.device, *(term.device for term in terms.values())} == {META}


@pytest.mark.usefixtures("quick")
def test_all_questions_are_answered_on_the_device_of_the_model(config, ways, batch, monkeypatch):
    for changes in ways:
        model, there = on_the_other_device(config, changes, batch)
        with no_autocast(monkeypatch), NothingMixed(copies=True), torch.no_grad():
            found = answers(model.eval(), there)
        assert {x.device for x in tree_leaves(found)} <= {META}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("size", [12, 30])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_size_works_for_everything_or_is_refused_with_a_reason_before_the_training(recipe, run_config, size):
    config = run_config(recipe)
    first = config.first_stage and dataclasses.replace(config.first_stage, size=size)
    config = dataclasses.replace(with_few(config, SHAPES), size=size, first_stage=first)
    try:
        model = build_model(config)
    except ValueError as error:
        assert re.search(r"\d", str(error)), error  # noqa: PT017 - a refusal is one of two right answers
        return
    batch = Batch(2 * torch.rand(8, 3, size, size, generator=generator()) - 1, labels_of(model, 8))
    model.train().initialize(batch)
    assert all(phase.loss(batch, step())[0].isfinite() for phase in model.phases())
    with torch.no_grad():
        found = answers(model.eval(), batch)
    assert all(x.isfinite().all() for x in tree_leaves(found))


# --- on a GPU, where there is one


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A CUDA device that is set up as a stage sets it up, to repeat itself."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    RuntimeConfig("cuda", 1, deterministic=True, experiment="tests").save()
    yield start_device()
    torch.set_deterministic_debug_mode("default")


def what_it_says(model, batch):
    """Its losses, and its answers, on the CPU; all noise is the CPU's."""
    losses = [phase.loss(batch, step())[0].detach() for phase in model.phases()]
    torch.manual_seed(0)
    with torch.no_grad():
        return tree_map(lambda x: x.cpu(), (losses, list(answers(model.eval(), batch).values())))


def moved(batch, device):
    return Batch(batch.x.to(device), batch.y.to(device))


@pytest.mark.usefixtures("quick")
def test_a_gpu_answers_as_the_cpu_does(config, recipe, batch, gpu):
    for changes in ({}, *VARIANTS.get(recipe, ())):
        torch.manual_seed(0)
        model = build_model(with_few(config, **changes))
        without_dropout(model.train()).initialize(batch)
        expected, found = (what_it_says(copy.deepcopy(model).to(device), moved(batch, device)) for device in (CPU, gpu))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_repeats_a_training_bit_for_bit_and_resumes_it(config, images, precision, gpu, tmp_path):
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision=precision))

    def weights(saved_at=None):
        training = training_of(config, images, steps=6, device=gpu)
        for i in range(6):
            if i == saved_at:
                torch.save(training.state_dict(), tmp_path / "state.pt")
                training = training_of(config, images, steps=6, device=gpu)
                training.load_state_dict(torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True))
            training.iterate()
        training.raise_if_not_finite()
        return training.model.state_dict() | {f"ema.{k}": v for k, v in training.ema.model.state_dict().items()}

    expected = weights()
    for again in (weights(), weights(saved_at=3)):
        assert all(torch.equal(again[name], weight) for name, weight in expected.items())
