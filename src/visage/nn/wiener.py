"""The Wiener filter: what linear algebra knows of the image in a noisy one.

    x_t = a x_0 + sigma eps,  eps ~ N(0, I),  x_0 ~ N(mu, C),    C = U diag(lambda) U' + rho (I - U U')

    E[x_0 | x_t]    = mu + a C (a^2 C + sigma^2 I)^-1 (x_t - a mu)        the least squares among all linear guesses
    Var[x_0 | x_t]  = C sigma^2 (a^2 C + sigma^2 I)^-1                    the same for every x_t

    mu      mean of the images           `mean`         U    their first K principal axes    `axes`
    lambda  variances along these axes   `variances`    rho  variance along any other axis   `rest`

Where images come with their mirror images, the axes stand in 2 k columns, those that are their own mirror images first.
A column that is not used has variance rho.

Diffusion models that predict a residual let their network F learn what is left of x_0:

    x_0^ = m + s F([noise, m], t),    m = E[x_0 | x_t],    c^2 = the mean of V = Var[x_0 | x_t] over the D dimensions
    loss = |x_0^ - x_0|^2 / c^2,      which is 1 on average over Gaussian images where F = 0
    s^2  = the mean of the diagonal of V C^-1 V

This is the preconditioning of Karras et al. 2022 (arXiv:2206.00364, eq. 7 and table 1), with the images' covariance in
the place of sigma_data^2 I. With the latter m would be a multiple of x_t; with the former a network that has learned
nothing already draws a Gaussian of the right mean and covariance, and a short training is spent on all the rest.

Where theirs has c, we have s, which lets F do as much as another mean in the place of mu could: if mu moves by d, m
moves by V C^-1 d, and for d ~ N(0, C) this has the covariance V C^-1 V. Under much noise s is c. Under little noise it
is less than half of c, as x_t tells nearly all that can be known, and what is left is noise. With c there, small
networks add what they have learned for much noise to images with little: on drawn faces of 32 pixels, after 800 steps
of 8 images, the guess at t = 1 of 1,000 was 1.0 % worse than the filter's, with s .3 %, and as much better at t = 500.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visage.maths import diffusion, ranks
from visage.maths.diffusion import Prediction
from visage.maths.likelihoods import HALF_BIN
from visage.maths.principal import fit_gaussian
from visage.nn.axes import Axes, MirroredAxes

LEAST_VARIANCE = HALF_BIN**2 / 3
"""Of a pixel along any axis: that of a uniform distribution over the width of one 8-bit value."""


@dataclass(frozen=True, slots=True)
class LinearGuess:
    """The filter's guesses at the image and the noise in x_t, and how wrong the first is.

    m: (B, C, s, s), at the image x_0. c: (B, 1, 1, 1), root of its mean squared error over Gaussian images.
    s: (B, 1, 1, 1), the unit of what a network adds to m. noise: (x_t - a m) / sigma, (B, C, s, s), at the noise eps.
    """

    m: Tensor
    c: Tensor
    s: Tensor
    noise: Tensor

    @property
    def inputs(self) -> Tensor:
        """What the network sees, (B, 2 C, s, s)."""
        return torch.cat([self.noise, self.m], dim=1)

    def image(self, output: Tensor) -> Tensor:
        """The guess at x_0, (B, C, s, s), that the network's output F stands for."""
        return self.m + self.s * output

    def loss(self, output: Tensor, x0: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of the guess that F stands for over c^2, and its share in that of the filter alone.

        The share is 1 where the network adds nothing.
        """
        loss = ((self.image(output) - x0) / self.c).square().mean()
        alone = ((self.m - x0) / self.c).square().mean()
        error, filters = ranks.mean(torch.stack([loss.detach(), alone]))
        return loss, {"error_over_filter": error / filters}


def check_axes(prediction: Prediction, axes: int) -> None:
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
        mirrored: whether a mirror image is an image, too.
    """

    mean: Tensor
    axes: Axes | MirroredAxes
    variances: Tensor
    rest: Tensor

    def __init__(self, channels: int, size: int, axes: int, *, mirrored: bool = True) -> None:
        super().__init__()
        self.count, self.mirrored = min(axes, channels * size**2), mirrored
        self.axes = (MirroredAxes if mirrored else Axes)(channels, size, axes)
        self.register_buffer("mean", torch.zeros(channels * size**2))
        self.register_buffer("variances", torch.ones(self.axes.columns))
        self.register_buffer("rest", torch.ones(()))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and covariance from images x (N, C, s, s), at least two, if mirrored with their mirror images."""
        found = fit_gaussian(x, self.count, LEAST_VARIANCE, mirrored=self.mirrored)
        self.mean.copy_(found.mean)
        # columns that are not used count as any other axis does
        self.variances.copy_(torch.cat([found.variances, found.rest[None]])[self.axes.set(found.axes)])
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
            along = (gain - gain_rest) * self.axes.coefficients(centred)
            m = self.mean + gain_rest * centred + self.axes.combine(along)
            left, left_rest = self.left(a**2, sigma**2)
            c = self.mean_of(left, left_rest).sqrt()
            s = self.mean_of(left**2 / self.variances, left_rest**2 / self.rest).sqrt()  # V C^-1 V along the axes
            m, a, sigma, c, s = m.reshape(x_t.shape), *(part[:, :, None, None] for part in (a, sigma, c, s))
            return LinearGuess(m, c, s, (x_t - a * m) / sigma)

    def left(self, a2: Tensor, sigma2: Tensor) -> tuple[Tensor, Tensor]:
        """V along the axes, (B, 2 k), and along any other, (B, 1), for a^2 and sigma^2 (B, 1)."""
        along, rest = (v * sigma2 / (a2 * v + sigma2) for v in (self.variances, self.rest))
        return along, rest

    def mean_of(self, along: Tensor, rest: Tensor) -> Tensor:
        """The mean over the D dimensions, (B, 1), of what is (B, 2 k) along the axes and (B, 1) along others."""
        dims = len(self.mean)
        return (along.sum(1, keepdim=True) + (dims - len(self.variances)) * rest) / dims


@dataclass(frozen=True, slots=True)
class FilteredStep:
    """Steps back of a diffusion (`visage.maths.diffusion.ReverseStep`) that know how far the filter may be wrong.

    p(x_{t-1} | x_t) has the covariance of q(x_{t-1} | x_t) where images are Gaussian: that of q(x_{t-1} | x_t, x_0),
    variance I, plus a^2 V for the x_0 in its mean a x_0 + b x_t that is not known. No other covariance gives a tighter
    bound there. Bao et al. 2022 (arXiv:2201.06503, theorem 1) have its trace, for a multiple of I.

    filter: of the images. alpha_bars: abar_0..abar_T, float64.
    """

    filter: WienerFilter
    alpha_bars: Tensor

    @property
    def first_variance(self) -> Tensor:
        """The mean squared error of the filter's guess at t = 1: L_0 is a sum over dimensions."""
        return self.filter.mean_of(*self.left(self.alpha_bars[1:2])).squeeze()

    def left(self, abar: Tensor) -> tuple[Tensor, Tensor]:
        """V for abar (B,), as the filter has it."""
        a2, sigma2 = (part.to(self.filter.variances)[:, None] for part in (abar, 1 - abar))
        return self.filter.left(a2, sigma2)

    def variances(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The posterior's a and variance, (B, 1), and what p has along the axes (B, 2 k) and any other (B, 1)."""
        a, _, variance = diffusion.posterior(self.alpha_bars[t - 1], self.alpha_bars[t])
        a, variance = (part.to(self.filter.variances)[:, None] for part in (a, variance))
        along, rest = (variance + a**2 * left for left in self.left(self.alpha_bars[t]))
        return a, variance, along, rest

    def divergence(self, x0: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """A sum over the axes, and over the dimensions that are left."""
        a, variance, along, rest = self.variances(t)
        missed = a * (x0 - guess).flatten(1)
        missed_along = self.filter.axes.coefficients(missed).square()
        missed_rest = (missed.square().sum(1) - missed_along.sum(1)).clamp(min=0)
        dims, count = missed.shape[1], missed_along.shape[1]
        kl = (variance / along - 1 - (variance / along).log() + missed_along / along).sum(1)
        ratio = (variance / rest)[:, 0]
        return 0.5 * (kl + (dims - count) * (ratio - 1 - ratio.log()) + missed_rest / rest[:, 0])

    def noise(self, eps: Tensor, t: int) -> Tensor:
        """The root of the covariance, times eps."""
        _, _, along, rest = self.variances(torch.tensor([t]))
        flat, axes = eps.flatten(1), self.filter.axes
        added = axes.combine((along.sqrt() - rest.sqrt()) * axes.coefficients(flat))
        return (rest.sqrt() * flat + added).view_as(eps)
