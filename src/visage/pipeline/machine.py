"""How many stages this machine can run at once, and on what."""

import os
from collections.abc import Mapping
from pathlib import Path

from visage.config import CONFIGS, RuntimeConfig
from visage.errors import UserError


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip()]
    import pynvml

    try:
        pynvml.nvmlInit()
        return [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # no driver, or no GPU
        return []


def environment(slot: int, devices: list[str], each: int) -> Mapping[str, str]:
    """What a stage in a slot is told: the `each` GPUs that are its own, or all where there are not so many."""
    if not devices:
        return {}
    first = slot % max(1, len(devices) // each) * each
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[first : first + each])}


def devices_each(root: Path) -> int:
    """The GPUs that a training takes, by what `configure` has written last."""
    return RuntimeConfig.load(root / CONFIGS).devices if (root / CONFIGS / RuntimeConfig.FILE).is_file() else 1


def slots(root: Path, wanted: int, devices: list[str]) -> int:
    """How many stages run at once, by what `configure` has written last.

    wanted: 0 = as many as there are GPUs for, or as many as the cores have threads for.

    Raises:
        UserError: more are wanted than the cores have threads for; each would be many times slower.
    """
    runtime = RuntimeConfig.load(root / CONFIGS) if (root / CONFIGS / RuntimeConfig.FILE).is_file() else None
    if devices and not (runtime and runtime.device == "cpu"):
        return wanted or max(1, len(devices) // runtime.devices if runtime else len(devices))
    threads = (runtime.threads or cores()) if runtime else 1
    most = max(1, cores() // threads)
    if wanted > most:
        raise UserError(
            f"{wanted} stages at once with runtime.threads {threads} on {cores()} cores would wait for each other: "
            "set runtime.threads in params.yaml to 1, or lower the number of jobs"
        )
    return wanted or most
