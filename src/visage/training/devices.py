"""Which processor, and what it promises: how exact its sums are, and whether they repeat."""

import os
from collections.abc import Sequence

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from visage.config import Precision, RuntimeConfig
from visage.errors import UserError
from visage.machine import cores, peak_memory
from visage.results import Footprint
from visage.training.gpus import take_free
from visage.training.processes import place_on_host, refuse_devices

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""`train.precision` -> what convolutions and matrix products of a training are computed in."""


def start_device(count: int = 1) -> torch.device:
    """Set up PyTorch for this process as configs/runtime.json says, and take its device: of several GPUs a free one.

    count: GPUs to take, for this process and for those that it starts (`visage.training.processes`), which see these.

    Products of float32 are computed in float32 everywhere. By default, convolutions on Ampere and later GPUs round
    their inputs to TF32, 10 bits, which moves the log-likelihoods of deep flows by nats. bf16, where a training asks
    for it, is the fast way there.

    Raises:
        UserError: the file is missing, or there is no such device.
    """
    runtime = RuntimeConfig.load()
    device = choose_device(runtime.device)
    if device.type == "cuda":
        if (place := place_on_host()) is not None:
            device = torch.device("cuda", place)
        elif runtime.device in ("auto", "cuda"):  # any of them
            refuse_devices(count, device)
            device = torch.device("cuda", _take_gpus(count))
        torch.cuda.set_device(device)
    use_threads(runtime.threads or thread_share(device))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not runtime.deterministic  # the fastest convolutions, which differ from run to run
    # what `use_deterministic_algorithms` sets, without its import of the compiler, which takes 5 seconds
    torch.set_deterministic_debug_mode("error" if runtime.deterministic else "default")
    if runtime.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when CUDA starts, and repeats its sums
    return device


def _take_gpus(count: int) -> int:
    """Take so many free GPUs for this process and those that it starts; return the place of the first one."""
    seen = torch.cuda.device_count()
    taken = take_free([str(torch.cuda.get_device_properties(i).uuid) for i in range(seen)], count)
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or range(seen)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(names[i]) for i in taken)  # this process has read it already
    return taken[0]


def choose_device(wanted: str) -> torch.device:
    """The device to compute on, without taking it; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: the device that was asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    device = torch.device(wanted)
    if not there[device.type] or (device.index is not None and device.index >= torch.cuda.device_count()):
        raise UserError(
            f"params.yaml: runtime.device is {wanted}, but PyTorch {torch.__version__} finds no such device here: "
            "set it to auto or cpu, or check the driver"
        )
    return device


def thread_share(device: torch.device) -> int:
    """The threads that suit a stage beside others: one on a CPU, where the others are on its other cores.

    Threads that share the work of one small network wait for each other at every layer. Where another process has one
    of their cores they wait for that too, and two such trainings on two cores are ten times slower than one. For each
    GPU there is an equal share of the cores.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    return 1 if device.type == "cpu" else max(1, cores() // gpus)


def use_threads(count: int) -> None:
    """Let this process compute with so many threads, in PyTorch and in the libraries below NumPy and scikit-learn."""
    torch.set_num_threads(count)
    threadpool_limits(count)  # those that are loaded
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)  # those that are still to come


def random_states(device: torch.device) -> list[Tensor]:
    """The states of PyTorch's global generators of random numbers: the CPU's, then the device's if it is another."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *own]


def set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Continue the global random numbers where `random_states` of the same kind of device found them."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])


def footprint(device: torch.device, precision: Precision) -> Footprint:
    """What the work was done on, and its peak memory so far: of the GPU where there is one, else of this process."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    return Footprint(
        peak_memory_mb=round(peak / 2**20),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision,
        threads=torch.get_num_threads(),
    )
