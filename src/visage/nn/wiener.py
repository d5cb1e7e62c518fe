"""The Wiener filter: what linear algebra knows of the image in a noisy one.

    x_t = a x_0 + sigma eps,  eps ~ N(0, I),  x_0 ~ N(mu, C),    C = U diag(lambda) U' + rho (I - U U')

    E[x_0 | x_t]    = mu + a C (a^2 C + sigma^2 I)^-1 (x_t - a mu)        the least squares among all linear guesses
    Var[x_0 | x_t]  = C sigma^2 (a^2 C + sigma^2 I)^-1                    the same for every x_t

    mu      mean of the images           `mean`         U    their first K principal axes    `axes`
    lambda  variances along these axes   `variances`    rho  variance along any other axis   `rest`

Diffusion models that predict a residual let their network F learn what is left of x_0, in units of its size:

    x_0^ = m + c F([x_t, m], t),    m = E[x_0 | x_t],    c^2 = the mean of Var[x_0 | x_t] over the D dimensions
    loss = |F - (x_0 - m) / c|^2,   which is 1 on average over Gaussian images where F = 0

This is the preconditioning of Karras et al. 2022 (arXiv:2206.00364, eq. 7 and table 1), with the images' covariance in
the place of sigma_data^2 I. With the latter m would be a multiple of x_t; with the former a network that has learned
nothing already draws a Gaussian of the right mean and covariance, and a short training is spent on all the rest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visage.maths.diffusion import FilteredPrediction
from visage.maths.likelihoods import HALF_BIN
from visage.maths.principal import fit_gaussian

LEAST_VARIANCE = HALF_BIN**2 / 3
"""Of a pixel along any axis: that of a uniform distribution over the width of one 8-bit value."""


@dataclass(frozen=True, slots=True)
class LinearGuess:
    """The filter's guesses at the image and the noise in x_t, and how wrong the first is.

    m: (B, C, s, s), at the image x_0. c: (B, 1, 1, 1), root of its mean squared error over Gaussian images.
    noise: (x_t - a m) / sigma, (B, C, s, s), at the noise eps.
    """

    m: Tensor
    c: Tensor
    noise: Tensor

    @property
    def inputs(self) -> Tensor:
        """What the network sees, (B, 2 C, s, s)."""
        return torch.cat([self.noise, self.m], dim=1)

    def image(self, output: Tensor) -> Tensor:
        """The guess at x_0, (B, C, s, s), that the network's output F stands for."""
        return self.m + self.c * output

    def loss(self, output: Tensor, x0: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error of F, and its share in that of the filter alone: 1 where the network adds nothing."""
        residual = (x0 - self.m) / self.c
        loss = (output - residual).square().mean()
        return loss, {"error_over_filter": loss.detach() / residual.square().mean()}


def check_axes(prediction: FilteredPrediction, axes: int) -> None:
    """Refuse a number of axes, the setting filter_axes, that does not go with what is predicted.

    Raises:
        ValueError: there are no axes for the filter that a residual needs, or some without a filter.
    """
    if prediction == "residual" and not axes:
        raise ValueError("filter_axes=0, but a residual is what a filter leaves: set it to the axes of the filter")
    if prediction != "residual" and axes:
        raise ValueError(f"filter_axes={axes}, but there is no filter where {prediction} is predicted: set it to 0")


class WienerFilter(nn.Module):
    """Images' mean and covariance as buffers, so that they are saved with the weights. Before `fit`, those of N(0, I).

    Args:
        channels: of the image.
        size: side of the image in pixels.
        axes: K, at most as many as there are dimensions.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, channels: int, size: int, axes: int) -> None:
        super().__init__()
        dims = channels * size**2
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("axes", torch.zeros(dims, min(axes, dims)))
        self.register_buffer("variances", torch.ones(min(axes, dims)))
        self.register_buffer("rest", torch.ones(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and covariance from images x (N, C, s, s), at least two, together with their mirror images."""
        found = fit_gaussian(x, len(self.variances), LEAST_VARIANCE)
        self.mean.copy_(found.mean)
        self.axes.copy_(found.axes)
        self.variances.copy_(found.variances)
        self.rest.copy_(found.rest)

    def forward(self, x_t: Tensor, a: Tensor, sigma: Tensor) -> LinearGuess:
        """The guess for x_t (B, C, s, s) and its scales a and sigma (B, 1, 1, 1), sigma > 0.

        Gradients with respect to x_t pass through it. Computed in the precision of x_t, never in bf16.
        """
        with torch.autocast(x_t.device.type, enabled=False):
            a, sigma = a.flatten(1), sigma.flatten(1)
            centred = x_t.flatten(1) - a * self.mean
            noisy, noisy_rest = (a**2 * v + sigma**2 for v in (self.variances, self.rest))  # variances in x_t / noise
            gain, gain_rest = a * self.variances / noisy, a * self.rest / noisy_rest
            along = (gain - gain_rest) * (centred @ self.axes)
            m = self.mean + gain_rest * centred + along @ self.axes.T
            left, left_rest = self.variances * sigma**2 / noisy, self.rest * sigma**2 / noisy_rest
            dims, count = self.axes.shape
            c = ((left.sum(1, keepdim=True) + (dims - count) * left_rest) / dims).sqrt()
            m, c, sigma = m.reshape(x_t.shape), c[:, :, None, None], sigma[:, :, None, None]
            return LinearGuess(m, c, (x_t - a[:, :, None, None] * m) / sigma)

    def errors(self, abar: Tensor) -> Tensor:
        """c^2, the mean squared error of m over Gaussian images, at each a = sqrt(abar): (n,) for abar (n,) float64."""
        a2, sigma2 = (part.to(self.variances)[:, None] for part in (abar, 1 - abar))
        left, left_rest = (v * sigma2 / (a2 * v + sigma2) for v in (self.variances, self.rest))
        dims, count = self.axes.shape
        return (left.sum(1) + (dims - count) * left_rest[:, 0]) / dims
