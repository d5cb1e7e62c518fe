"""How many stages this machine can run at once."""

import os
from pathlib import Path

from visage.config import CONFIGS, RuntimeConfig
from visage.errors import UserError
from visage.machine import cores


def gpus() -> int:
    """The number of CUDA devices that this process may use."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return sum(bool(name.strip()) for name in named.split(","))
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:  # no driver, or no GPU
        return 0


def slots(root: Path, wanted: int, devices: int) -> int:
    """How many stages run at once, by what `configure` has written last.

    wanted: 0 = as many as there are GPUs for, or as many as the cores have threads for.
    devices: GPUs; each stage takes its own (`visage.training.gpus`).

    Raises:
        UserError: more are wanted than the cores have room for threads; each would be many times slower.
    """
    runtime = RuntimeConfig.load(root / CONFIGS) if (root / CONFIGS / RuntimeConfig.FILE).is_file() else None
    if devices and not (runtime and runtime.device == "cpu"):
        return wanted or max(1, devices // (runtime.devices if runtime else 1))
    threads = (runtime.threads if runtime else 0) or 1
    most = max(1, cores() // threads)
    if wanted > most and threads > 1:  # stages of one thread share a core without loss
        raise UserError(
            f"{wanted} stages at once with runtime.threads {threads} on {cores()} cores would wait for each other: "
            "lower runtime.threads in params.yaml, or the number of jobs"
        )
    return wanted or most
