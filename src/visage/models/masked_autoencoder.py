"""The masked autoencoder, a vision transformer that fills in hidden patches (He et al. 2022, arXiv:2111.06377).

    minimise  mean over i in M of |d_i - t_i|^2 / P        d = D(E(t_V), V)        (section 3, "Reconstruction target")

    t_i  patch i of the image, P = 3 p^2 numbers, for i in {0, ..., L - 1}    `patchify`
    V, M the visible and the hidden (masked) patches, drawn anew each time    `draw_visible`, `hidden`
    E    encoder: a ViT that sees only the visible patches                    `Encoder`
    D    decoder: a narrower ViT, with a mask token at every hidden place     `Decoder`

With `normalize_targets`, t_i is replaced by (t_i - mean) / std over its P numbers: better codes (table 1d), no pixels.

Where we deviate: images are in [-1, 1] instead of standardised over ImageNet; they are flipped, as the training loop
does it for every model, but not cropped at random. The decoder scatters tokens back to their places where the authors'
code sorts a list of tokens; the result is the same. The encoder has a class token as in the paper, but the code of an
image is the mean of its patch tokens, which the paper finds equally good.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from visage.maths import noise
from visage.models.base import (
    Batch,
    Decodes,
    GenerativeModel,
    HasBound,
    HasLogProb,
    Inpaints,
    Phase,
    Reconstructs,
    Samples,
    Step,
)
from visage.nn.unet import sinusoidal_embedding


@dataclass(frozen=True, slots=True)
class MaskedAutoencoderConfig:
    """Settings of the masked autoencoder.

    Raises:
        ValueError: widths and heads that do not go together.
    """

    patch: Annotated[int, Ge(1)]
    """p, side of a patch in pixels; the paper: 16 of 224."""
    dim: Annotated[int, Ge(4)]
    """Width of the encoder; the paper: 768 to 1280."""
    blocks: Annotated[int, Ge(1)]
    """Transformer blocks of the encoder; the paper: 12 to 32."""
    heads: Annotated[int, Ge(1)]
    """Attention heads of the encoder; the paper: 12 or 16."""
    decoder_dim: Annotated[int, Ge(4)]
    """Width of the decoder; the paper: 512."""
    decoder_blocks: Annotated[int, Ge(1)]
    """Transformer blocks of the decoder; the paper: 8."""
    decoder_heads: Annotated[int, Ge(1)]
    """Attention heads of the decoder; the paper: 16."""
    mask_ratio: Annotated[float, Gt(0), Lt(1)]
    """Share of the patches that is hidden; the paper: 0.75."""
    normalize_targets: bool
    """Predict each patch minus its mean, divided by its standard deviation: better codes, but no pixels to look at."""

    def __post_init__(self) -> None:
        """Check that each width divides into four parts of a position's code and into equal shares for the heads."""
        for prefix in ("", "decoder_"):
            dim, heads = getattr(self, f"{prefix}dim"), getattr(self, f"{prefix}heads")
            unit = math.lcm(4, heads)
            if dim % unit:
                raise ValueError(
                    f"{prefix}dim={dim} must be a multiple of 4 and of {prefix}heads={heads}: "
                    f"set it to {max(unit, dim // unit * unit)}"
                )


MASKS = 8
"""Number of masks over which an image's score is averaged, the same masks for every image."""


# --- Patches and masks


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, S, S) to (B, L, patch * patch * C): patches row by row, then a patch's pixels row by row, then colours."""
    b, c, size, _ = x.shape
    side = size // patch
    return x.reshape(b, c, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1).reshape(b, side**2, patch**2 * c)


def unpatchify(t: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    b, count, numbers = t.shape
    side, c = round(count**0.5), numbers // patch**2
    x = t.reshape(b, side, side, patch, patch, c).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, c, side * patch, side * patch)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, L, d) at the places (B, K): (B, K, d)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def positions(side: int, dim: int) -> Tensor:
    """Fixed codes of the side * side places, (L, dim): sines and cosines of the column, then of the row."""
    row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    return torch.cat([sinusoidal_embedding(column, dim // 2), sinusoidal_embedding(row, dim // 2)], dim=1)


# --- Networks


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), of tokens (B, N, dim) (Dosovitskiy et al. 2021, eq. 2 and 3)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def initialize(module: nn.Module) -> None:
    """Xavier's uniform weights and zero biases, as in the authors' code."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """E: patches (B, L, P) and the visible places (B, K) to tokens (B, 1 + K, dim), the class token first."""

    positions: Tensor

    def __init__(self, config: MaskedAutoencoderConfig, side: int) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * config.patch**2, config.dim)
        self.register_buffer("positions", positions(side, config.dim), persistent=False)
        self.blocks = nn.Sequential(*(Block(config.dim, config.heads) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.apply(initialize)
        self.class_token = nn.Parameter(0.02 * torch.randn(config.dim))

    def forward(self, patches: Tensor, visible: Tensor) -> Tensor:
        """Each patch gets the code of its place before the hidden ones are dropped, without a substitute."""
        tokens = take(self.embed(patches) + self.positions, visible)
        first = self.class_token.to(tokens.dtype).expand(len(tokens), 1, -1)
        out: Tensor = self.norm(self.blocks(torch.cat([first, tokens], dim=1)))
        return out


class Decoder(nn.Module):
    """D: tokens of the encoder (B, 1 + K, dim) and their places (B, K) to predictions of all patches (B, L, P)."""

    positions: Tensor

    def __init__(self, config: MaskedAutoencoderConfig, side: int) -> None:
        super().__init__()
        self.embed = nn.Linear(config.dim, config.decoder_dim)
        self.register_buffer("positions", positions(side, config.decoder_dim), persistent=False)
        blocks = (Block(config.decoder_dim, config.decoder_heads) for _ in range(config.decoder_blocks))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(config.decoder_dim, eps=1e-6)
        self.head = nn.Linear(config.decoder_dim, 3 * config.patch**2)
        self.apply(initialize)
        self.mask_token = nn.Parameter(0.02 * torch.randn(config.decoder_dim))

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return float32."""
        first, seen = self.embed(tokens).split([1, visible.shape[1]], dim=1)
        everywhere = self.mask_token.to(seen.dtype).expand(len(seen), len(self.positions), -1)
        placed = everywhere.scatter(1, visible[:, :, None].expand_as(seen), seen) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(torch.cat([first, placed], dim=1)))).float()
        return out[:, 1:]


# --- The model


class MaskedAutoencoder(GenerativeModel):
    """The pair of transformers, trained on the hidden patches only.

    Raises:
        ValueError: patches do not tile the image, or none would be visible or hidden.
    """

    paper = "He et al. 2022, arXiv:2111.06377"
    score_calls = MASKS

    def __init__(self, config: MaskedAutoencoderConfig, size: int) -> None:
        super().__init__()
        if size % config.patch:
            raise ValueError(f"patch={config.patch} does not divide the image size {size}: set it to a divisor")
        self.config = config
        self.count = (size // config.patch) ** 2
        self.kept = self.count - round(config.mask_ratio * self.count)
        if not 0 < self.kept < self.count:
            raise ValueError(
                f"mask_ratio={config.mask_ratio} leaves {self.kept} of {self.count} patches visible: "
                f"set patch to less than {config.patch}, or mask_ratio nearer to 0.75"
            )
        self.encoder = Encoder(config, size // config.patch)
        self.decoder = Decoder(config, size // config.patch)

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """One player: encoder and decoder learn together."""
        return {"autoencoder": [self.encoder, self.decoder]}

    def phases(self) -> Sequence[Phase]:
        """One step on the error of the hidden patches."""
        return [Phase("autoencoder", self.loss)]

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of the hidden patches, averaged over the batch, with a new mask for every image."""
        order = noise.uniform((len(batch.x), self.count), step.generator, batch.x.device).argsort(dim=1)
        return self.error(batch.x, order[:, : self.kept]).mean(), {}

    def error(self, x: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error over the hidden patches of each image, (B,), for the visible places (B, K)."""
        target = patchify(x, self.config.patch)
        if self.config.normalize_targets:
            variance, mean = torch.var_mean(target, dim=2, keepdim=True)  # over P - 1, as in the authors' code
            target = (target - mean) / (variance + 1e-6).sqrt()
        squared = (self.predict(x, visible) - target).square().mean(2)
        hidden = self.hidden(visible)
        return (squared * hidden).sum(1) / hidden.sum(1)

    def predict(self, x: Tensor, visible: Tensor) -> Tensor:
        """D(E(t_V), V) for all patches, (B, L, P)."""
        predicted: Tensor = self.decoder(self.encoder(patchify(x, self.config.patch), visible), visible)
        return predicted

    def hidden(self, visible: Tensor) -> Tensor:
        """The mask (B, L): 1 at the patches that are not among the visible places (B, K)."""
        ones = torch.ones(len(visible), self.count, device=visible.device)
        return ones.scatter(1, visible, 0.0)

    def draw_visible(self, n: int, generator: torch.Generator) -> Tensor:
        """Visible places for n images, (n, K), all sets of K equally likely; image by image."""
        return noise.rand(n, (self.count,), generator).argsort(dim=1)[:, : self.kept]

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It completes images: there is no code to draw from, and no joint density of the patches."""
        reasons: dict[type, str] = {
            Samples: "completes images: it needs patches to start from",
            Reconstructs: "is trained on patches that it does not see; what it returns for visible ones means nothing",
            Decodes: "its decoder works on the tokens of visible patches, not on one code",
            HasLogProb: "predicts each hidden patch for itself: no joint density",
            HasBound: "predicts each hidden patch for itself: no joint density",
        }
        if self.config.normalize_targets:
            reasons[Inpaints] = "predicts patches less their mean, over their spread: shapes, not pixels"
        return reasons

    def inpaint(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Hide a random `mask_ratio` of the patches and put the predictions in their places."""
        visible = self.draw_visible(len(x), generator).to(x.device)
        per_pixel = self.hidden(visible)[:, :, None].expand(-1, -1, self.config.patch**2)
        hidden = unpatchify(per_pixel, self.config.patch)
        predicted = unpatchify(self.predict(x, visible), self.config.patch).clamp(-1, 1)
        return torch.where(hidden > 0, predicted, x), hidden

    def encode(self, x: Tensor) -> Tensor:
        """The mean of the encoder's patch tokens with every patch visible, (B, dim)."""
        everything = torch.arange(self.count, device=x.device).expand(len(x), -1)
        tokens: Tensor = self.encoder(patchify(x, self.config.patch), everything)
        return tokens[:, 1:].float().mean(1)

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The error of hidden patches, averaged over fixed masks, so that scores depend only on the images."""
        masks = self.draw_visible(MASKS, torch.Generator().manual_seed(0)).to(x.device)
        errors = [self.error(x, mask.expand(len(x), -1)) for mask in masks]
        return {"masked_error": torch.stack(errors).mean(0)}
