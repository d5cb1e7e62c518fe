"""Batch normalisation by the statistics of the whole batch, where several ranks train together."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from visage.maths import ranks
from visage.models.base import GenerativeModel


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation of (B, C, ...) whose mean and variance are those of all ranks' images together.

    Made of PyTorch's elementary operations, so that it runs on every device and its gradients can be differentiated
    again. In eval mode, and where a process is by itself, it is PyTorch's own.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or ranks.now() == ranks.ALONE:
            return super().forward(input)
        x, dims = input.float(), [d for d in range(input.ndim) if d != 1]
        mean = ranks.mean(x.mean(dims, keepdim=True))
        var = ranks.mean((x - mean).square().mean(dims, keepdim=True))
        self._follow(mean.detach().flatten(), var.detach().flatten(), x.numel() // x.shape[1] * ranks.now().count)
        shape = mean.shape
        out = (x - mean) * torch.rsqrt(var + self.eps)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _follow(self, mean: Tensor, var: Tensor, values: int) -> None:
        """Move the running statistics towards those of a batch with so many values per channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((var * values / (values - 1)).to(self.running_var.dtype), share)


def share_batch_norms(model: GenerativeModel) -> None:
    """Make every batch normalisation of the model a `SharedBatchNorm`, with the parameters and buffers that it has."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SharedBatchNorm
