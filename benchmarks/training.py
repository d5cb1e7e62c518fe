"""How fast the recipes train and sample: images per second, memory and load of the GPU, on made-up images.

    python benchmarks/training.py --scale full --size 64 --seconds 20 vae dcgan

Each recipe is trained with its settings in params.yaml for so many seconds, after a few steps that are not counted.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from visage import params as parameters
from visage.config import RunConfig, RuntimeConfig
from visage.inference.flops import flops_per_iteration
from visage.models.base import GenerativeModel, Samples, can
from visage.training.devices import start_device
from visage.training.feed import Feed
from visage.training.loop import Training
from visage.training.outputs import build_model

IMAGES = 4096
WARM_UP = 20
"""Iterations that are not counted: the first ones choose kernels and fill the allocator."""


def made_up_images(size: int) -> np.ndarray:
    """Smooth random images, (N, size, size, 3) uint8."""
    coarse = 255 * torch.rand(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear").permute(0, 2, 3, 1)
    return (
        smooth.round().to(torch.uint8).contiguous().numpy()
    )  # as arrays from a file are, of which rows are taken fast


def training_of(config: RunConfig, images: np.ndarray, device: torch.device) -> Training:
    """The training of a recipe, at its first step."""
    torch.manual_seed(config.seed)
    model = build_model(config).to(device).to(memory_format=torch.channels_last)
    y = torch.randint(0, 2, (len(images), len(model.attributes)), generator=torch.Generator().manual_seed(0))
    feed = Feed(
        images,
        y.numpy().astype(np.uint8),
        batch_size=config.train.batch_size,
        flip=config.train.flip,
        seed=config.seed,
        device=device,
        groups=model.groups(y.float()),
    )
    return Training(model, config.train, feed, seed=config.seed)


def wait(device: torch.device) -> None:
    """Until the GPU has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def load(device: torch.device) -> float:
    """The share of the last moment in which the GPU worked, in percent; NaN without one."""
    return torch.cuda.utilization(device) if device.type == "cuda" else float("nan")


def timed_steps(training: Training, seconds: float) -> Iterator[float]:
    """Train for a while; yields the load of the GPU now and then."""
    end = looked = time.perf_counter()
    end += seconds
    while (now := time.perf_counter()) < end:
        training.iterate()
        if now - looked > 0.5:
            wait(training.device)  # else the queue of the GPU grows without an end
            looked = now
            yield load(training.device)


def samples_per_second(model: GenerativeModel, n: int, device: torch.device) -> float | None:
    """Images drawn per second, n at once; None where the model draws none."""
    if not (isinstance(model, Samples) and can(model, Samples)):
        return None
    with torch.no_grad():
        model.eval().sample(1, torch.Generator().manual_seed(0))
        wait(device)
        started = time.perf_counter()
        found: Tensor = model.sample(n, torch.Generator().manual_seed(0))
        wait(device)
    return len(found) / (time.perf_counter() - started)


def measure(config: RunConfig, images: np.ndarray, device: torch.device, seconds: float, samples: int) -> str:
    """One line of the table."""
    training = training_of(config, images, device)
    for _ in range(WARM_UP if device.type == "cuda" else 2):
        training.iterate()
    wait(device)
    shown, step, started = training.images_shown, training.step, time.perf_counter()
    loads = list(timed_steps(training, seconds))
    wait(device)
    took = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    batch = training.feed.first(4)
    rate = (training.images_shown - shown) / took
    iterations = (training.step - step) / took
    teraflop = flops_per_iteration(training.model, batch) / len(batch.x) * config.train.batch_size * iterations / 1e12
    drawn = samples_per_second(training.ema.model, samples, device) if samples else None
    return (
        f"{config.label:26} {config.train.batch_size:5} {config.train.precision:5} {rate:9.0f} {iterations:8.2f} "
        f"{teraflop:8.2f} {peak:6.2f} {statistics.mean(loads) if loads else float('nan'):5.0f} "
        + (f"{drawn:9.2f}" if drawn is not None else f"{'-':>9}")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=("demo", "full"), default="full")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--samples", type=int, default=256, help="drawn at once, to time that; 0 = none")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--deterministic", action="store_true", help="as runtime.deterministic")
    parser.add_argument("recipes", nargs="*", help="all of params.yaml where none is named")
    asked = parser.parse_args()

    shipped = parameters.load(Path("params.yaml"))
    labels = [f"{recipe}-{asked.size}" for recipe in asked.recipes or shipped.recipes]
    preprocess = shipped.preprocess.model_copy(update={"sizes": [asked.size]})
    changes = {"runs": labels, "seeds": [0], "scale": asked.scale, "preprocess": preprocess}
    runs = parameters.resolve(shipped.model_copy(update=changes), Path("src"))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        RuntimeConfig("auto", asked.threads, asked.deterministic, "benchmark").save()
        device = start_device()
    images = made_up_images(asked.size)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads")
    print(f"{'run':26} batch prec. images/s  steps/s TFLOP/s     GB load% samples/s")
    for config in runs:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        print(measure(config, images, device, asked.seconds, asked.samples), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
