import dataclasses
import math

import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from tests.models.helpers import (
    FOUR,
    ExactDenoiser,
    assert_mean,
    bound_by_hand,
    ddim_factor,
    gaussian,
    generator,
    inputs_of,
    outputs_of,
    rounded,
    step,
    uniform,
)
from visage.maths import diffusion, noise, samplers
from visage.models import base
from visage.models.conditional_diffusion import ConditionalDiffusion, ConditionalDiffusionConfig

SMALL = ConditionalDiffusionConfig(
    attributes=("Male", "Smiling", "Eyeglasses"),
    p_uncond=0.1,
    guidance=1.0,
    timesteps=1000,
    prediction="v",
    filter_axes=0,
    sampler="ddim",
    sampling_steps=10,
    bound_terms=5,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    dropout=0.0,
    patch=2,
)


def model(size=16, live=False, **changes):
    """A model; a live one has no layers that are zero, as some are at first."""
    torch.manual_seed(0)
    m = ConditionalDiffusion(dataclasses.replace(SMALL, **changes), size).eval()
    for p in m.denoiser.parameters() if live else ():
        if p.ndim > 1 and not p.any():
            nn.init.normal_(p, std=0.05)
    return m


class Exact(ExactDenoiser):
    """A perfect network where images are N(0, s^2) without y, or all equal to the mean of y's signs / 2 with it."""

    def image(self, x, abar, y, known):
        given = (y - 0.5).mean(1)[:, None, None, None].to(x).expand_as(x)
        return torch.where(known[:, None, None, None], given, super().image(x, abar))


def exact(s, shift=0, alpha_bars=None, **changes):
    if alpha_bars is not None:
        changes = {"timesteps": len(alpha_bars) - 1, "sampling_steps": 1, "bound_terms": 2} | changes
    m = model(**changes).double()
    if alpha_bars is not None:
        m.alpha_bars, m.tables = alpha_bars, diffusion.tables(alpha_bars)
    m.denoiser = Exact(m.alpha_bars, m.config.prediction, s, shift)
    return m


def batch(n=16, size=16):
    return base.Batch(uniform(n, size), torch.randint(0, 2, (n, 3), generator=generator(3)).float())


ALL_Y = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": ("Male", "Young", "Male")}, "Male"),
        ({"sampling_steps": 1001}, "sampling_steps=1001"),
        ({"bound_terms": 2000}, "bound_terms=2000"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


# --- Objective


def recorded(m, b, s):
    """Loss and what the denoiser was asked."""
    asked = []
    m.denoiser.forward = lambda *inputs: asked.append(inputs) or torch.full_like(inputs[0], 0.25)
    return m.loss(b, s)[0], asked[0]


def test_the_whole_y_is_dropped_image_by_image_with_the_wanted_probability():
    b = base.Batch(torch.zeros(10000, 3, 4, 4), torch.ones(10000, 3))
    _, (_, time, _, known) = recorded(model(), b, step())
    assert (~known).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert 0 < (~known[:32]).sum() < 32  # not by the batch
    correlation = torch.corrcoef(torch.stack([known.float(), time]))[0, 1]
    assert abs(correlation.item()) < 0.04  # and not by the time
    assert not torch.equal(recorded(model(), b, step(3))[1][3], known)  # drawn anew at every step


def test_y_matters_where_it_is_known_and_nowhere_else():
    m = model(live=True)
    x, t, b = batch(8).x, torch.full((8,), 500), batch(8)
    known = torch.arange(8) % 2 == 0
    with torch.no_grad():
        one, other = (m.output(x, t, y, known) for y in (b.y, 1 - b.y))
        null = m.unconditional(x, t)
    assert (one - other).abs().amax((1, 2, 3))[known].min() > 1e-4
    assert torch.equal(one[~known], other[~known])
    torch.testing.assert_close(one[~known], null[~known])


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_noise_is_removed_without_knowing_y(sigma):
    m, x = exact(0.2), uniform(3, 16).double() / 4
    torch.testing.assert_close(m.denoise(x, sigma), 0.04 / (0.04 + sigma**2) * x, rtol=0.04, atol=0)


def test_the_null_token_is_no_y():
    m = model()
    with torch.no_grad():
        embedded = m.denoiser.condition(ALL_Y, torch.ones(8, dtype=torch.bool))
        null = m.denoiser.condition(ALL_Y, torch.zeros(8, dtype=torch.bool))
    assert torch.equal(null, m.denoiser.null.expand(8, -1))
    distances = torch.cdist(torch.cat([embedded, null[:1]]), embedded) + 10 * torch.eye(9, 8)
    assert distances.min() > 0.1
    assert isinstance(m.denoiser.null, nn.Parameter)


def test_every_image_has_its_own_time_and_noise_and_absence_is_said():
    b = batch(4000, 4)
    _, (x_t, time, y, _) = recorded(model(), b, step(7))
    assert torch.equal(y, b.y)
    g = generator(7)
    t, eps = torch.randint(1, 1001, (4000,), generator=g), torch.randn(b.x.shape, generator=g)
    torch.testing.assert_close(time, t.float())
    assert (t.min().item(), t.max().item()) == (1, 1000)
    abar = model().alpha_bars[t].float()[:, None, None, None]
    torch.testing.assert_close(x_t, abar.sqrt() * b.x + (1 - abar).sqrt() * eps, rtol=1e-4, atol=1e-4)
    m = model()
    heard = inputs_of(m.denoiser.embed)
    m.denoiser.condition(ALL_Y, torch.ones(8, dtype=torch.bool))
    assert set(heard[0][0].unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_loss_is_the_mean_squared_error_of_what_is_predicted(prediction):
    m, b = model(prediction=prediction), batch(8)
    loss, _ = recorded(m, b, step(7))
    g = generator(7)
    t, eps = torch.randint(1, 1001, (8,), generator=g), torch.randn(b.x.shape, generator=g)
    total = 0.0
    for i in range(8):
        alpha, sigma = m.alpha_bars[t[i]].sqrt().item(), (1 - m.alpha_bars[t[i]]).sqrt().item()
        target = eps[i] if prediction == "epsilon" else alpha * eps[i] - sigma * b.x[i]
        total += (target - 0.25).square().mean().item()
    assert loss.item() == pytest.approx(total / 8, rel=1e-5)


def test_the_loss_is_float32_under_bf16():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model().loss(batch(4), step())[0].dtype == torch.float32


# --- Guidance


@torch.no_grad()
def test_w_0_is_conditional_and_w_minus_1_unconditional():
    m, b, t = model(live=True), batch(4), torch.tensor([1, 200, 600, 1000])
    given, null = m.output(b.x, t, b.y, torch.ones(4, dtype=torch.bool)), m.unconditional(b.x, t)
    assert (given - null).abs().max() > 1e-3
    torch.testing.assert_close(m.guided(b.x, t, b.y, 0.0), given, rtol=0, atol=1e-6)
    torch.testing.assert_close(m.guided(b.x, t, b.y, -1.0), null, rtol=0, atol=1e-6)
    torch.testing.assert_close(m.guided(b.x, t, b.y, 2.0), given + 2 * (given - null), rtol=0, atol=1e-5)


@torch.no_grad()
def test_guiding_v_is_guiding_eps():
    x, t, y = gaussian(3, 1.0), torch.tensor([100, 500, 900]), ALL_Y[:3]
    images = []
    for prediction in ("epsilon", "v"):
        m = exact(0.2, prediction=prediction)
        images.append(m.predict(x, t, y, 0.7))
    torch.testing.assert_close(images[0], images[1])
    # by hand, in eps; clipped after the guidance
    m = exact(0.2, prediction="epsilon")
    known = torch.ones(3, dtype=torch.bool)
    eps = 1.7 * m.output(x, t, y, known) - 0.7 * m.unconditional(x, t)
    abar = m.alpha_bars[t][:, None, None, None]
    x0 = ((x - (1 - abar).sqrt() * eps) / abar.sqrt()).clamp(-1, 1)
    torch.testing.assert_close(images[1], (x0, (x - abar.sqrt() * x0) / (1 - abar).sqrt()))


def ddim(m, x, w, y):
    """The paper's guidance (eq. 6) in the DDIM paper's sampler (its eq. 12 at sigma = 0)."""
    times = [round(m.config.timesteps * i / m.config.sampling_steps) for i in range(m.config.sampling_steps, -1, -1)]
    for i, t in enumerate(times[:-1]):
        now, known = torch.full((len(x),), t), torch.ones(len(x), dtype=torch.bool)
        a, b = m.alpha_bars[t].item(), m.alpha_bars[times[i + 1]].item()
        v = (1 + w) * m.output(x, now, y, known) - w * m.unconditional(x, now)
        x0 = (math.sqrt(a) * x - math.sqrt(1 - a) * v).clamp(-1, 1)
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    return x


@torch.no_grad()
def test_samples_are_ddims_at_every_strength():
    m = model(live=True, guidance=0.5)
    y = ALL_Y[:2]
    x = torch.stack([torch.randn(3, 16, 16, generator=g) for g in seeds(2)])
    drawn = {w: m.sample_guided(y, generator(), w) for w in m.guidance_scales}
    for w, images in drawn.items():
        assert images.abs().max() <= 1
        torch.testing.assert_close(images, ddim(m, x, w, y), rtol=0, atol=1e-4)
    assert (drawn[0.0] - drawn[4.0]).abs().max() > 1e-2
    torch.testing.assert_close(m.sample_given(y, generator()), drawn[0.5])
    assert list(m.guidance_scales) == sorted(set(m.guidance_scales))


def seeds(n):
    """The generators that n images get from `generator()`."""
    g = generator()
    return [generator(int(torch.randint(2**62, (1,), generator=g))) for _ in range(n)]


def test_images_have_the_attributes_that_were_given():
    m = exact(0.2, guidance=0.0)
    wanted = (ALL_Y - 0.5).mean(1)
    found = m.sample_given(ALL_Y, generator())
    torch.testing.assert_close(found.mean((1, 2, 3)).float(), wanted, rtol=0, atol=1e-5)
    # guidance exaggerates: x0~ = (1 + w) given - w null, where null is about 0
    further = m.sample_guided(ALL_Y, generator(), 0.5).mean((1, 2, 3)).float()
    assert (further.abs() >= found.mean((1, 2, 3)).abs()).all()
    assert further.abs().max() > wanted.abs().max() + 0.05


def test_samples_are_given_rows_of_training_attributes():
    m = exact(0.2, guidance=0.0, sampling_steps=2)
    y = ALL_Y[[1, 6, 6, 6]]  # (0, 0, 1) once, (1, 1, 0) three times: no other pairs
    m.initialize(base.Batch(torch.zeros(4, 3, 16, 16), y))
    means = m.sample(120, generator()).mean((1, 2, 3)).float()
    first, second = (y[:2] - 0.5).mean(1)
    assert set(means.mul(1e4).round().tolist()) == {(first * 1e4).round().item(), (second * 1e4).round().item()}
    assert (means - second).abs().lt(1e-4).float().mean().item() == pytest.approx(0.75, abs=0.12)
    m.initialize(base.Batch(torch.zeros(1024, 3, 1, 1), torch.rand(1024, 3, generator=generator())))
    assert m.rows.unique(dim=0).shape[0] == 1024


# --- What is said of an image is said without labels


def test_codes_and_the_bound_and_the_score_use_the_null_token():
    m, x = exact(0.2), rounded(gaussian(2, 0.2))
    m.rows.fill_(1)
    for ask in (m.bound, m.ood_scores):
        ask(x, generator())
    m.decode(m.encode(x))
    assert len(m.denoiser.asked) == m.likelihood_calls + 5 + 2 * 10
    assert not any(known.any() for *_, known in m.denoiser.asked)


def test_the_unconditional_flow_is_ddims_and_leads_back():
    m, x = exact(0.2, sampling_steps=200), gaussian(4, 0.2)
    code = m.encode(x)
    assert code.std().item() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(code / code.std(), x.flatten(1) / x.std())  # the flow of a Gaussian is a scaling
    assert (m.decode(code) - x).square().mean() < 1e-4
    z = m.prior(2, generator()).double()
    factor = ddim_factor(m.alpha_bars, range(1000, -1, -5), 0.2)
    torch.testing.assert_close(m.decode(z).flatten(1), factor * z, rtol=0, atol=1e-6)


def test_the_bound_of_a_gaussian_is_known_in_closed_form():
    m = exact(0.25, alpha_bars=FOUR, bound_terms=4)
    x = rounded(gaussian(200, 0.25))
    bound = m.bound(x, generator())
    distortion, rate = bound_by_hand(0.25, [0, 0.2 * 0.1 / 0.28, 0.2, 0.3, 0.4])  # betas; at t = 1 the posterior's at 2
    assert_mean(bound.distortion / 768, distortion)
    assert_mean(bound.rate / 768, rate)
    for shift in (-1, 1):
        off = exact(0.25, shift, alpha_bars=FOUR, bound_terms=4).bound(x, generator())
        assert ((bound.elbo - off.elbo) / 768).mean() > 0.01


def test_a_few_terms_estimate_the_whole_bound_without_bias():
    x = rounded(gaussian(150, 0.25))
    whole, few = (exact(0.25, timesteps=40, bound_terms=n).bound(x, generator(n)) for n in (40, 7))
    assert_mean((few.rate - whole.rate) / 768, 0)


def test_images_unlike_the_training_images_are_harder_to_denoise_by_the_same_noise():
    m = exact(0.1)
    x = torch.cat([gaussian(10, 0.1), gaussian(10, 0.5)])
    (name, score), *rest = m.ood_scores(x, generator(1)).items()
    assert (name, rest) == ("denoising", [])
    assert score[:10].max() < score[10:].min()
    torch.testing.assert_close(m.ood_scores(x[5:], generator(2))["denoising"], score[5:])


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    assert m.attributes == ("Male", "Smiling", "Eyeglasses")
    assert set(m.why_not()) == {base.Reconstructs, base.HasLogProb}
    for capability in (base.Samples, base.SamplesGiven, base.Guides, base.Encodes, base.HasBound, base.ScoresOod):
        assert base.can(m, capability)


def test_redrawing_and_features_are_asked_of_the_null_token():
    m, x = exact(0.1), torch.cat([gaussian(3, 0.1), gaussian(3, 0.5)])
    score = m.slow_ood_scores(x, generator())["redrawing"]
    assert score[3:].min() > score[:3].max()
    assert len(m.denoiser.asked) == m.slow_ood_calls == 15
    assert not any(known.any() for *_, known in m.denoiser.asked)
    live, x = model(live=True), x.float()
    seen = outputs_of(live.denoiser.unet.middle[-1])
    with torch.no_grad():
        features, abar = live.features(x), live.alpha_bars[100]
        x_t = abar.sqrt().float() * x + (1 - abar).sqrt().float() * live.probes[1]
        live.unconditional(x_t, torch.full((6,), 100))
    torch.testing.assert_close(features, seen[1].mean((2, 3)))


@pytest.mark.parametrize(("guidance", "calls"), [(0.0, 10), (1.0, 20)])
def test_a_sample_takes_as_many_calls_as_it_says(guidance, calls):
    m = exact(0.1, guidance=guidance)
    m.sample(3, generator())
    assert sum(len(x) for x, *_ in m.denoiser.asked) / 3 == m.sample_calls == calls


@torch.no_grad()
def test_dpm_solver_draws_at_times_even_in_log_snr():
    m, y = model(live=True, sampler="dpm_solver", sampling_steps=10), batch(2).y
    rows = noise.each(2, generator())
    times = diffusion.log_snr_times(m.alpha_bars, 10)
    expected = samplers.dpm_solver(m.noise(rows), times[::-1], lambda x, t: m.predict(x, t, y, 0.5), m.alpha_bars)
    torch.testing.assert_close(m.sample_guided(y, generator(), 0.5), expected)


# --- The residual of a filter


@torch.no_grad()
def test_guiding_a_residual_is_guiding_the_image():
    m, b = model(live=True, prediction="residual", filter_axes=50), batch(4)
    m.initialize(b)
    t = torch.tensor([100, 300, 600, 900])
    a, sigma = diffusion.scales(m.alpha_bars[t], b.x)
    images = []
    for known in (True, False):
        shift = m.shift(2 * b.y - 1).view_as(b.x) if known else torch.zeros_like(b.x)
        guess = m.filter(b.x - a * shift, a, sigma)
        m_of_y = guess.m + shift
        seen = torch.cat([(b.x - a * m_of_y) / sigma, m_of_y], dim=1)
        images.append(m_of_y + guess.s * m.denoiser(seen, t.float(), b.y, torch.full((4,), known)))
    assert (images[0] - images[1]).abs().max() > 1e-3
    expected = 3 * images[0] - 2 * images[1]
    torch.testing.assert_close(m.guided(b.x, t, b.y, 2.0), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(m.predict(b.x, t, b.y, 2.0)[0], expected.clamp(-1, 1), rtol=1e-4, atol=1e-3)
    assert torch.equal(m.rows, b.y.repeat(256, 1))


def test_the_loss_of_a_residual_is_1_while_the_network_adds_nothing():
    x = 0.3 * torch.randn(1000, 3, 16, 16, generator=generator(4))
    b = base.Batch(x, torch.zeros(1000, 3))
    m = model(prediction="residual", filter_axes=768)
    m.initialize(b)
    asked = []
    m.denoiser.forward = lambda *inputs: asked.append(inputs) or torch.zeros_like(inputs[0][:, :3])
    loss, terms = m.loss(b, step())
    assert loss.item() == pytest.approx(1, rel=0.1)
    assert terms["error_over_filter"].item() == pytest.approx(1)
    assert asked[0][0].shape == (1000, 6, 16, 16)


@pytest.mark.long
def test_a_filter_alone_draws_images_around_the_regression_on_their_attributes():
    g = generator(4)
    y = torch.randint(0, 2, (1200, 3), generator=g).float()
    effects = 0.2 * torch.randn(3, 3, 16, 16, generator=g)
    x = 0.1 + 0.1 * torch.randn(1200, 3, 16, 16, generator=g) + torch.einsum("na,achw->nchw", y - 0.5, effects)
    m = model(prediction="residual", filter_axes=768, sampler="dpm_solver", sampling_steps=25, guidance=0.0)
    m.initialize(base.Batch(x, y))
    regression = LinearRegression().fit(y.numpy(), ((x + x.flip(3)) / 2).flatten(1).numpy())
    for asked in torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]):
        drawn = m.sample_given(asked.expand(400, -1), generator()).mean(0)
        expected = torch.from_numpy(regression.predict(asked[None].numpy())).view(3, 16, 16)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0.05)
    mean = m.ddim(m.prior(400, generator()).view(-1, 3, 16, 16), m.predict).mean(0)  # without attributes
    torch.testing.assert_close(mean, ((x + x.flip(3)) / 2).mean(0), rtol=0, atol=0.05)
