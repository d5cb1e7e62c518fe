"""Log-likelihoods of decoders, element by element, and the KL divergence of a diagonal Gaussian. Callers sum.

Three of them are likelihoods: two densities (of y01) and one probability mass (of the 256 values of x11). The fourth,
the Bernoulli surrogate, is not, as its docstring explains.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_BIN = 1.0 / 255.0
"""Half the distance between neighbouring 8-bit values in x11."""


def gaussian_log_density(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log N(x; mean, sigma^2), elementwise, in nats per unit of x; the shapes broadcast."""
    return -0.5 * ((x - mean) * torch.exp(-log_sigma)).square() - log_sigma - 0.5 * math.log(2.0 * math.pi)


def laplace_log_density(x: Tensor, median: Tensor, log_scale: Tensor) -> Tensor:
    """Log of exp(-|x - median| / b) / (2 b) with b = exp(log_scale), elementwise, in nats per unit of x."""
    return -(x - median).abs() * torch.exp(-log_scale) - log_scale - math.log(2.0)


def discretized_logistic_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of 8-bit values under a logistic whose tails belong to the first and the last value, elementwise.

    P(x) = F(x + 1/255) - F(x - 1/255), F(t) = sigmoid((t - mean) / s), with F = 0 below x = -1 and F = 1 above x = 1
    (Kingma et al. 2016, arXiv:1606.04934; Salimans et al. 2017, arXiv:1701.05517, section 2.1). The 256 probabilities
    sum to 1. Computed as sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which avoids cancellation.

    x: x11, one of the 256 values v / 127.5 - 1. mean: in x11, any real number. log_scale: log s in x11.
    """
    rate = torch.exp(-log_scale)
    above = F.logsigmoid((x - mean + HALF_BIN) * rate)
    below = F.logsigmoid(-(x - mean - HALF_BIN) * rate)
    inside = above + below + torch.log(-torch.expm1(-2.0 * HALF_BIN * rate))
    return torch.where(x < HALF_BIN - 1.0, above, torch.where(x > 1.0 - HALF_BIN, below, inside))


def bernoulli_surrogate(x: Tensor, logits: Tensor) -> Tensor:
    """Minus the binary cross-entropy, x log l + (1 - x) log(1 - l) with l = sigmoid(logits), elementwise.

    x: x01 in [0, 1]. For x strictly between 0 and 1 this is not a log-density (its exponential does not integrate to
    1), so sums of it bound nothing. Its maximum over the logits is at l = x.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none")


def standard_normal_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)), elementwise, in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)


def sampled_standard_normal_kl(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """Log q(z) - log N(z; 0, 1) at z = mean + exp(logvar / 2) eps, q = N(mean, exp(logvar)), elementwise, in nats.

    Over eps ~ N(0, 1) its expectation is `standard_normal_kl` (Kingma & Welling 2014, arXiv:1312.6114, eq. 6).
    """
    z = mean + torch.exp(0.5 * logvar) * eps
    return 0.5 * (z.square() - eps.square() - logvar)
