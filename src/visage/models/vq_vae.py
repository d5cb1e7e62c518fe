"""The VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937) with a gated PixelCNN (van den Oord et al. 2016,
arXiv:1606.05328) as the prior of its codes.

First the autoencoder, which replaces every vector of the encoder's output by the nearest of K embeddings (eq. 1, 2):

    minimise  -log p(x | z_q)  +  beta |z_e - sg[e]|^2,    z_q = z_e + sg[e - z_e],    e = e_k, k = argmin_j |z_e - e_j|

This is eq. 3 without its second term, |sg[z_e] - e|^2. Instead, the embeddings follow the means of the vectors that are
assigned to them, as in appendix A.1 (gamma 0.99), with the Laplace smoothing of the authors' code:

    N_k <- gamma N_k + (1 - gamma) n_k     m_k <- gamma m_k + (1 - gamma) sum z_e
    e_k = m_k / N'_k,  N'_k = (N_k + eps) / (N + K eps) N,  N = sum_k N_k

Then, with all of that frozen, the prior of the codes in raster order (eq. 1 and 2 of the second paper):

    minimise  -log p(k) = -sum_i log p(k_i | k_1 .. k_{i-1}),   a layer's y = tanh(W_f * x) sigmoid(W_g * x)

    z_e  encoder's output (B, D, s, s)  `z`, `Encoder`      e, N, m   `Codebook.embeddings`, `.usage`, `.sums`
    k    codes (B, s, s) in 0 .. K - 1  `k`                 beta      `commitment`
    p(x | z_q)  `Decoder`                                  p(k)      `PixelCNN`, vertical stack `v`, horizontal `h`

The posterior is a point mass on k, so log P(x) >= log P(x | z_q) + log p(k): a bound, with the rate -log p(k).

Where we deviate:

* log p(x | z_q) is a discretized logistic with one learned scale per colour. It normalises over the 256 values, as a
  bound requires; the authors' squared error over the data's variance leaves the scale open. Both terms of the loss are
  means over their elements, as in their code.
* n_k is divided by its mean over the codes, so that N_k is 1 for a code of average use whatever the batch size.
* Embeddings start at encoder outputs, and those that are hardly ever used restart at one drawn from the batch. The
  paper does not mention codes that die, and in a short training most would.
* The prior sees the codes of the training batches, including those of flipped images, through a separate embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt, MultipleOf
from torch import Tensor, nn

from visage.maths import noise, ranks
from visage.maths.likelihoods import discretized_logistic_log_prob
from visage.models.base import Batch, Bound, GenerativeModel, HasLogProb, Phase, Step


@dataclass(frozen=True, slots=True)
class VQVAEConfig:
    """The VQ-VAE's settings; the paper's values are those of its CIFAR-10 model."""

    codes: Annotated[int, Ge(2)]  # K, embeddings in the codebook; the paper: 512
    code_dim: Annotated[int, Ge(1)]  # D, dimensions of an embedding; the authors' code: 64
    halvings: Annotated[int, Ge(1)]  # of the image's side, down to that of its codes; the paper: 2
    width: Annotated[int, Ge(2), MultipleOf(2)]  # channels of encoder and decoder; the paper: 256, its code 128
    residual_blocks: Annotated[int, Ge(0)]  # in the encoder, and in the decoder; the paper: 2
    residual_width: Annotated[int, Ge(1)]  # channels inside a residual block; the authors' code: 32
    commitment: Annotated[float, Ge(0)]  # beta, weight of the term that pulls the encoder to its codes; the paper: 0.25
    decay: Annotated[float, Gt(0), Lt(1)]  # gamma of the embeddings' moving average; the paper: 0.99
    restart_below: Annotated[float, Gt(0), Lt(1)]  # codes with less than this share of the average use restart
    autoencoder_share: Annotated[float, Gt(0), Lt(1)]  # of the training; the rest goes to the prior
    prior_layers: Annotated[int, Ge(1)]  # gated layers of the PixelCNN
    prior_width: Annotated[int, Ge(1)]  # its channels
    prior_dropout: Annotated[float, Ge(0), Lt(1)]  # share of activations zeroed in each of its layers, in training


EPSILON = 1e-5
"""eps of the Laplace smoothing, in codes of average use."""
SCALE_START = 0.1
"""The initial scale of the logistics, in x11."""
SCALE_SPEED = 10.0
"""How fast the log scales learn relative to a weight: Adam moves both by about lr per step, but they move further."""


# --- The autoencoder


class Residual(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 1x1 convolution, added to the input (section 4.1)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(config.width, config.residual_width, 3, padding=1)
        self.conv1 = nn.Conv2d(config.residual_width, config.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, s, s) to the same."""
        out: Tensor = x + self.conv1(F.relu(self.conv3(F.relu(x))))
        return out


def channels(config: VQVAEConfig) -> list[int]:
    """Channels of the image and after each halving."""
    return [3, config.width // 2, *[config.width] * (config.halvings - 1)]


class Encoder(nn.Module):
    """z_e: (B, 3, S, S) to (B, D, s, s)."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        ways = channels(config)
        halve = [layer for i, o in pairwise(ways) for layer in (nn.Conv2d(i, o, 4, 2, 1), nn.ReLU())]
        self.layers = nn.Sequential(
            *halve,
            nn.Conv2d(ways[-1], config.width, 3, padding=1),
            *(Residual(config) for _ in range(config.residual_blocks)),
            nn.ReLU(),
            nn.Conv2d(config.width, config.code_dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return z_e, float32."""
        z: Tensor = self.layers(x).float()
        return z


class Decoder(nn.Module):
    """p(x | z_q): (B, D, s, s) to the means (B, 3, S, S) in x11, not clamped; and its scales."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        ways = channels(config)[::-1]
        double = [layer for i, o in pairwise(ways) for layer in (nn.ReLU(), nn.ConvTranspose2d(i, o, 4, 2, 1))]
        self.layers = nn.Sequential(
            nn.Conv2d(config.code_dim, ways[0], 3, padding=1),
            *(Residual(config) for _ in range(config.residual_blocks)),
            *double,
        )
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))

    def log_scale(self) -> Tensor:
        """Log scales of the colours in x11, (3, 1, 1)."""
        return (math.log(SCALE_START) + SCALE_SPEED * self.shift).clamp(min=-7)

    def forward(self, z: Tensor) -> Tensor:
        """Return means, float32."""
        mean: Tensor = self.layers(z).float()
        return mean


class Codebook(nn.Module):
    """K embeddings that follow the vectors nearest to them, outside of the optimiser and of autocast."""

    embeddings: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        self.decay, self.restart_below = config.decay, config.restart_below
        self.register_buffer("embeddings", torch.randn(config.codes, config.code_dim))
        self.register_buffer("usage", torch.ones(config.codes))
        self.register_buffer("sums", self.embeddings.clone())

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Put the embeddings on vectors of z (B, D, s, s), spread evenly over positions and images."""
        vectors = z.permute(2, 3, 0, 1).flatten(0, 2)
        chosen = torch.linspace(0, len(vectors) - 1, len(self.embeddings), device=z.device).long()
        self.embeddings.copy_(vectors[chosen])
        self.sums.copy_(self.embeddings)
        self.usage.fill_(1)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """k: the codes (B, s, s) of z (B, D, s, s)."""
        with torch.autocast(z.device.type, enabled=False):
            vectors = z.permute(0, 2, 3, 1)
            # |z - e|^2 less |z|^2, which is the same for every e
            return (self.embeddings.square().sum(1) - 2 * vectors @ self.embeddings.T).argmin(3)

    def lookup(self, k: Tensor) -> Tensor:
        """e_k: embeddings (B, D, s, s) of codes (B, s, s)."""
        return F.embedding(k, self.embeddings).permute(0, 3, 1, 2)

    @torch.no_grad()
    def follow(self, z: Tensor, k: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Move the averages one step towards z (B, D, s, s) with its codes k, then restart dead codes.

        Return the perplexity exp H of the batch's codes and the number of dead codes.
        """
        z, k = ranks.gather(z), ranks.gather(k)
        with torch.autocast(z.device.type, enabled=False):
            vectors = z.permute(0, 2, 3, 1).flatten(0, 2)
            hits = F.one_hot(k.flatten(), len(self.usage)).float()
            share, average = hits.mean(0), len(vectors) / len(self.usage)
            self.usage.lerp_(hits.sum(0) / average, 1 - self.decay)
            self.sums.lerp_(hits.T @ vectors / average, 1 - self.decay)

            dead = self.usage < self.restart_below
            drawn = noise.integers(0, len(vectors), len(dead), generator, z.device, whole=True)
            self.sums.copy_(torch.where(dead[:, None], vectors[drawn], self.sums))
            self.usage.masked_fill_(dead, 1)

            total = self.usage.sum()
            smoothed = (self.usage + EPSILON) / (total + len(self.usage) * EPSILON) * total
            self.embeddings.copy_(self.sums / smoothed[:, None])
            return {"perplexity": torch.special.entr(share).sum().exp(), "dead": dead.sum()}


# --- The prior


def gate(x: Tensor) -> Tensor:
    """Eq. 2 of the PixelCNN paper: the first half of the channels as values, the second as gates."""
    f, g = x.chunk(2, dim=1)
    return torch.tanh(f) * torch.sigmoid(g)


class GatedLayer(nn.Module):
    """Both stacks of figure 2 of the PixelCNN paper; instead of masks, kernels end where the mask would begin.

    The vertical stack sees whole rows, the horizontal one positions in the current row: those before the current
    position in the first layer, which reads the codes themselves (mask A), and it too in all others (mask B).
    """

    def __init__(self, width: int, kernel: int, dropout: float, first: bool) -> None:
        super().__init__()
        before, self.first = kernel // 2, first
        seen = before if first else before + 1
        self.margin_v = (before, before, before, seen - before - 1)  # left, right, top, bottom; -1 cuts one off
        self.margin_h = (before, seen - before - 1, 0, 0)
        self.vertical = nn.Conv2d(width, 2 * width, (seen, kernel))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, seen))
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def down(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The vertical stack: return its next v, and its input to the horizontal one."""
        rows = self.vertical(F.pad(v, self.margin_v))
        return gate(rows), self.link(rows)

    def across(self, h: Tensor, told: Tensor) -> Tensor:
        """The horizontal stack: return its next h."""
        out: Tensor = self.out(self.dropout(gate(self.horizontal(F.pad(h, self.margin_h)) + told)))
        return out if self.first else h + out  # in the first layer h is the code to be predicted


class PixelCNN(nn.Module):
    """Logits (B, K, s, s) of every code of (B, s, s), each given those before it in raster order."""

    def __init__(self, config: VQVAEConfig) -> None:
        super().__init__()
        width, dropout = config.prior_width, config.prior_dropout
        self.embedding = nn.Embedding(config.codes, width)
        kernels = [7, *[3] * (config.prior_layers - 1)]
        layers = [GatedLayer(width, kernel, dropout, first=kernel == 7) for kernel in kernels]
        self.layers: Sequence[GatedLayer] = nn.ModuleList(layers)  # type: ignore[assignment]  # it hides their type
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, 4 * width, 1), nn.ReLU(), nn.Conv2d(4 * width, config.codes, 1)
        )

    def embed(self, k: Tensor) -> Tensor:
        """Embed codes (B, s, s) as (B, width, s, s)."""
        vectors: Tensor = self.embedding(k)
        return vectors.permute(0, 3, 1, 2)

    def down(self, k: Tensor) -> list[Tensor]:
        """For every layer, the input of its horizontal stack from the rows above."""
        v, told = self.embed(k), []
        for layer in self.layers:
            v, link = layer.down(v)
            told.append(link)
        return told

    def across(self, k: Tensor, told: Sequence[Tensor]) -> Tensor:
        """Logits, float32, from what `down` returned for the same rows."""
        h = self.embed(k)
        for layer, link in zip(self.layers, told, strict=True):
            h = layer.across(h, link)
        logits: Tensor = self.head(h).float()
        return logits

    def forward(self, k: Tensor) -> Tensor:
        """Logits of all codes at once."""
        return self.across(k, self.down(k))

    def sample(self, u: Tensor) -> Tensor:
        """Codes (B, s, s) for u (B, s, s) in [0, 1): each is drawn by inverting its distribution function at its u."""
        k = torch.zeros_like(u, dtype=torch.long)
        for i in range(k.shape[1]):
            told = [link[:, :, i:] for link in self.down(k[:, : i + 1])]  # once per row: it does not see the row itself
            for j in range(k.shape[2]):
                logits = self.across(k[:, i : i + 1, : j + 1], [link[..., : j + 1] for link in told])[:, :, 0, j]
                cumulative = logits.softmax(1).cumsum(1)[:, :-1]
                k[:, i, j] = (cumulative <= u[:, i, j, None]).sum(1)
        return k


# --- The model


class VQVAE(GenerativeModel):
    """An autoencoder with a codebook, followed by an autoregressive prior of its codes.

    Raises:
        ValueError: the size cannot be halved `halvings` times.
    """

    paper = "van den Oord et al. 2017, arXiv:1711.00937; prior: van den Oord et al. 2016, arXiv:1606.05328"
    path: ClassVar[Literal["lerp", "slerp"]] = "lerp"  # nothing is known of the geometry of encoder outputs

    def __init__(self, config: VQVAEConfig, size: int) -> None:
        super().__init__()
        if size < 1 or size % 2**config.halvings:
            raise ValueError(
                f"size {size} cannot be halved {config.halvings} times: choose a multiple of {2**config.halvings}"
            )
        self.config, self.side = config, size >> config.halvings
        self.sample_calls = self.side**2 + 1  # the prior draws one code after the other; the last call decodes
        self.encoder = Encoder(config)
        self.codebook = Codebook(config)
        self.decoder = Decoder(config)
        self.prior_net = PixelCNN(config)

    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """Two players, trained one after the other; the codebook is not a parameter."""
        return {"autoencoder": [self.encoder, self.decoder], "prior": [self.prior_net]}

    def phases(self) -> Sequence[Phase]:
        """The autoencoder, then, once it is frozen, the prior of its codes."""
        share = self.config.autoencoder_share
        return [
            Phase("autoencoder", self.autoencoder_loss, span=(0.0, share)),
            Phase("prior", self.prior_loss, span=(share, 1.0)),
        ]

    def initialize(self, batch: Batch) -> None:
        """Put the embeddings where the encoder's outputs are."""
        with torch.no_grad():
            self.codebook.start(torch.cat([self.encoder(x) for x in torch.split(batch.x, 128)]))

    def autoencoder_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """-log p(x | z_q) + beta |z_e - sg[e]|^2, nats per dimension; in training it moves the codebook."""
        x = batch.x
        z = self.encoder(x)
        k = self.codebook.nearest(z)
        e = self.codebook.lookup(k)
        z_q = z + (e - z).detach()
        distortion = self.distortion(x, z_q).mean()
        commitment = F.mse_loss(z, e)
        terms = {"distortion": distortion, "commitment": commitment, "scale": self.decoder.log_scale().exp().mean()}
        if self.training:
            terms |= self.codebook.follow(z, k, step.generator)
        loss = distortion / x[0].numel() + self.config.commitment * commitment
        return loss, {name: term.detach() for name, term in terms.items()}

    def prior_loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """-log p(k), nats per code."""
        with torch.autocast(batch.x.device.type, enabled=False):
            k = self.codes(batch.x)  # exactly the codes that evaluation sees
        rate = self.rate(k).mean()
        return rate / k[0].numel(), {"rate": rate.detach()}

    def distortion(self, x: Tensor, z_q: Tensor) -> Tensor:
        """-log P(x | z_q) of 8-bit images, (B,)."""
        return -discretized_logistic_log_prob(x, self.decoder(z_q), self.decoder.log_scale()).sum((1, 2, 3))

    def rate(self, k: Tensor) -> Tensor:
        """-log p(k), (B,)."""
        log_p: Tensor = self.prior_net(k).log_softmax(1)
        return -log_p.gather(1, k[:, None]).sum((1, 2, 3))

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.config.codes

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """k, (B, s, s)."""
        return self.codebook.nearest(self.encoder(x))

    # Capabilities

    def why_not(self) -> Mapping[type, str]:
        """It has no exact likelihood."""
        return {HasLogProb: "log p(x) is a sum over all codes; a VQ-VAE bounds it by one of them"}

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Embeddings of codes k ~ p(k), (n, D * s * s)."""
        u = noise.rand(n, (self.side, self.side), generator, self.codebook.embeddings.device)
        return self.codebook.lookup(self.prior_net.sample(u)).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z_q), z_q being the embeddings nearest to z (B, D * s * s)."""
        k = self.codebook.nearest(z.reshape(len(z), -1, self.side, self.side))
        mean: Tensor = self.decoder(self.codebook.lookup(k))
        return mean.clamp(-1, 1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Means of p(x | z_q) for codes from the prior."""
        return self.decode(self.prior(n, generator))

    def encode(self, x: Tensor) -> Tensor:
        """z_e before quantisation, (B, D * s * s)."""
        z: Tensor = self.encoder(x)
        return z.flatten(1)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | z_q) at the image's codes."""
        return self.decode(self.encode(x))

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """-log P(x | z_q) and -log p(k); nothing is random, since the posterior is a point mass."""
        k = self.codes(x)
        return Bound(self.distortion(x, self.codebook.lookup(k)), self.rate(k))

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """How unlikely an image's codes are, and how badly they represent the encoder's output."""
        z = self.encoder(x)
        k = self.codebook.nearest(z)
        error = (z - self.codebook.lookup(k)).square().mean((1, 2, 3))
        return {"rate": self.rate(k), "quantization": error}
