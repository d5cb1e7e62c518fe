"""What an iteration of training and a sample cost, in floating-point operations.

Counted as PyTorch runs them: matrix products and convolutions, forward and backward, a multiply-add being 2 operations;
what falls on a convolution's zero padding counts as well. All else (activations, normalisation, optimisers, the moving
average) is left out: next to these it is little.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from visage.models.base import Batch, GenerativeModel, Phase, Step


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the formulas of `torch.utils.flop_counter` for the operations that run inside it.

    Its `FlopCounterMode` itself also keeps account of modules, and breaks off where a loss takes the gradient at an
    input of a module, as gradient penalties do.
    """

    total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the compiler, which nothing here uses: its import takes 4 seconds."""
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation; it arrives here already taken apart into those that have formulas."""
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops_of(call: Callable[[], object]) -> float:
    """Floating-point operations of one call; it really runs, on whatever device its tensors are.

    Not for use inside `torch.inference_mode`, where composite operations reach the counter whole.
    """
    # fused attention differs from device to device, and repeats parts of its forward pass in the backward one
    with sdpa_kernel(SDPBackend.MATH), Counter() as counter:  # type: ignore[no-untyped-call]
        call()
    return float(counter.total)


def flops_per_iteration(model: GenerativeModel, batch: Batch) -> float:
    """Floating-point operations of one iteration, the mean over a training.

    Each phase counts by the share of the iterations in which it runs, which `every` and `span` decide. Gradients are
    those that the loop takes: of the phase's player alone. The model and the global random states stay as they are.

    batch: on the model's device; a model with `groups` needs equally many images of each. Costs are nearly
        proportional to the number of images, so that a few of them tell what a batch of any size costs.
    """
    twin = copy.deepcopy(model).train()
    devices = [batch.x.device] if batch.x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        return sum(share(phase) * flops_of(partial(_gradients, twin, phase, batch)) for phase in twin.phases())


def share(phase: Phase) -> float:
    """The share of a long training's iterations in which the phase runs."""
    start, stop = phase.span
    return (stop - start) / phase.every


def _gradients(model: GenerativeModel, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
    parameters = [p for module in model.players()[phase.player] for p in module.parameters()]
    generator = torch.Generator(batch.x.device).manual_seed(0)
    loss, _ = phase.loss(batch, Step(index=0, total=1, generator=generator))
    return torch.autograd.grad(loss, parameters, allow_unused=True)
