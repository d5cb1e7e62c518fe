"""Principal components of images, and of their mirror images with them."""

from dataclasses import dataclass

import torch
from torch import Tensor

HELD_OUT = 10
"""Every tenth image, about, is kept from finding the axes of a Gaussian and measures the variances along them."""
OVERSAMPLING, ITERATIONS = 20, 2
"""Axes that are sought beyond those asked for, and power iterations (Halko et al. 2011, arXiv:0909.4061)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A Gaussian's second moments: along K axes as they are, the same variance along all others.

    mean: (D,). axes: (D, K), orthonormal columns. variances: (K,), falling. rest: scalar, the mean variance of all
    other dimensions. Where the images span fewer than K dimensions, the last axes and their variances are 0, and rest
    is for these, too.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    rest: Tensor


def principal_axes(x: Tensor, count: int, *, mirrored: bool = True) -> Principal:
    """The first `count` axes of images x (N, C, H, W), D = C H W; if mirrored, of their mirror images, too, and W even.

    Two pixels that mirror each other are (s + d) / sqrt 2 and (s - d) / sqrt 2. With every image its mirror image, s
    and d are uncorrelated and d has mean 0, so that each half has axes of its own. They are found exactly where many
    are asked for, else by a randomised method, with the same random numbers in every call.
    """
    if not mirrored:
        centred = x - x.mean(0)
        return _padded(x.mean(0), *_axes(centred, count), centred.square().sum() / len(x), count)
    even, odd = halves(x)
    middle = even.mean(0)
    even = even - middle
    found = [_axes(even, count), _axes(odd, count)]
    total = (even.square().sum() + odd.square().sum()) / len(x)
    order = torch.cat([variances for _, variances in found]).argsort(descending=True)[:count]
    kinds = [axes for axes, _ in found]
    axes = torch.cat([whole(kinds[0], torch.zeros_like(kinds[0])), whole(torch.zeros_like(kinds[1]), kinds[1])])
    variances = torch.cat([variances for _, variances in found])[order]
    mean = whole(middle[None], torch.zeros_like(middle[None]))[0]
    return _padded(mean, axes[order], variances, total, count)


def _padded(mean: Tensor, axes: Tensor, variances: Tensor, total: Tensor, count: int) -> Principal:
    """Axes (k, C, H, W) and variances (k,), and zeros up to `count` of them. total: the sum of all variances."""
    missing = count - len(axes)
    return Principal(
        mean=mean.flatten(),
        axes=torch.nn.functional.pad(axes.flatten(1).T, (0, missing)).contiguous(),
        variances=torch.nn.functional.pad(variances, (0, missing)),
        rest=((total - variances.sum()) / max(1, mean.numel() - len(axes))).clamp(min=0),
    )


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The s and d of images (N, C, H, W), W even: what their halves have in common and what not, (N, C, H, W / 2)."""
    left, right = x.chunk(2, dim=3)
    right = right.flip(3)
    return (left + right) / 2**0.5, (left - right) / 2**0.5


def whole(even: Tensor, odd: Tensor) -> Tensor:
    """The images (N, C, H, W) of these s and d, (N, C, H, W / 2)."""
    return torch.cat([even + odd, (even - odd).flip(3)], dim=3) / 2**0.5


def local_basis(axes: Tensor, wanted: Tensor) -> Tensor:
    """The orthonormal basis of the span of these axes that lies nearest to the wanted vectors, (D, K) like both.

    The rotation of the axes (D, K) is the polar factor of axes^T wanted (Schoenemann 1966, Psychometrika 31), the
    orthogonal matrix with the least sum of squared differences.
    """
    left, _, right = torch.linalg.svd(axes.T @ wanted)
    rotation: Tensor = left @ right
    return axes @ rotation


def fit_gaussian(x: Tensor, count: int, least: float, *, mirrored: bool = True) -> Principal:
    """The Gaussian of images x (N, C, H, W), at least two, with `count` axes; if mirrored, of their mirror images, too.

    The first tenth finds no axes, only the variances along them, none of which is less than `least`: along their own
    last axes images vary less than others do, and a density would take the details of other images for noise. Axes
    that are 0, of few images, have the variance `least`, which means nothing.
    """
    held = -(-len(x) // HELD_OUT)
    found = principal_axes(x[held:], count, mirrored=mirrored)
    centred = x[:held].flatten(1) - found.mean
    # mirror images, if they count, have the same squares, as every axis is its own mirror image or minus that
    variances, total = (centred @ found.axes).square().mean(0), centred.square().mean(0).sum()
    used = (found.axes.square().sum(0) > 0.5).sum()
    rest = (total - variances.sum()) / (x[0].numel() - used).clamp(min=1)
    return Principal(found.mean, found.axes, variances.clamp(min=least), rest.clamp(min=least))


def _axes(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The axes, (K, C, H, W), and variances, (K,), of centred images, or half images, (N, C, H, W)."""
    flat = x.flatten(1)
    sought = min(count + OVERSAMPLING, *flat.shape)
    if 3 * sought > flat.shape[1]:  # then all of them take less time than some
        variances, axes = torch.linalg.eigh(flat.T @ flat / len(flat))
        found = axes.flip(1).T[:sought][:count]
        return found.reshape(-1, *x.shape[1:]), variances.flip(0)[:sought][:count].clamp(min=0)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        _, lengths, axes = torch.svd_lowrank(flat, q=sought, niter=ITERATIONS)
    return axes.T[:count].reshape(-1, *x.shape[1:]), lengths[:count].square() / len(flat)
