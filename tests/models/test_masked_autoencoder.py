import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.helpers import generator, step, train, uniform, unlabelled
from visage.models import base
from visage.models.masked_autoencoder import (
    Block,
    MaskedAutoencoder,
    MaskedAutoencoderConfig,
    patchify,
    positions,
    unpatchify,
)

SMALL = {
    "patch": 4,
    "dim": 16,
    "blocks": 2,
    "heads": 2,
    "decoder_dim": 8,
    "decoder_blocks": 1,
    "decoder_heads": 2,
    "mask_ratio": 0.75,
    "normalize_targets": False,
}


def model(size=16, seed=0, **changes):
    torch.manual_seed(seed)
    return MaskedAutoencoder(MaskedAutoencoderConfig(**SMALL | changes), size)


def flags(n=32, seed=1):
    """A random colour on the left and its negative on the right: what is hidden follows from what is seen and where."""
    colour = 2 * torch.rand(n, 3, 1, 1, generator=generator(seed)) - 1
    return (colour * torch.tensor([1.0, -1.0]).repeat_interleave(8)).expand(-1, -1, 16, -1)


def pixels_of(places, count=16, patch=4):
    """Mask (B, 1, S, S) of the pixels in the patches (B, K)."""
    chosen = torch.zeros(len(places), count).scatter(1, places, 1.0)
    side = math.isqrt(count)
    return F.interpolate(chosen.reshape(-1, 1, side, side), scale_factor=float(patch)) > 0


# Patches and positions


def test_patches_are_rows_of_pixels_and_come_back_exactly():
    x = uniform(2, 12)
    blocks = F.unfold(x, 4, stride=4).unflatten(1, (3, 16)).permute(0, 3, 2, 1).flatten(2)  # another way to cut
    assert torch.equal(patchify(x, 4), blocks)
    assert torch.equal(unpatchify(patchify(x, 4), 4), x)


def test_a_single_pixel_lands_where_it_should():
    x = torch.zeros(1, 3, 16, 16)
    x[0, 1, 6, 11] = 1.0  # green, second row and third column of patches, row 2 and column 3 in the patch
    place, number = patchify(x, 4)[0].nonzero()[0].tolist()
    assert (place, number) == (1 * 4 + 2, (2 * 4 + 3) * 3 + 1)


def test_positions_of_the_published_code():
    # facebookresearch/mae, util/pos_embed.py: get_2d_sincos_pos_embed(8, 3), the place in row 1, column 2
    expected = [0.909297, 0.019999, -0.416147, 0.999800, 0.841471, 0.010000, 0.540302, 0.999950]
    torch.testing.assert_close(positions(3, 8)[1 * 3 + 2], torch.tensor(expected), atol=2e-6, rtol=0)


# Networks


@torch.no_grad()
def test_a_block_is_pytorchs_pre_norm_layer():
    torch.manual_seed(0)
    ours = Block(12, 3)
    for parameter in ours.parameters():
        parameter.normal_(0, 0.3)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 48, 0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    pairs = {
        theirs.self_attn: (("in_proj_", ours.qkv),),
        theirs.self_attn.out_proj: (("", ours.out),),
        theirs.linear1: (("", ours.mlp[0]),),
        theirs.linear2: (("", ours.mlp[2]),),
        theirs.norm1: (("", ours.norm1),),
        theirs.norm2: (("", ours.norm2),),
    }
    for target, sources in pairs.items():
        for prefix, source in sources:
            getattr(target, f"{prefix}weight").copy_(source.weight)
            getattr(target, f"{prefix}bias").copy_(source.bias)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_each_visible_patch_reaches_the_encoder_with_the_code_of_its_own_place():
    m = model()
    m.encoder.blocks, m.encoder.norm = nn.Identity(), nn.Identity()
    patches, visible = patchify(uniform(2), 4), torch.tensor([[7, 2, 11], [0, 15, 3]])
    tokens = m.encoder(patches, visible)
    assert tokens.shape == (2, 4, 16)
    assert torch.equal(tokens[:, 0], m.encoder.class_token.expand(2, -1))
    for b in range(2):
        for k, place in enumerate(visible[b].tolist()):
            expected = m.encoder.embed(patches[b, place]) + positions(4, 16)[place]
            torch.testing.assert_close(tokens[b, 1 + k], expected)


@torch.no_grad()
def test_the_decoder_puts_tokens_back_in_their_places():
    m = model()
    d = m.decoder
    d.embed, d.blocks, d.norm, d.head = nn.Identity(), nn.Identity(), nn.Identity(), nn.Identity()
    d.positions = torch.zeros(16, 1)
    visible = torch.tensor([[7, 2, 11], [0, 15, 3]])
    tokens = torch.cat([torch.full((2, 1), -1), visible], dim=1)[:, :, None].expand(-1, -1, 8).float()
    placed = d(tokens, visible)
    assert placed.shape == (2, 16, 8)
    for b in range(2):
        for place in range(16):
            expected = torch.full((8,), float(place)) if place in visible[b] else d.mask_token
            assert torch.equal(placed[b, place], expected)


@torch.no_grad()
def test_the_decoder_knows_which_hidden_place_it_predicts():
    predicted = model().predict(uniform(1), torch.tensor([[0, 5, 10, 15]]))[0]
    hidden = predicted[[1, 2, 3, 4, 6]]
    assert (hidden[:, None] - hidden).abs().amax(2).add(torch.eye(5)).min() > 1e-3


@torch.no_grad()
def test_hidden_patches_are_never_seen_and_moved_ones_are():
    m, x = model(), uniform(1)
    visible = torch.tensor([[1, 6, 8, 13]])
    seen = pixels_of(visible)
    predicted = m.predict(x, visible)
    assert torch.equal(m.predict(torch.where(seen, x, 9.0), visible), predicted)
    swapped = patchify(x, 4)
    swapped[:, [1, 6]] = swapped[:, [6, 1]]  # the same patches at other places
    assert (m.predict(unpatchify(swapped, 4), visible) - predicted).abs().max() > 1e-3


def test_tokens_are_vectors_so_that_they_are_not_decayed():
    m = model()
    assert m.encoder.class_token.ndim == m.decoder.mask_token.ndim == 1
    assert {name for name, p in m.named_parameters() if p.ndim > 1} == {
        f"{name}.weight" for name, layer in m.named_modules() if isinstance(layer, nn.Linear)
    }


def test_weights_start_as_in_the_published_code():
    m = model(dim=64, decoder_dim=32)
    for layer in m.modules():
        if isinstance(layer, nn.Linear):
            limit = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert 0.9 * limit < layer.weight.abs().max() <= limit
            assert (layer.bias == 0).all()
    tokens = torch.cat([m.encoder.class_token, m.decoder.mask_token]).detach()
    assert tokens.std().item() == pytest.approx(0.02, rel=0.25)


def test_parameter_count_of_the_full_recipe():
    m = model(64, patch=8, dim=384, blocks=12, heads=6, decoder_dim=192, decoder_blocks=4, decoder_heads=6)
    assert sum(p.numel() for p in m.parameters()) / 1e6 == pytest.approx(23.3, abs=0.05)


# The loss


def test_error_of_known_predictions():
    m, x = model(), uniform(2)
    visible = torch.tensor([[7, 2, 11, 4], [0, 15, 3, 9]])
    offsets = torch.arange(16.0)[None, :, None]
    m.predict = lambda *_: patchify(x, 4) + offsets  # patch i is wrong by i
    expected = [(sum(i * i for i in range(16)) - sum(i * i for i in row)) / 12 for row in visible.tolist()]
    torch.testing.assert_close(m.error(x, visible), torch.tensor(expected))


def test_only_hidden_patches_count():
    m, x, visible = model(), uniform(1), torch.tensor([[1, 6, 8, 13]])
    predicted = m.predict(x, visible).detach().requires_grad_()
    m.predict = lambda *_: predicted
    error = m.error(x, visible)
    (gradient,) = torch.autograd.grad(error.sum(), predicted)
    per_patch = gradient[0].abs().sum(1)
    assert (per_patch[visible[0]] == 0).all()
    assert (per_patch > 0).sum() == 12
    seen = pixels_of(visible)
    assert torch.equal(m.error(torch.where(seen, -x, x), visible), error)
    assert not torch.equal(m.error(torch.where(seen, x, -x), visible), error)


def test_normalised_targets_have_mean_zero_and_unbiased_deviation_one():
    m, x, visible = model(normalize_targets=True), uniform(1), torch.tensor([[1, 6, 8, 13]])
    m.predict = lambda *_: torch.zeros(1, 16, 48)
    torch.testing.assert_close(m.error(x, visible), torch.tensor([47 / 48]), atol=1e-4, rtol=0)
    wanted = F.layer_norm(patchify(x, 4), (48,), eps=0.0) * math.sqrt(47 / 48)
    m.predict = lambda *_: wanted
    assert m.error(x, visible).item() < 1e-8
    assert m.error(3 * x + 1, visible).item() < 1e-8  # brightness and contrast of a patch do not matter
    assert m.error(torch.zeros_like(x), visible).isfinite().all()


def test_masks_hide_the_share_of_patches_that_is_asked_for_each_equally_often():
    m = model()
    visible = m.draw_visible(2000, generator())
    hidden = m.hidden(visible)
    assert (hidden.sum(1) == 12).all()
    assert (hidden.mean(0) - 0.75).abs().max() < 0.04  # standard deviation .0097
    together = hidden.T @ hidden / 2000  # two patches are hidden together with probability 3/4 * 11/15
    off = together[~torch.eye(16, dtype=torch.bool)]
    assert (off - 0.55).abs().max() < 0.05
    assert torch.equal(m.draw_visible(3, generator()), visible[:3])
    assert model(mask_ratio=0.5).hidden(model(mask_ratio=0.5).draw_visible(1, generator())).sum() == 8


def test_in_training_every_image_has_a_mask_of_its_own():
    m, seen = model(), []
    m.error = lambda x, visible: seen.append(visible) or torch.zeros(len(x))
    m.loss(unlabelled(uniform(8)), step())
    m.loss(unlabelled(uniform(8)), step(seed=3))
    assert seen[0].shape == (8, 4)
    assert len({tuple(row.tolist()) for row in torch.cat(seen)}) == 16


def test_all_noise_comes_from_the_generator():
    m, x = model(), uniform(6)
    torch.manual_seed(1)
    one = m.loss(unlabelled(x), step(seed=7))[0].item()
    torch.manual_seed(2)
    assert m.loss(unlabelled(x), step(seed=7))[0].item() == one
    assert m.loss(unlabelled(x), step(seed=8))[0].item() != one


def test_the_loss_is_float32_under_bf16():
    m, x = model(), uniform(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = m.loss(unlabelled(x), step())
        codes = m.encode(x)
    assert loss.dtype == codes.dtype == torch.float32
    torch.testing.assert_close(loss, m.loss(unlabelled(x), step())[0], rtol=0.03, atol=0)


@pytest.fixture(scope="module")
def trained():
    m = model(dim=32, decoder_dim=32)
    train(m, [unlabelled(flags(seed=i)) for i in range(180)], lr=3e-3, betas=(0.9, 0.95))
    return m.eval()


@torch.no_grad()
def test_training_finds_what_is_hidden(trained):
    x = flags(seed=1000)
    assert trained.error(x, trained.draw_visible(len(x), generator())).mean() < 0.1 * x.square().mean()


# Capabilities


@torch.no_grad()
def test_inpainting_keeps_what_is_visible_and_puts_predictions_in_their_places():
    m, x, y = model(), uniform(5), uniform(5, seed=9)
    m.predict = lambda *_: patchify(1.5 * y, 4)
    completed, hidden = m.inpaint(x, generator(4))
    visible = m.draw_visible(5, generator(4))
    assert torch.equal(hidden, (~pixels_of(visible)).float())
    assert torch.equal(completed, torch.where(hidden.bool(), (1.5 * y).clamp(-1, 1), x))


@torch.no_grad()
def test_what_is_said_of_an_image_does_not_depend_on_its_unlabelled():
    m, x = model().eval(), uniform(6)
    for ask in (
        lambda x: m.inpaint(x, generator())[0],
        lambda x: m.inpaint(x, generator())[1],
        m.encode,
        lambda x: m.ood_scores(x, generator())["masked_error"],
    ):
        torch.testing.assert_close(ask(x)[:2], ask(x[:2]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_code_is_the_mean_of_the_patch_tokens():
    m, x = model().eval(), uniform(3)
    tokens = m.encoder(patchify(x, 4), torch.arange(16).flip(0).expand(3, -1))  # in another order
    torch.testing.assert_close(m.encode(x), tokens[:, 1:].mean(1))


@torch.no_grad()
def test_scores_use_the_same_masks_for_every_image_and_every_generator(trained):
    x = flags(6, seed=1001)
    score = trained.ood_scores(x, generator(1))["masked_error"]
    assert torch.equal(trained.ood_scores(x, generator(2))["masked_error"], score)
    torch.testing.assert_close(trained.ood_scores(x.flip(0), generator(1))["masked_error"].flip(0), score)
    assert trained.ood_scores(uniform(6), generator(1))["masked_error"].min() > 2 * score.max()  # noise is no flag


def test_capabilities_are_those_of_the_mathematics():
    can = {base.Inpaints, base.Encodes, base.ScoresOod}
    assert {c for c in base.CAPABILITIES if base.can(model(), c)} == can
    normalised = model(normalize_targets=True)
    assert {c for c in base.CAPABILITIES if base.can(normalised, c)} == can - {base.Inpaints}
    for m in (model(), normalised):
        assert all(base.reason(m, c) for c in base.CAPABILITIES if not base.can(m, c))


@pytest.mark.parametrize(
    ("size", "changes", "reason"),
    [
        (18, {}, "patch=4 does not divide the image size 18"),
        (16, {"patch": 16}, "leaves 0 of 1 patches visible"),
        (16, {"mask_ratio": 0.01}, "leaves 16 of 16 patches visible"),
        (16, {"dim": 18}, "dim=18 must be a multiple of 4 and of heads=2: set it to 16"),
        (16, {"decoder_dim": 8, "decoder_heads": 3}, "decoder_heads=3: set it to 12"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_mend(size, changes, reason):
    with pytest.raises(ValueError, match=reason):
        model(size, **changes)
