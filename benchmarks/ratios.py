"""What the project adds to the work that cannot be saved: ratios, measured in turns, of a default run's parts.

    make bench                                          # everything; needs data/raw/faces: `dvc repro download`
    python benchmarks/ratios.py training --recipes vae dcgan --seconds 4
    python benchmarks/ratios.py training --scale full --size 64             # the table for a GPU, printed

    preprocess    JPEGs to arrays of both sizes, against a loop of Pillow and torchvision, and against decoding alone,
                  both on one core; once by the clock, where ours works on all cores, and once in CPU seconds
    training      a step of each recipe in both precisions, of which the quicker one counts where none is named, against
                  the same networks and losses in a bare loop: in float32 as people write it, with channels_last memory
                  and fused optimisers, and with bfloat16 besides; on a GPU where there is one
    sampling      drawing images, against the time spent inside the networks meanwhile; a flow's, whose layers are no
                  networks, against the same layers from images to noise

Rounds are interleaved, so that a slower moment of the machine meets both sides; the table has the median of the rounds'
ratios and their smallest and largest. Nothing else should run meanwhile. Writes benchmarks/results.md and results.csv.
"""

import argparse
import csv
import io
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
import torch
from preprocess import ours as preprocessed
from preprocess import peer as looped
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from training import made_up_images, training_of, wait

from visage import params as parameters
from visage.config import RunConfig, RuntimeConfig
from visage.data import celeba_files
from visage.data.collection import opened
from visage.files import write_text
from visage.machine import cores
from visage.models.base import Batch, GenerativeModel, Samples, Step, can
from visage.training.devices import start_device
from visage.training.outputs import build_model
from visage.training.plan import is_due

HERE = Path(__file__).parent
CPU = torch.device("cpu")
WARM_UP = 4
"""Steps that are not counted, as the first ones choose kernels and fill the allocator; as many more time one."""
COLUMNS = ("what", "against", "ratio", "least", "most", "goal")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ratios above 1 say that we are faster, or, of sampling, how much longer it takes."""

    what: str
    against: str
    ratio: float
    least: float
    most: float
    goal: str


def row(what: str, against: str, ratios: Sequence[float], goal: str) -> Row:
    """The median, and the range, of the ratios of several rounds."""
    found = Row(what, against, statistics.median(ratios), min(ratios), max(ratios), goal)
    print(f"{what:28} {against:44} {found.ratio:6.2f}  ({found.least:.2f} to {found.most:.2f})  {goal}", flush=True)
    return found


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


# --- Preprocessing


def preprocessing(root: Path, count: int, rounds: int) -> Iterator[Row]:
    """Both sizes of the first images of a folder or an archive."""
    faces = celeba_files.read(root)
    count = min(count, len(faces.members))

    def decoded() -> None:
        with opened(faces.path) as read:
            for name in faces.members[:count]:
                simplejpeg.decode_jpeg(read(name), colorspace="RGB")

    def into_folder(work: Callable[..., None]) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                work(faces, count, Path(folder))

        return run

    sides = [into_folder(preprocessed), into_folder(looped), decoded]
    for clock, unit, goals in (
        (time.perf_counter, f"time, {cores()} threads against one", (">= 4", "")),
        (time.process_time, "CPU time", ("", ">= .7")),
    ):
        times = [[seconds(side, clock) for side in sides] for _ in range(rounds + 1)][1:]
        whole, ceiling = [b / a for a, b, _ in times], [c / a for a, _, c in times]
        yield row(f"preprocessing, {unit}", "Pillow and torchvision, once per size", whole, goals[0])
        yield row(f"preprocessing, {unit}", "decoding alone", ceiling, goals[1])


# --- Training


def bare_loop(
    config: RunConfig, images: np.ndarray, device: torch.device, *, fast: bool, bf16: bool = False
) -> Callable[[], None]:
    """The steps of a loop that does nothing but minimise the losses.

    fast: with channels_last memory and fused optimisers, else neither.
    """
    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    if fast:
        model = model.to(memory_format=torch.channels_last)
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = x.contiguous(memory_format=torch.channels_last if fast else torch.contiguous_format)
    generator = torch.Generator(device).manual_seed(0)
    y = torch.randint(0, 2, (len(x), len(model.attributes)), generator=generator, device=device).float()
    groups, size = model.groups(y), config.train.batch_size
    if groups is None:
        groups = torch.zeros(len(x), device=device)
    pools = [(groups == g).nonzero()[:, 0] for g in groups.unique() if g >= 0]
    model.train().initialize(Batch(x[: model.initial_images], y[: model.initial_images]))
    players = {name: [p for m in modules for p in m.parameters()] for name, modules in model.players().items()}
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    kind, options = (
        kinds[config.train.optimizer],
        {"fused": True} if fast and config.train.optimizer != "rmsprop" else {},
    )
    optimizers = {name: kind(p, lr=config.train.lr, **options) for name, p in players.items()}
    phases, total, done = model.phases(), 10**6, 0

    def step() -> None:
        nonlocal done
        batch = None
        for phase in phases:
            if not is_due(phase, done, total):
                continue
            if phase.fresh or batch is None:
                take = size // len(pools)
                places = torch.randint(2**31, (len(pools), take), generator=generator, device=device)
                chosen = torch.cat([pool[row % len(pool)] for pool, row in zip(pools, places, strict=True)])
                batch = Batch(x[chosen], y[chosen])
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                loss, _ = phase.loss(batch, Step(done, total, generator))
            optimizers[phase.player].zero_grad()
            loss.backward(inputs=players[phase.player])
            optimizers[phase.player].step()
            phase.after()
        done += 1

    return step


def per_step(step: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds of a step, the mean of so many, which a GPU works off without a pause."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    wait(device)
    return (time.perf_counter() - started) / count


def training(configs: Sequence[RunConfig], device: torch.device, rounds: int, least: float) -> Iterator[Row]:
    """Steps of the loop in `visage.training` beside bare ones."""
    for config in configs:
        images = made_up_images(config.size)
        ours = [
            training_of(replace(config, train=replace(config.train, precision=precision)), images, device).iterate
            for precision in ("fp32", "bf16")
        ]
        steps = [
            *ours,
            bare_loop(config, images, device, fast=False),
            bare_loop(config, images, device, fast=True),
            bare_loop(config, images, device, fast=True, bf16=True),
        ]
        for step in steps:
            per_step(step, WARM_UP, device)
        counts = [math.ceil(least / per_step(step, WARM_UP, device)) for step in steps]
        times = [
            [per_step(step, count, device) for step, count in zip(steps, counts, strict=True)] for _ in range(rounds)
        ]
        what = f"training step, {config.label}"
        yield row(what, "bare loop, float32", [plain / min(a, b) for a, b, plain, _, _ in times], "")
        yield row(f"{what}, float32", "bare loop, channels_last, fused", [fast / a for a, _, _, fast, _ in times], "")
        yield row(
            f"{what}, bfloat16", "bare loop, channels_last, fused, bfloat16", [e / b for _, b, *_, e in times], ""
        )
        yield row(what, "the best of the three", [min(bare) / min(a, b) for a, b, *bare in times], ">= .97")


# --- Sampling


@contextmanager
def inside_networks() -> Iterator[list[float]]:
    """Seconds spent inside outermost calls of modules, in the one element of a list."""
    total, depth, entered = [0.0], 0, 0.0

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        nonlocal depth, entered
        if not depth:
            entered = time.perf_counter()
        depth += 1

    def after(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal depth
        depth -= 1
        if not depth:
            total[0] += time.perf_counter() - entered

    handles = register_module_forward_pre_hook(before), register_module_forward_hook(after)
    try:
        yield total
    finally:
        for handle in handles:
            handle.remove()


def sampling(configs: Sequence[RunConfig], rounds: int, n: int) -> Iterator[Row]:
    """Drawing n images at once."""
    for config in configs:
        model: GenerativeModel = training_of(config, made_up_images(config.size), CPU).ema.model
        if not (isinstance(model, Samples) and can(model, Samples)):
            continue
        ratios, flow = [], getattr(model, "flow", None)
        for _ in range(rounds + 1):
            with torch.no_grad(), inside_networks() as inside:
                took = seconds(partial(drawn, model, n))
            if flow is not None:
                with torch.no_grad():
                    inside = [seconds(partial(flow.to_noise, torch.rand(n, 3, config.size, config.size)))]
            ratios.append(took / inside[0])
        against = "time inside its networks" if flow is None else "the flow's other direction"
        yield row(f"sampling, {config.label}", against, ratios[1:], "<= 1.2")


def drawn(model: Samples, n: int) -> Tensor:
    return model.sample(n, torch.Generator().manual_seed(0))


# --- The table


def machine() -> str:
    """Processor, cores and versions, in a line."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in told.splitlines() if line.startswith("model name")]
    return f"{[*names, platform.processor()][0]}, {psutil.cpu_count(logical=False)} cores; PyTorch {torch.__version__}"


def write_results(rows: Sequence[Row], about: str) -> None:
    """Write both files."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(r).items()} for r in rows)
    write_text(HERE / "results.csv", text.getvalue())
    lines = [f"| {r.what} | {r.against} | {r.ratio:.2f} | {r.least:.2f} to {r.most:.2f} | {r.goal} |" for r in rows]
    head = "| what | against | ratio | range | goal |\n|---|---|---|---|---|"
    write_text(HERE / "results.md", "\n".join([f"Measured by `make bench` on {about}.", "", head, *lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=("preprocess", "training", "sampling", []), help="all by default")
    parser.add_argument("--recipes", nargs="*", default=(), help="those of the default run by default")
    parser.add_argument("--scale", choices=("demo", "full"), default="demo")
    parser.add_argument("--size", type=int, default=32, help="of the images in pixels")
    parser.add_argument("--root", type=Path, default=Path("data/raw/faces"), help="JPEGs of CelebA, or drawn ones")
    parser.add_argument("--images", type=int, default=2000, help="to preprocess")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each side in each round of training")
    parser.add_argument("--samples", type=int, default=32, help="drawn at once")
    asked = parser.parse_args()
    shipped = parameters.load(Path("params.yaml"))
    recipes = asked.recipes or [run.removesuffix("-32") for run in shipped.runs if run.endswith("-32")]
    labels = [f"{recipe}-{asked.size}" for recipe in recipes]
    preprocess = shipped.preprocess.model_copy(update={"sizes": [asked.size]})
    changes = {"runs": labels, "seeds": [0], "scale": asked.scale, "preprocess": preprocess}
    configs = parameters.resolve(shipped.model_copy(update=changes), Path("src"))
    configs = [config for config in configs if config.label in labels and config.first_stage is None]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        RuntimeConfig("auto", 1, deterministic=False, experiment="benchmark").save()
        device = start_device()
    parts = {
        "preprocess": lambda: preprocessing(asked.root, asked.images, asked.rounds),
        "training": lambda: training(configs, device, asked.rounds, asked.seconds),
        "sampling": lambda: sampling(configs, asked.rounds, asked.samples),
    }
    rows = [found for name in asked.parts or parts for found in parts[name]()]
    if not asked.parts:
        write_results(rows, machine())


if __name__ == "__main__":
    main()
