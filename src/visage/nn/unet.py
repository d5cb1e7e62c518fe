"""The U-Net of Ho et al. 2020 (arXiv:2006.11239, appendix B), whose output has the shape of its input.

    time embedding -> at every resolution: residual blocks, attention at some -> halve -> ... -> middle -> ... -> double

Residual blocks receive the embedding of the time, to which that of a condition may be added; every block on the way
down passes its output to one on the way up.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, channels: int) -> Tensor:
    """Sines and cosines of t at frequencies from 1 down to nearly 1/10000 (Vaswani et al. 2017, section 3.5).

    t: (B,), of the order of 0 to 1000. Returns (B, channels) float32; channels is even.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups, as in the paper, from 128 channels on, else with groups of 4 channels."""
    return nn.GroupNorm(32 if channels >= 128 and channels % 32 == 0 else channels // 4, channels)


def zero(module: nn.Conv2d) -> nn.Conv2d:
    """Start the layer at zero, so that at first it leaves what it is added to unchanged."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and SiLU, with the embedding added between them."""

    def __init__(self, ins: int, outs: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(ins), nn.Conv2d(ins, outs, 3, padding=1)
        self.embed = nn.Linear(embedding, outs)
        self.norm2, self.conv2 = norm(outs), zero(nn.Conv2d(outs, outs, 3, padding=1))
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x: (B, ins, s, s); e: (B, embedding). Return (B, outs, s, s)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.embed(F.silu(e))[:, :, None, None]
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))
        return out


class Attention(nn.Module):
    """Self-attention over all positions with one head, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, s, s) to the same."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)  # (B, s*s, C) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        out: Tensor = x + self.out(h)
        return out


class Level(nn.Module):
    """A residual block, optionally followed by attention."""

    def __init__(self, ins: int, outs: int, embedding: int, dropout: float, attends: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(ins, outs, embedding, dropout)
        self.attention = Attention(outs) if attends else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x: (B, ins, s, s); e: (B, embedding)."""
        out: Tensor = self.attention(self.block(x, e))
        return out


class UNet(nn.Module):
    """Images (B, channels + beside, s, s) and times (B,) to predictions (B, channels, s, s), float32.

    Args:
        channels: of the image.
        size: side of the image in pixels.
        width: channels at the highest resolution.
        multipliers: channels at each resolution in units of `width`; each resolution is half of the one before it.
        blocks: residual blocks at each resolution on the way down, one more on the way up.
        attention: the sides of the resolutions that have attention, in positions (pixels or patches). If none has,
            the middle has no attention either (in the paper it always has).
        dropout: in the residual blocks.
        patch: pixels of a patch x patch square first become channels of one position (pixel-unshuffle), and the input,
            times a factor for each channel that depends on the time, is added to the output. This deviation makes small
            networks fast: they are too narrow to carry all the noise of a patch through their layers, although it is
            part of what they predict. 1 is the paper's.
        condition: dimensions of a condition that is added to the time embedding, 0 for none.
        beside: channels of the input that come after the image's own and are not predicted, such as another image.

    Raises:
        ValueError: the image cannot be halved once per multiplier, or the width is not a multiple of 4.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        dropout: float,
        patch: int,
        condition: int = 0,
        beside: int = 0,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"width: {width} must be a multiple of 4, the channels of a normalisation group")
        if size % (patch * 2 ** (len(multipliers) - 1)):
            raise ValueError(
                f"size {size} cannot be halved {len(multipliers) - 1} times after patches of {patch}: "
                f"choose a multiple of {patch * 2 ** (len(multipliers) - 1)}, or fewer multipliers"
            )
        embedding = 4 * width
        self.width, self.patch, self.blocks, self.levels = width, patch, blocks, len(multipliers)
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.condition = nn.Linear(condition, embedding) if condition else None
        side, widths = size // patch, [width * m for m in multipliers]

        self.stem = nn.Conv2d((channels + beside) * patch**2, width, 3, padding=1)
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        skips, now = [width], width
        for i, outs in enumerate(widths):
            for _ in range(blocks):
                self.down.append(Level(now, outs, embedding, dropout, side >> i in attention))
                now = outs
                skips.append(now)
            if i < len(widths) - 1:
                self.downsample.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)

        self.middle = nn.ModuleList(
            [
                Level(now, now, embedding, dropout, attends=bool(attention)),
                ResidualBlock(now, now, embedding, dropout),
            ]
        )

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for i, outs in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(Level(now + skips.pop(), outs, embedding, dropout, side >> i in attention))
                now = outs
            if i:
                self.upsample.append(nn.Conv2d(now, now, 3, padding=1))
        self.head = nn.Sequential(norm(now), nn.SiLU(), zero(nn.Conv2d(now, channels * patch**2, 3, padding=1)))
        self.direct = zero(nn.Conv2d(embedding, channels * patch**2, 1)) if patch > 1 else None

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """x: (B, channels + beside, s, s); t: (B,), of the order of 0 to 1000; condition: (B, condition)."""
        e, x = self.embed(t, condition), F.pixel_unshuffle(x, self.patch)
        skips = self.descend(x, e)
        h, up = skips.pop(), iter(self.up)
        for i in range(self.levels):
            for _ in range(self.blocks + 1):
                h = next(up)(torch.cat([h, skips.pop()], dim=1), e)
            if i < self.levels - 1:
                h = self.upsample[i](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        out = self.head(h).float()
        if self.direct is not None:
            out = out + self.direct(F.silu(e)[:, :, None, None]).float() * x[:, : out.shape[1]]
        return F.pixel_shuffle(out, self.patch)

    def features(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Activations in the middle, mean over positions, (B, channels there), float32; arguments as in `forward`."""
        return self.descend(F.pixel_unshuffle(x, self.patch), self.embed(t, condition))[-1].float().mean((2, 3))

    def embed(self, t: Tensor, condition: Tensor | None) -> Tensor:
        """The embedding that every block receives: that of the time, plus the condition, (B, 4 width)."""
        e: Tensor = self.time(sinusoidal_embedding(t, self.width))
        return e if self.condition is None else e + self.condition(condition)

    def descend(self, x: Tensor, e: Tensor) -> list[Tensor]:
        """All skips on the way down, then the output of the middle, for the input's patches x (B, ..., s, s)."""
        h = self.stem(x)
        skips, down = [h], iter(self.down)
        for i in range(self.levels):
            for _ in range(self.blocks):
                h = next(down)(h, e)
                skips.append(h)
            if i < self.levels - 1:
                h = self.downsample[i](h)
                skips.append(h)
        for level in self.middle:
            h = level(h, e)
        return [*skips, h]
