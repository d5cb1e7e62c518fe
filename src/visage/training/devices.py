"""Which processor, in which precision."""

import torch

from visage.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """The device to compute on; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: the device that was asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if not there[wanted]:
        raise UserError(
            f"params.yaml: runtime.device is {wanted}, but PyTorch {torch.__version__} finds no such device here: "
            "set it to auto or cpu, or check the driver"
        )
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast: bf16 where asked for, or, for "auto", where the processor computes it natively."""
    if wanted == "auto":
        native = {
            "cuda": torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0),
            "cpu": torch.cpu._is_avx512_bf16_supported(),
        }
        return torch.bfloat16 if native.get(device.type, False) else torch.float32
    return torch.bfloat16 if wanted == "bf16" else torch.float32
