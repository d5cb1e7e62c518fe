"""How the time grows with more work and more cores: a picture, in which the straight lines are proportional.

    python benchmarks/growth.py --root data/raw/faces docs/figures/growth.png

images    preprocessing of as many JPEGs, by the clock
pixels    a training step, in CPU time of one thread, at sides of 32, 64 and 128 pixels
runs      pipelines of as many runs, two stages at once; stages sleep for 2 to 15 seconds
stages    a pipeline of 16 such runs, with as many stages at once

Of images and pixels, each figure is the median of three. It takes a quarter of an hour, in which nothing else should
run.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from preprocess import ours as preprocessed
from ratios import WARM_UP
from scaling import repro, sleeping_project
from training import made_up_images, training_of

from visage import params as parameters
from visage.config import RuntimeConfig
from visage.data import celeba_files
from visage.files import replacing
from visage.training.devices import start_device
from visage.training.loop import Training

ROUNDS = 3
IMAGES = (500, 1000, 2000, 4000, 8000)
SIZES = (32, 64, 128)
RECIPES = ("vae", "dcgan", "realnvp", "ddpm")
RUNS = (4, 8, 16)
JOBS = (1, 2, 4, 8)
SHARE = 0.25
"""Of the seconds that stages sleep in `scaling.py workers`."""

Curves = dict[str, dict[float, float]]
"""Name -> x -> seconds."""


def median(work: Callable[[], float]) -> float:
    """Of three."""
    return statistics.median(work() for _ in range(ROUNDS))


def images(root: Path) -> Curves:
    """Seconds of preprocessing; the members of a small folder come again and again."""
    faces = celeba_files.read(root)
    many = replace(faces, members=(list(faces.members) * (1 + max(IMAGES) // len(faces.members)))[: max(IMAGES)])

    def took(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            preprocessed(many, count, Path(folder))
            return time.perf_counter() - started

    took(min(IMAGES))
    return {"JPEGs to 32 and 64 pixels": {count: median(partial(took, count)) for count in IMAGES}}


def pixels() -> Curves:
    """CPU seconds of the training of 1,000 images, in batches of 8 and with the same network at every size."""
    shipped = parameters.load(Path("params.yaml"))
    preprocess = shipped.preprocess.model_copy(update={"sizes": list(SIZES)})
    found: Curves = {}
    for recipe in RECIPES:
        changes = {"runs": [f"{recipe}-32"], "seeds": [0], "preprocess": preprocess}
        (config,) = parameters.resolve(shipped.model_copy(update=changes), Path("src"))
        found[recipe] = {}
        for size in SIZES:
            train = replace(config.train, batch_size=8)
            settings = config.settings | {name: 64 for name in config.settings if name.endswith("_axes")}
            training = training_of(
                replace(config, size=size, train=train, settings=settings), made_up_images(size), torch.device("cpu")
            )
            steps(training)  # the first ones, which are not counted
            found[recipe][size**2] = median(partial(steps, training))
    return found


def steps(training: Training) -> float:
    """CPU seconds that some steps take, for 1,000 images."""
    started, first = time.process_time(), training.images_shown
    for _ in range(WARM_UP):
        training.iterate()
    return 1000 * (time.process_time() - started) / (training.images_shown - first)


def sleeping(runs: int, jobs: int) -> float:
    """Seconds of a pipeline whose stages sleep."""
    with tempfile.TemporaryDirectory() as folder:
        sleeping_project(Path(folder), runs, SHARE)
        return repro(Path(folder), jobs)


def draw(panels: Sequence[tuple[str, str, Curves, int]], path: Path) -> None:
    """A panel for each kind of growth, and a grey line through the first point of each curve: x or 1 / x."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), layout="constrained")
    for ax, (title, label, curves, power) in zip(axes, panels, strict=True):
        for name, curve in curves.items():
            x, y = list(curve), list(curve.values())
            ax.plot(x, [y[0] * (each / x[0]) ** power for each in x], color="0.75", linewidth=1, zorder=1)
            ax.plot(x, y, marker="o", label=name)
        ax.set(xscale="log", yscale="log", title=title, xlabel=label, ylabel="seconds")
        ax.set_xticks(x, [f"{each:,}" for each in x])
        ax.minorticks_off()
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data/raw/faces"), help="JPEGs of CelebA, or drawn ones")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        RuntimeConfig("cpu", 1, deterministic=False, experiment="benchmark").save()
        start_device()
    panels: list[tuple[str, str, Curves, int]] = [
        ("preprocessing", "images", images(asked.root), 1),
        ("training, 1,000 images", "pixels of an image", pixels(), 1),
        ("a pipeline, 2 stages at once", "runs", {"stages that sleep": {n: sleeping(n, 2) for n in RUNS}}, 1),
        ("a pipeline of 16 runs", "stages at once", {"stages that sleep": {n: sleeping(16, n) for n in JOBS}}, -1),
    ]
    for title, label, curves, power in panels:
        for name, curve in curves.items():
            (first, start), *_, (last, end) = curve.items()
            grown = (end / start) / (last / first) ** power
            figures = ", ".join(f"{x:,}: {y:.4g}" for x, y in curve.items())
            print(f"{title}, {name}: seconds by {label}: {figures}; {grown:.2f} of proportional growth", flush=True)
    draw(panels, asked.picture)


if __name__ == "__main__":
    main()
