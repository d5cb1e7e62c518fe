"""Which processor, in which precision."""

import os
import platform
import resource

import torch

from visage.config import RuntimeConfig
from visage.errors import UserError
from visage.results import Footprint


def start_device() -> torch.device:
    """Set the number of threads of this process, and choose its device, as configs/runtime.json says.

    Raises:
        UserError: the file is missing, or there is no such device.
    """
    runtime = RuntimeConfig.load()
    torch.set_num_threads(runtime.threads or os.cpu_count() or 1)
    return choose_device(runtime.device)


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


def footprint(device: torch.device, precision: torch.dtype) -> Footprint:
    """What the work was done on, and its peak memory so far: of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if platform.system() == "Darwin" else 1024  # macOS counts bytes, Linux KiB
    return Footprint(
        peak_memory_mb=round(peak / 2**20),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=str(precision).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
