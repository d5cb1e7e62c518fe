import dataclasses
import itertools
import math

import pytest
import torch

from tests.models.helpers import generator, parameters, smooth, step, train, unlabelled
from visage.models import base
from visage.models.vq_vae import VQVAE, Codebook, PixelCNN, VQVAEConfig

SMALL = VQVAEConfig(
    codes=16,
    code_dim=4,
    halvings=2,
    width=16,
    residual_blocks=1,
    residual_width=8,
    commitment=0.25,
    decay=0.9,
    restart_below=0.03,
    autoencoder_share=0.5,
    prior_layers=3,
    prior_width=8,
    prior_dropout=0.0,
)


def model(size=16, seed=0, **changes):
    torch.manual_seed(seed)
    return VQVAE(dataclasses.replace(SMALL, **changes), size)


def codebook(**changes):
    torch.manual_seed(0)
    return Codebook(dataclasses.replace(SMALL, **changes))


def pixelcnn(**changes):
    """With weights twice as large as usual, so that what a logit depends on shows."""
    torch.manual_seed(0)
    net = PixelCNN(dataclasses.replace(SMALL, **changes))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2)
    return net


def batch(n=8):
    return unlabelled(smooth(n))


def arranged(vectors, side):
    """Vectors (B * side * side, D) as an encoder's output (B, D, side, side)."""
    return vectors.reshape(-1, side, side, vectors.shape[1]).permute(0, 3, 1, 2)


def moved(m, run):
    """Names of what `run` changes in a model's state."""
    before = {name: tensor.clone() for name, tensor in m.state_dict().items()}
    run()
    return {name for name, tensor in m.state_dict().items() if not torch.equal(tensor, before[name])}


# --- The configuration


@pytest.mark.parametrize(("size", "halvings"), [(30, 2), (20, 3)])
def test_sizes_that_cannot_be_halved_so_often_are_refused(size, halvings):
    with pytest.raises(ValueError, match=f"multiple of {2**halvings}"):
        model(size, halvings=halvings)


def test_parameter_counts_of_the_full_size():
    m = model(
        size=64,
        codes=512,
        code_dim=64,
        width=128,
        residual_blocks=2,
        residual_width=32,
        prior_layers=12,
        prior_width=128,
    )
    autoencoder, prior = ([p for q in modules for p in q.parameters()] for modules in m.players().values())
    assert sum(p.numel() for p in autoencoder) / 1e6 == pytest.approx(0.663, abs=0.001)
    assert sum(p.numel() for p in prior) / 1e6 == pytest.approx(5.05, abs=0.01)
    assert m.codebook.embeddings.shape == (512, 64)
    assert m.side == 16


# --- Quantisation


def test_embeddings_at_known_positions_come_back_with_their_codes_and_places():
    m = model()
    k = torch.randint(16, (3, 4, 4), generator=generator())
    z = m.codebook.lookup(k)
    assert z.shape == (3, 4, 4, 4)
    for b, i, j in itertools.product(range(3), range(4), range(4)):
        assert torch.equal(z[b, :, i, j], m.codebook.embeddings[k[b, i, j]])
    assert torch.equal(m.codebook.nearest(z), k)
    mean = m.decoder(z).clamp(-1, 1)
    torch.testing.assert_close(m.decode(z.flatten(1)), mean)


def test_codes_are_those_of_the_nearest_embeddings():
    cb = codebook()
    z = torch.randn(2, 4, 3, 5, generator=generator())
    distances = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 4).double(), cb.embeddings.double())
    assert torch.equal(cb.nearest(z), distances.argmin(1).reshape(2, 3, 5))


def test_the_decoder_s_gradient_passes_straight_to_the_encoder():
    m, seen = model(commitment=0.0), []
    m.encoder.register_forward_hook(lambda _, inputs, z: seen.append(z))
    m.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss, _ = m.autoencoder_loss(batch(), step())
    z, z_q = seen
    to_z, to_z_q = torch.autograd.grad(loss, [z, z_q])
    assert to_z.abs().sum() > 0
    assert torch.equal(to_z, to_z_q)


def test_the_decoder_sees_embeddings_and_not_what_the_encoder_said():
    m, seen = model().eval(), []
    m.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    m.autoencoder_loss(batch(), step())
    torch.testing.assert_close(seen[0], m.codebook.lookup(m.codes(batch().x)))


def test_the_commitment_draws_the_encoder_alone_towards_its_embeddings():
    m = model().eval()
    weights = parameters(m, "autoencoder")
    grads = []
    for beta in (0.0, 0.25):
        m.config = dataclasses.replace(SMALL, commitment=beta)
        grads.append(torch.autograd.grad(m.autoencoder_loss(batch(), step())[0], weights))
    z = m.encoder(batch().x)
    e = m.codebook.lookup(m.codebook.nearest(z)).detach()
    own = torch.autograd.grad(0.25 * (z - e).square().mean(), weights, allow_unused=True)
    assert sum(g is not None for g in own) == len(list(m.encoder.parameters()))
    for without, with_, expected in zip(*grads, own, strict=True):
        torch.testing.assert_close(with_ - without, torch.zeros_like(with_) if expected is None else expected)


# --- The codebook (compared once with VectorQuantizerEMA of google-deepmind/sonnet, 30 steps: equal to 2e-6)


def test_moving_averages_by_hand():
    """Two codes, four vectors: 3 fall to code 0 and 1 to code 1, so n = (1.5, 0.5) in units of the mean."""
    cb = codebook(codes=2, code_dim=1, decay=0.9)
    cb.embeddings.copy_(torch.tensor([[0.0], [10.0]]))
    cb.sums.copy_(cb.embeddings)
    z = arranged(torch.tensor([[1.0], [2.0], [3.0], [12.0]]), 2)
    cb.follow(z, cb.nearest(z), generator())
    n, m = torch.tensor([0.9 + 0.15, 0.9 + 0.05]), torch.tensor([[0.9 * 0 + 0.1 * 3], [0.9 * 10 + 0.1 * 6]])
    torch.testing.assert_close(cb.usage, n)
    torch.testing.assert_close(cb.sums, m)
    torch.testing.assert_close(cb.embeddings, m / n[:, None], rtol=2e-5, atol=0)


def test_laplace_smoothing_keeps_unused_codes_finite():
    cb = codebook(codes=2, code_dim=1, decay=0.9, restart_below=1e-9)
    cb.usage.copy_(torch.tensor([2.0, 1e-6]))
    cb.sums.copy_(torch.tensor([[2.0], [1e-6]]))
    cb.embeddings.copy_(torch.tensor([[1.0], [50.0]]))
    z = torch.ones(1, 1, 2, 2)
    cb.follow(z, cb.nearest(z), generator())
    # N = (2, 9e-7), so N' = (2 + 1e-5, 1.09e-5) * N / (N + 2e-5)
    torch.testing.assert_close(cb.embeddings[1], torch.tensor([9e-7 / 1.09e-5]), rtol=1e-3, atol=0)


def test_embeddings_converge_to_the_means_of_their_clusters():
    cb = codebook(codes=4, code_dim=3)
    centres = 5 * torch.randn(4, 3, generator=generator())
    vectors = centres.repeat_interleave(16, 0) + 0.3 * torch.randn(64, 3, generator=generator(3))
    means = vectors.reshape(4, 16, 3).mean(1)
    cb.embeddings.copy_(centres + 0.5)
    cb.sums.copy_(cb.embeddings)
    z = arranged(vectors, 8)
    for _ in range(120):
        cb.follow(z, cb.nearest(z), generator())
    torch.testing.assert_close(cb.embeddings, means, rtol=0, atol=1e-3)
    torch.testing.assert_close(cb.usage, torch.ones(4))


def test_codes_that_died_come_to_life_again():
    """64 clusters, and embeddings that all lie in one of them."""
    cb = codebook(codes=64, code_dim=8)
    centres = torch.randn(64, 8, generator=generator()) * 10
    cb.embeddings.copy_(centres[0] + 0.01 * torch.randn(64, 8, generator=generator(1)))
    cb.sums.copy_(cb.embeddings)
    g = generator(3)
    for _ in range(200):
        z = arranged(centres.repeat(4, 1) + 0.1 * torch.randn(256, 8, generator=g), 16)
        k = cb.nearest(z)
        terms = cb.follow(z, k, g)
    assert k.unique().numel() > 0.9 * 64
    assert terms["perplexity"] > 0.7 * 64


def test_a_dead_code_restarts_at_a_vector_of_the_batch_as_a_code_of_average_use():
    cb = codebook(codes=4, code_dim=2)
    cb.usage.copy_(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    z = torch.randn(2, 2, 4, 4, generator=generator())
    k = torch.arange(32).reshape(2, 4, 4) % 3
    assert cb.follow(z, k, generator(5))["dead"] == 1
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 2)
    assert (vectors == cb.sums[3]).all(1).any()
    assert cb.usage[3] == 1
    torch.testing.assert_close(cb.embeddings[3], cb.sums[3], rtol=1e-4, atol=0)
    others = codebook(codes=4, code_dim=2)
    others.usage[3] = 0
    others.follow(z, k, generator(6))
    assert not torch.equal(others.sums[3], cb.sums[3])  # the generator decides which one
    torch.testing.assert_close(others.sums[:3], cb.sums[:3])


@pytest.mark.parametrize(("used", "perplexity"), [(1, 1.0), (4, 4.0), (16, 16.0)])
def test_perplexity_is_the_number_of_codes_where_they_are_used_alike(used, perplexity):
    k = torch.arange(64).reshape(1, 8, 8) % used
    terms = codebook().follow(torch.zeros(1, 4, 8, 8), k, generator())
    assert terms["perplexity"].item() == pytest.approx(perplexity, rel=1e-5)


def test_the_codebook_starts_at_outputs_of_the_encoder():
    m = model()
    m.initialize(batch(16))
    z = m.encoder(batch(16).x).permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.isclose(m.codebook.embeddings[:, None], z).all(2).any(1).all()
    assert len(m.codebook.embeddings.unique(dim=0)) == 16
    assert torch.equal(m.codebook.sums, m.codebook.embeddings)
    assert (m.codebook.usage == 1).all()


def test_only_a_training_step_of_the_autoencoder_moves_the_codebook():
    m = model()
    m.initialize(batch())
    assert not {id(p) for p in m.parameters()} & {id(b) for b in m.buffers()}
    assert len(list(m.codebook.parameters())) == 0
    buffers = {f"codebook.{name}" for name in ("embeddings", "usage", "sums")}
    assert moved(m, lambda: m.autoencoder_loss(batch(), step())) == buffers
    assert moved(m, lambda: m.prior_loss(batch(), step())) == set()
    m.eval()
    x = smooth(3)

    def evaluate():
        m.autoencoder_loss(batch(), step())
        m.reconstruct(x), m.encode(x), m.sample(2, generator()), m.bound(x, generator()), m.ood_scores(x, generator())

    assert moved(m, evaluate) == set()


def test_the_codebook_s_statistics_know_no_bf16():
    z = 3 + torch.randn(4, 4, 8, 8, generator=generator())  # far from 0, where bf16 has few digits
    plain, half = codebook(), codebook()
    plain.follow(z, plain.nearest(z), generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half.follow(z, half.nearest(z), generator())
    for a, b in zip(plain.buffers(), half.buffers(), strict=True):
        assert torch.equal(a, b)


# --- The prior (compared once with GatedPixelCNN of ritheshkumar95/pytorch-vqvae, same weights: equal to 6e-8)


def test_a_logit_depends_on_all_codes_before_it_and_on_no_other():
    net, side = pixelcnn(prior_layers=5), 5
    vectors = torch.randn(1, side, side, 8, generator=generator(), requires_grad=True)
    net.embed = lambda k: vectors.permute(0, 3, 1, 2)
    net.head = torch.nn.Identity()  # a ReLU may hide everything
    logits = net(torch.zeros(1, side, side, dtype=torch.long))
    for place in range(side * side):
        i, j = divmod(place, side)
        (gradient,) = torch.autograd.grad(
            logits[0, :, i, j].square().sum(), vectors, retain_graph=True, allow_unused=True
        )
        seen = gradient[0].abs().sum(2).flatten() > 0
        assert not seen[place:].any()
        assert seen[:place].all(), "a blind spot"


def test_every_layer_alone_keeps_the_order():
    k = torch.randint(16, (1, 6, 6), generator=generator())
    for layers in (1, 2, 4):
        net = pixelcnn(prior_layers=layers)
        before = net(k)
        for i, j in ((0, 0), (2, 3), (4, 5)):
            other = k.clone()
            other[0, i, j] = (k[0, i, j] + 1) % 16
            changed = (net(other) != before)[0].any(0).flatten()
            assert not changed[: i * 6 + j + 1].any()
            assert changed[i * 6 + j + 1 :].any()


def test_the_gate_by_hand():
    net = pixelcnn(prior_layers=1, prior_width=1)
    layer = net.layers[0]
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.horizontal.bias.copy_(torch.tensor([0.5, -1.0]))
        layer.out.weight.fill_(1)
        h = layer.across(torch.full((1, 1, 2, 2), 7.0), torch.zeros(1, 2, 2, 2))
    torch.testing.assert_close(h, torch.full((1, 1, 2, 2), math.tanh(0.5) / (1 + math.exp(1.0))))


def every_grid():
    """All 16 grids of 2 x 2 codes of 2 kinds."""
    return torch.tensor(list(itertools.product(range(2), repeat=4))).reshape(16, 2, 2)


@torch.no_grad()
def test_probabilities_of_all_grids_sum_to_one():
    m = model(size=8, codes=2)
    m.prior_net = pixelcnn(codes=2)
    p = (-m.rate(every_grid())).exp()
    assert p.std() > 0.001
    assert p.sum().item() == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_grids_are_drawn_as_often_as_they_are_probable():
    m = model(size=8, codes=2)
    m.prior_net = pixelcnn(codes=2)
    m.prior_net.head[-1].weight.mul_(10)
    p = (-m.rate(every_grid())).exp()
    n = 4000
    k = m.prior_net.sample(torch.rand(n, 2, 2, generator=generator()))
    counts = torch.bincount((k.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    assert p.max() > 3 * p.min()
    chi_square = ((counts - n * p).square() / (n * p)).sum()
    assert chi_square < 37.7  # 15 degrees of freedom: exceeded once in a thousand


@torch.no_grad()
def test_drawing_row_by_row_is_drawing_from_the_whole_network():
    net = pixelcnn()
    u = torch.rand(3, 5, 4, generator=generator())
    k = torch.zeros(3, 5, 4, dtype=torch.long)
    for i, j in itertools.product(range(5), range(4)):
        cumulative = net(k)[:, :, i, j].softmax(1).cumsum(1)
        k[:, i, j] = torch.searchsorted(cumulative, u[:, i, j, None].contiguous(), right=True)[:, 0]
    assert torch.equal(net.sample(u), k)
    assert k.unique().numel() > 8


@torch.no_grad()
def test_no_number_is_too_large_to_draw_a_code():
    u = torch.full((2, 3, 3), 1 - 2**-24)
    assert torch.equal(pixelcnn().sample(u), torch.full((2, 3, 3), 15))


# --- Two stages


def test_the_prior_learns_when_the_autoencoder_is_done():
    autoencoder, prior = model(autoencoder_share=0.4).phases()
    assert (autoencoder.player, autoencoder.span) == ("autoencoder", (0.0, 0.4))
    assert (prior.player, prior.span) == ("prior", (0.4, 1.0))


def test_nothing_of_the_autoencoder_moves_while_the_prior_learns():
    m = model()
    m.initialize(batch())
    loss, _ = m.prior_loss(batch(), step())
    autoencoder = parameters(m, "autoencoder")
    assert all(g is None for g in torch.autograd.grad(loss, autoencoder, allow_unused=True))
    assert all(name.startswith("prior_net") for name in moved(m, lambda: train(m, [batch()] * 2, ["prior"])))
    assert all(not name.startswith("prior_net") for name in moved(m, lambda: train(m, [batch()] * 2, ["autoencoder"])))


def test_the_prior_is_trained_on_the_codes_that_evaluation_sees():
    m, seen = model(codes=64), []
    m.initialize(batch())
    m.prior_net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = batch(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        m.prior_loss(x, step())
    assert torch.equal(seen[0], m.eval().codes(x.x))


def test_losses_are_per_dimension_and_per_code():
    m = model().eval()
    bound = m.bound(batch().x, generator())
    loss, terms = m.autoencoder_loss(batch(), step())
    torch.testing.assert_close(terms["distortion"], bound.distortion.mean())
    torch.testing.assert_close(loss, bound.distortion.mean() / 768 + 0.25 * terms["commitment"])
    torch.testing.assert_close(m.prior_loss(batch(), step())[0], bound.rate.mean() / 16)


# --- The likelihood


@torch.no_grad()
def test_distortion_by_hand():
    m, x = model(), smooth(1)
    m.decoder.forward = lambda z: torch.full((1, 3, 16, 16), 0.1)
    m.decoder.shift.copy_(torch.tensor([0.0, 0.1, -0.1])[:, None, None])
    scale = 0.1 * torch.tensor([1.0, math.e, 1 / math.e]).double()[:, None, None]  # shifts count tenfold
    cdf = [torch.sigmoid((x[0].double() - 0.1 + side / 255) / scale) for side in (1, -1)]
    upper, lower = torch.where(x[0] > 0.999, 1.0, cdf[0]), torch.where(x[0] < -0.999, 0.0, cdf[1])
    torch.testing.assert_close(
        m.distortion(x, torch.zeros(1)).double(), -(upper - lower).log().sum()[None], rtol=1e-4, atol=0
    )


@torch.no_grad()
def test_a_prior_that_knows_nothing_costs_log_k_a_code():
    m = model()
    for p in m.prior_net.head[-1].parameters():
        p.zero_()
    rate = m.eval().bound(smooth(3), generator()).rate
    torch.testing.assert_close(rate, torch.full((3,), 16 * math.log(16)))


@torch.no_grad()
def test_the_bound_stays_below_the_sum_over_all_codes():
    m, x = model(size=8, codes=2).eval(), smooth(4, size=8)
    grids = every_grid()
    joint = torch.stack([-m.distortion(x, m.codebook.lookup(k.expand(4, 2, 2))) - m.rate(k[None]) for k in grids])
    bound = m.bound(x, generator())
    assert (bound.elbo < joint.logsumexp(0)).all()
    chosen = (grids[:, None] == m.codes(x)).flatten(2).all(2).float().argmax(0)
    torch.testing.assert_close(bound.elbo, joint[chosen, torch.arange(4)])


# --- Capabilities


def test_capabilities_are_those_of_the_mathematics():
    m = model()
    has = {c for c in base.CAPABILITIES if base.can(m, c)}
    assert has == {base.Samples, base.Reconstructs, base.Encodes, base.Decodes, base.HasBound, base.ScoresOod}


@torch.no_grad()
def test_codes_of_the_prior_are_embeddings_and_decode_puts_others_on_them():
    m = model().eval()
    m.prior_net = pixelcnn().eval()
    z = m.prior(3, generator())
    assert torch.cdist(arranged_back(z), m.codebook.embeddings).amin(1).max() == 0
    torch.testing.assert_close(m.decode(z + 0.001), m.decode(z))
    torch.testing.assert_close(m.sample(3, generator()), m.decode(z))
    torch.testing.assert_close(m.prior(2, generator()), z[:2])


def arranged_back(z):
    """Flattened codes (B, 4 * 4 * 4) as vectors of 4."""
    return z.reshape(-1, 4, 4, 4).permute(0, 2, 3, 1).reshape(-1, 4)


@torch.no_grad()
def test_the_code_of_an_image_is_what_the_encoder_says_before_it_is_quantised():
    m, x = model().eval(), smooth(3)
    torch.testing.assert_close(m.encode(x), m.encoder(x).flatten(1))
    assert torch.cdist(arranged_back(m.encode(x)), m.codebook.embeddings).amin(1).min() > 1e-3
    torch.testing.assert_close(m.reconstruct(x), m.decoder(m.codebook.lookup(m.codes(x))).clamp(-1, 1))


@torch.no_grad()
def test_ood_scores_are_the_rate_and_the_distance_from_the_codebook():
    m, x = model().eval(), smooth(3)
    scores = m.ood_scores(x, generator())
    assert list(scores) == ["rate", "quantization"]
    torch.testing.assert_close(scores["rate"], m.bound(x, generator()).rate)
    nearest = torch.cdist(arranged_back(m.encode(x)), m.codebook.embeddings).amin(1).reshape(3, 16)
    torch.testing.assert_close(scores["quantization"], nearest.square().mean(1) / 4, rtol=1e-4, atol=1e-5)


# --- Training


def test_a_trained_model_reconstructs_and_knows_its_codes():
    m, x = model(), batch().x
    m.initialize(batch())
    assert train(m, [batch()] * 120, ["autoencoder"], lr=5e-3)["autoencoder"]["perplexity"] > 8
    assert train(m, [batch()] * 60, ["prior"], lr=1e-2)["prior"]["loss"] < 0.75 * math.log(16)
    m.eval()
    with torch.no_grad():
        error = (m.reconstruct(x) - x).square().mean()
    assert error < 0.25 * (x - x.mean(0)).square().mean()


@torch.no_grad()
def test_a_sample_takes_as_many_calls_as_it_says():
    m, calls = model().eval(), []
    m.prior_net.head.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    m.decoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    m.sample(2, generator())
    assert len(calls) == m.sample_calls
