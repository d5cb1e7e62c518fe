"""Where the time of a training step goes: shares of kinds of operations, by PyTorch's profiler.

    OMP_NUM_THREADS=1 python benchmarks/hotspots.py               # all recipes of the default run, of 32 pixels
    OMP_NUM_THREADS=1 python benchmarks/hotspots.py vae ddpm --size 64

Every row is a share of the wall time of some steps after the first ones: of the operations' own time, without what they
call. "Python" is what is left: the interpreter, and the profiler itself, which adds to every operation.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from contextlib import chdir
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from training import made_up_images, training_of

from visage import params as parameters
from visage.config import RunConfig, RuntimeConfig
from visage.training.devices import start_device

KINDS = {
    "convolutions": ("convolution", "mkldnn_conv", "slow_conv", "im2col", "col2im"),
    "matrix products": ("mm", "addmm", "bmm", "linear", "matmul", "scaled_dot_product", "linalg", "flash_attention"),
    "normalisation": ("norm",),
    "optimiser": ("adam", "rmsprop", "_foreach", "lerp"),
    "resizing": ("upsample", "pool", "pixel_", "interpolate"),
    "moving data": ("copy", "cat", "clone", "index", "fill_", "zero", "contiguous", "gather", "flip", "stack", "empty"),
}
"""Kind -> parts of the names of its operations; the first kind that fits counts. The rest works element by element."""
REST = "elementwise"
PYTHON = "Python"


def kind_of(operation: str) -> str:
    """The kind of an operation, such as aten::mkldnn_convolution."""
    name = operation.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def shares(config: RunConfig, steps: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of a step without the profiler, and the share of every kind with it."""
    training = training_of(config, made_up_images(config.size), torch.device("cpu"))
    for _ in range(3):
        training.iterate()
    started = time.perf_counter()
    for _ in range(steps):
        training.iterate()
    alone = (time.perf_counter() - started) / steps
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(steps):
            training.iterate()
        took = time.perf_counter() - started
    found: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / took
    found[PYTHON] = max(0.0, 1 - sum(found.values()))
    return 1000 * alone, dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="all of the default run where none is named")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    shipped = parameters.load(Path("params.yaml"))
    chosen = asked.recipes or [run.rsplit("-", 1)[0] for run in shipped.runs if run.endswith(f"-{asked.size}")]
    labels = [f"{recipe}-{asked.size}" for recipe in chosen]
    configs = parameters.resolve(shipped.model_copy(update={"runs": labels, "seeds": [0]}), Path("src"))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        RuntimeConfig("cpu", 1, deterministic=False, experiment="benchmark").save()
        start_device()
    columns = [*KINDS, REST, PYTHON]
    print(f"| run | ms | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for config in configs:
        if config.label in labels and config.first_stage is None:
            milliseconds, found = shares(config, asked.steps)
            cells = " | ".join(f"{100 * found.get(kind, 0):.0f}" for kind in columns)
            print(f"| {config.label} | {milliseconds:.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
