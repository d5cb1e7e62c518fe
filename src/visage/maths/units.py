"""The conversion of likelihoods to bits per dimension. Nothing else in the project divides by D or by log 2."""

import math
from typing import overload

from torch import Tensor


@overload
def bits_per_dim(nats: float, dims: int) -> float: ...
@overload
def bits_per_dim(nats: Tensor, dims: int) -> Tensor: ...
def bits_per_dim(nats: float | Tensor, dims: int) -> float | Tensor:
    """Negative log-likelihood in bits per dimension.

    nats: log-probability of the 8-bit image, natural log, summed over its dimensions.
    dims: D = 3 * S * S. A model under which all 256 values are equally likely has exactly 8 bits per dimension.
    """
    return -nats / (dims * math.log(2.0))
