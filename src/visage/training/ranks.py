"""What the ranks of a training tell each other outside of the objective: gradients, decisions, and how they start."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from visage.maths.ranks import ALONE, here

CPU = torch.device("cpu")


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means over all ranks of tensors that have the same shapes on each; all ranks get the same bits."""

    def mean(flat: Tensor) -> None:
        dist.all_reduce(flat)
        flat /= here().count

    return _exchanged(tensors, mean)


def averages(values: Sequence[float]) -> list[float]:
    """The means over all ranks of a few numbers, rounded to float32, so that the mean of equal ones is their value."""
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total)
    return (total / here().count).float().tolist()


def highest(*values: int) -> list[int]:
    """For each number the highest that a rank has; the numbers themselves in one process."""
    if here() == ALONE:
        return list(values)
    found = torch.tensor(values)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.tolist()


def told(answer: Any) -> Any:
    """The first rank's answer; the others, whose own does not count, wait for it, however long that takes."""
    if here() == ALONE:
        return answer
    answers = [answer]
    dist.broadcast_object_list(answers, device=CPU)
    return answers[0]


@torch.no_grad()
def start_equal(tensors: Sequence[Tensor]) -> None:
    """Give all ranks the first one's values, in place: two GPUs may have rounded the same sums differently."""
    for tensor, value in zip(tensors, _exchanged(tensors, lambda flat: dist.broadcast(flat, 0)), strict=True):
        tensor.copy_(value)


def equal(tensors: Sequence[Tensor]) -> bool:
    """Whether all ranks hold the same bits, as far as their sums tell."""
    sums = torch.stack([_bits(tensor).sum(dtype=torch.int64).cpu() for tensor in tensors])
    ends = torch.stack([sums, -sums])
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    return torch.equal(ends[0], -ends[1])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().flatten().view(torch.uint8 if tensor.element_size() < 4 else torch.int32)


def _exchanged(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> list[Tensor]:
    """Pass tensors through a collective operation that works in place: all those of a type in one call."""
    found: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = {i: tensor for i, tensor in enumerate(tensors) if tensor.dtype == dtype}
        flat = torch.cat([tensor.flatten() for tensor in alike.values()])
        exchange(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in alike.values()])
        found |= {i: part.view(tensors[i].shape) for i, part in zip(alike, parts, strict=True)}
    return [found[i] for i in range(len(tensors))]
