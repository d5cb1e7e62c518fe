"""A linear map that is set once, from the data, and then stays as it is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Affine(nn.Module):
    """A linear map and an offset that training leaves as they are: (B, inputs) to (B, outputs), in float32."""

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs))
        self.register_buffer("bias", torch.zeros(outputs))

    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Replace both, (outputs, inputs) and (outputs,)."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both, whatever precision the networks beside it have."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight), self.weight, self.bias)
