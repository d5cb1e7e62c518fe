"""Invertible layers that several flows share, with the log-determinants of their Jacobians.

`to_noise` maps images to noise, as in training, and `from_noise` maps noise to images, as in sampling.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visage.maths.pixels import LEVELS
from visage.maths.principal import fit_gaussian
from visage.nn.axes import MirroredAxes

ACT_NORM_IMAGES = 256
"""How many training images an `ActNorm` is fitted to, at most."""
FITTED_AT_ONCE = 256
"""Images that are transformed at a time where a whitening is fitted: bounds the memory."""
LEAST_VARIANCE = 1 / (12 * LEVELS**2)
"""Of a dequantised pixel, in [0, 1), along any axis: that of the noise which dequantises it."""


class Bijection(nn.Module, ABC):
    """An invertible map of images (B, C, H, W) that treats each image by itself."""

    @abstractmethod
    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, shaped as x, and log |det dz/dx|, (B,)."""

    @abstractmethod
    def from_noise(self, z: Tensor) -> Tensor:
        """Return the x that `to_noise` maps to z."""


class Chain(Bijection):
    """Bijections applied in turn; their log-determinants are summed in float64 where the device supports it."""

    layers: Sequence[Bijection]

    def __init__(self, *layers: Bijection) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)  # type: ignore[assignment]  # its modules have no static type

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x), dtype=torch.float32 if x.device.type == "mps" else torch.float64)
        for layer in self.layers:
            x, log_det = layer.to_noise(x)
            total = total + log_det
        return x, total

    def from_noise(self, z: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.from_noise(z)
        return z


class ActNorm(Bijection):
    """(x - mean) / std with a learned mean and std per channel, initialised to those of the first batch.

    Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.1, where s = 1 / std and b = -mean / std.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.fitting = False  # true only inside `fit_to`

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.fitting:
            std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
            self.mean.copy_(mean)
            self.log_std.copy_(torch.where(std > 1e-3, std, 1.0).log())  # a constant channel keeps its scale
        log_det = -self.log_std.sum() * x.shape[2] * x.shape[3]
        return (x - self.mean) * torch.exp(-self.log_std), log_det.expand(len(x))

    def from_noise(self, z: Tensor) -> Tensor:
        return z * self.log_std.exp() + self.mean


class SpectralFlattening(Bijection):
    """z = T' S^-1/4 T (x - mu): of the spectrum of images x, which `fit` measures, only its root is left.

        T x       the cosine transform of each colour of x, orthonormal
        S_k       covariance of the colours at frequency k, C x C
        log |det dz/dx| = -1/4 sum_k log det S_k

    Coefficients of the cosine transform are nearly uncorrelated where pixels are the more alike the nearer they lie to
    each other (Ahmed et al. 1974, IEEE Transactions on Computers C-23), but their variances differ by a factor of a
    million. A `Whitening` of a few axes takes all others to vary alike; it comes nearer to the images after this layer.
    S^-1/2 would come nearer still, but couplings, which scale pixel by pixel, would then lose the outlines, which the
    low frequencies are, among the many high ones. RealNVP's demo at 64 pixels, drawn faces and photographs:

        spectrum            S                  S^1/2 (this)       1
        bits per dimension  3.14, 3.93         2.98, 3.73         3.00, 3.67
        FD attr of 1,000    22.0, 22.3         24.3, 26.0         30.8, 44.6

    As in `Whitening`, the map is symmetric, has nothing to train, is computed in float32, and is z = x before `fit`.

    mean: mu, (C, S, S). roots: S^1/4, (C, C, S, S). inverses: S^-1/4. log_det: scalar. All are buffers.

    Args:
        channels: C.
        size: S, side of the image in pixels.
    """

    mean: Tensor
    roots: Tensor
    inverses: Tensor
    log_det: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        identity = torch.eye(channels)[:, :, None, None].repeat(1, 1, size, size)
        self.register_buffer("mean", torch.zeros(channels, size, size))
        self.register_buffer("roots", identity)
        self.register_buffer("inverses", identity.clone())
        self.register_buffer("log_det", torch.zeros(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take the moments from images x (N, C, S, S), at least two, together with their mirror images."""
        mean = x.mean(0)
        self.mean.copy_((mean + mean.flip(2)) / 2)
        second = torch.zeros_like(self.roots)
        for part in torch.split(x, FITTED_AT_ONCE):
            # of a mirror image, coefficients of odd horizontal frequencies have the other sign, in all colours
            k = self.transform(part - self.mean)
            second += torch.einsum("nchw,ndhw->cdhw", k, k) / len(x)
        variances, axes = torch.linalg.eigh(second.permute(2, 3, 0, 1))
        variances = variances.clamp(min=LEAST_VARIANCE)
        for kept, power in ((self.roots, 0.25), (self.inverses, -0.25)):
            kept.copy_(((axes * variances[..., None, :] ** power) @ axes.mT).permute(2, 3, 0, 1))
        self.log_det.copy_(-0.25 * variances.double().log().sum())

    def transform(self, x: Tensor) -> Tensor:
        """The cosine transform of x (B, C, S, S), shaped alike: vertical frequencies in rows, horizontal in columns."""
        T = cosines(x.shape[3], x.device, x.dtype)
        return T @ x @ T.mT

    def multiply(self, matrices: Tensor, x: Tensor) -> Tensor:
        """Transform x (B, C, S, S), multiply the colours at each frequency by a matrix, and transform it back."""
        T = cosines(x.shape[3], x.device, x.dtype)
        return T.mT @ (matrices * self.transform(x)[:, None]).sum(2) @ T

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return self.multiply(self.inverses, x - self.mean), self.log_det.expand(len(x))

    def from_noise(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return self.multiply(self.roots, z) + self.mean


@cache
def cosines(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix of the orthonormal cosine transform (DCT-II), (S, S): row k holds the cosine of frequency k."""
    k = torch.arange(size, dtype=torch.float64)
    matrix = math.sqrt(2 / size) * torch.cos(math.pi / size * k[:, None] * (k + 0.5))
    matrix[0] /= math.sqrt(2)
    return matrix.to(device, dtype)


class Whitening(Bijection):
    """z = C^-1/2 (x - mu) for images x of mean mu and covariance C, which `fit` measures and no training changes.

        C = U diag(lambda / h) U' + rho (I - U U'),     h^2 = lambda_K / rho, or 1 where no axis is left out
        z = rho^-1/2 (x - mu) + U (((lambda / h)^-1/2 - rho^-1/2) * U' (x - mu))
        log |det dz/dx| = -1/2 (sum_k log(lambda_k / h) + (D - K) log rho)

    With N(0, I) for z, x has the density of the Gaussian N(mu, C). Of all maps that whiten, this symmetric one leaves x
    as it is as far as possible (ZCA, Kessy et al. 2018, arXiv:1512.00809): z is an image with each pixel in its place,
    as convolutions expect it. Always in float32; before `fit`, z = x.

    Axes that are left out vary more than rho where they come first, as lambda_K, and less where they come last. Of two
    axes next to each other convolutions cannot tell which is among the K: a flow whose input varies less along these
    than along the next draws samples that do not, which are too bright or too dark. h, the variance of z along the K
    axes, lies half way from that of the others, 1, to that of the first of these, on a logarithmic scale: RealNVP's
    demo at 64 pixels, without the layer above, gave test faces 2.97 bits per dimension with it, 3.03 with 1 in its
    place, and 2.98 with h^2.

    mean: mu, (D,). axes: U, in 2 k columns. stds: (lambda / h)^1/2, (2 k,), or rho^1/2 for a column that is not used.
    rest: rho^1/2, scalar. All are buffers.

    Args:
        channels: of the image.
        size: side of the image in pixels.
        axes: K; where there are fewer dimensions, as many as these.
    """

    mean: Tensor
    axes: MirroredAxes
    stds: Tensor
    rest: Tensor

    def __init__(self, channels: int, size: int, axes: int) -> None:
        super().__init__()
        self.count = min(axes, channels * size**2)
        self.axes = MirroredAxes(channels, size, axes)
        self.register_buffer("mean", torch.zeros(channels * size**2))
        self.register_buffer("stds", torch.ones(self.axes.columns))
        self.register_buffer("rest", torch.ones(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and covariance from images x (N, C, S, S), at least two, together with their mirror images."""
        found = fit_gaussian(x, self.count, LEAST_VARIANCE)
        there = found.axes.square().sum(0) > 0.5  # few images have fewer axes; the others are zero
        self.mean.copy_(found.mean)
        places = self.axes.set(found.axes)
        self.axes.orthonormalise()  # without this the way back is not quite the inverse
        variances = torch.where(there, found.variances, found.rest)
        height = (variances[-1] / found.rest).sqrt() if 0 < self.count < len(self.mean) else 1.0
        stds = torch.cat([variances / height, found.rest[None]]).sqrt()
        self.stds.copy_(stds[places])  # columns that are not used count as any other axis does
        self.rest.copy_(found.rest.sqrt())

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            centred = x.flatten(1) - self.mean
            along = self.axes.coefficients(centred) * (1 / self.stds - 1 / self.rest)
            z = centred / self.rest + self.axes.combine(along)
        log_det = -self.stds.log().sum() - (len(self.mean) - len(self.stds)) * self.rest.log()
        return z.reshape(x.shape), log_det.expand(len(x))

    def from_noise(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            white = z.flatten(1)
            along = self.axes.coefficients(white) * (self.stds - self.rest)
            x = self.mean + self.rest * white + self.axes.combine(along)
        return x.reshape(z.shape)


def whitenings(channels: int, size: int, axes: int) -> list[Bijection]:
    """What makes a flow start as a Gaussian of its images: of all their axes, or of fewer, or (0) not at all."""
    if not axes:
        return []
    few = [SpectralFlattening(channels, size)] if axes < channels * size**2 else []
    return [*few, Whitening(channels, size, axes)]


@torch.no_grad()
def fit_to(flow: Chain, x: Tensor) -> None:
    """Set what starts at statistics of its input, for images x (N, C, H, W); nothing else does.

    Whitenings among the layers of the chain see all images; the ActNorms, wherever in it they are, see the first
    `ACT_NORM_IMAGES`, each after the layers before it.
    """
    for i, layer in enumerate(flow.layers):
        if isinstance(layer, SpectralFlattening | Whitening):
            before = Chain(*flow.layers[:i])
            layer.fit(torch.cat([before.to_noise(part)[0] for part in torch.split(x, FITTED_AT_ONCE)]))
    norms = [layer for layer in flow.modules() if isinstance(layer, ActNorm)]
    for norm in norms:
        norm.fitting = True
    flow.to_noise(x[:ACT_NORM_IMAGES])
    for norm in norms:
        norm.fitting = False


class InvertibleConv(Bijection):
    """z = W x at every pixel, always in float32; W starts as a random rotation.

    Kingma & Dhariwal 2018, section 3.2, eq. 9: W itself is learned, not its LU decomposition (eq. 10).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels)).Q)

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            log_det = torch.linalg.slogdet(self.weight).logabsdet * x.shape[2] * x.shape[3]
            return F.conv2d(x, self.weight[:, :, None, None]), log_det.expand(len(x))

    def from_noise(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return F.conv2d(z, torch.linalg.inv(self.weight)[:, :, None, None])


class Squeeze(Bijection):
    """Applies an inner bijection to the image with its 2x2 blocks turned into channels.

    Dinh et al. 2017 (arXiv:1605.08803), section 3.6: the first half of the channels holds one diagonal of every block,
    in all colours, and the second half the other diagonal.
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner

    @staticmethod
    def squeeze(x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4C, H/2, W/2)."""
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2], x[..., ::2, 1::2], x[..., 1::2, ::2]], dim=1)

    @staticmethod
    def unsqueeze(z: Tensor) -> Tensor:
        """(B, 4C, H/2, W/2) to (B, C, H, W)."""
        top_left, bottom_right, top_right, bottom_left = z.chunk(4, dim=1)
        top = torch.stack([top_left, top_right], dim=-1).flatten(-2)
        bottom = torch.stack([bottom_left, bottom_right], dim=-1).flatten(-2)
        return torch.stack([top, bottom], dim=-2).flatten(-3, -2)

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = self.inner.to_noise(self.squeeze(x))
        return self.unsqueeze(z), log_det

    def from_noise(self, z: Tensor) -> Tensor:
        return self.unsqueeze(self.inner.from_noise(self.squeeze(z)))
