"""Invertible layers that several flows share, with the log-determinants of their Jacobians.

`to_noise` maps images to noise, as in training, and `from_noise` maps noise to images, as in sampling.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ConvStart = Literal["random", "principal"]
"""What an `InvertibleConv` starts as."""


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


class Fitted(Bijection):
    """A bijection that starts at statistics of its own input; `to_noise` calls `fit` first where `fitting` is set."""

    fitting = False  # true only inside `fit_to`

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Set the parameters for inputs x (B, C, H, W)."""


def fit_to(flow: Bijection, x: Tensor) -> None:
    """Set every `Fitted` layer of the flow for images x (B, C, H, W), each after those before it; nothing else does."""
    layers = [layer for layer in flow.modules() if isinstance(layer, Fitted)]
    for layer in layers:
        layer.fitting = True
    with torch.no_grad():
        flow.to_noise(x)
    for layer in layers:
        layer.fitting = False


class ActNorm(Fitted):
    """(x - mean) / std with a learned mean and std per channel, initialised to those of the first batch.

    Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.1, where s = 1 / std and b = -mean / std.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_std = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def fit(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        self.mean.copy_(mean)
        self.log_std.copy_(torch.where(std > 1e-3, std, 1.0).log())  # a constant channel keeps its scale

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.fitting:
            self.fit(x)
        log_det = -self.log_std.sum() * x.shape[2] * x.shape[3]
        return (x - self.mean) * torch.exp(-self.log_std), log_det.expand(len(x))

    def from_noise(self, z: Tensor) -> Tensor:
        return z * self.log_std.exp() + self.mean


class InvertibleConv(Fitted):
    """z = W x at every pixel, always in float32; W starts as a random rotation, or as the one onto principal axes.

    Kingma & Dhariwal 2018, section 3.2, eq. 9: W itself is learned, not its LU decomposition (eq. 10).

    start: "principal" gives W the eigenvectors of the covariance of its input's channels, over images and positions, as
        its rows, those of the largest eigenvalues first. That is a rotation as well, log |det W| = 0; its output's
        channels are uncorrelated. Before `fit_to` they start at random.
    """

    def __init__(self, channels: int, start: ConvStart) -> None:
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels)).Q)

    def fit(self, x: Tensor) -> None:
        if self.start == "principal":
            pixels = x.transpose(0, 1).flatten(1)
            pixels = pixels - pixels.mean(1, keepdim=True)
            _, axes = torch.linalg.eigh(pixels @ pixels.T / pixels.shape[1])  # in rising order
            self.weight.copy_(axes.flip(1).T)

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.fitting:
            self.fit(x)
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
