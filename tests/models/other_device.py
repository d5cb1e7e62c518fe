"""A stand-in for a GPU: PyTorch's `meta` device, whose tensors have shapes and gradients but no values.

PyTorch itself lets some operations mix it with the CPU. `NothingMixed` forbids them all, as a GPU would; and what asks
for a value, as `.item()` and `if` do, fails here, where a GPU would make the program wait for it.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class DeviceGenerator(torch.Generator):
    """A generator that lives on the other device."""

    device = META


class NothingMixed(TorchDispatchMode):
    """Raises TypeError where an operation meets tensors of both devices; numbers without dimensions may be the CPU's.

    copies: whether tensors may be copied to the other device, which makes the program wait for it.
    """

    def __init__(self, *, copies):
        super().__init__()
        self.allowed = COPIES if copies else set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        met = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in met if x.ndim or x.device == META}
        if len(devices) > 1 and func not in self.allowed:
            raise TypeError(f"{func} meets tensors of both devices: {[(x.device.type, *x.shape) for x in met]}")
        return result


@contextlib.contextmanager
def no_autocast(monkeypatch):
    """Autocast knows nothing of this device; the models only ever switch it off."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "autocast", lambda device, enabled: contextlib.nullcontext())
        yield
