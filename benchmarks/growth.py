"""How time grows with images, pixels, runs and cores, beside linear growth; draws docs/figures/growth.png.

    OMP_NUM_THREADS=1 python benchmarks/growth.py        # needs data/raw/faces: `dvc repro download`; 15 minutes

    images    preprocessing of ten times as many JPEGs, to both sizes
    pixels    a training step, an image of twice and four times the side: four and sixteen times the pixels
    runs      the whole pipeline with stages that sleep, four at once: what it takes beyond the shortest possible time
    cores     the whole pipeline with four short runs, by one stage at a time and by two

Each value is the time per unit of work, relative to that of the smallest: 1 is linear growth, less is better. Of cores,
it is the time multiplied by their number. Nothing else should run meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path

import matplotlib as mpl
from preprocess import ours as preprocessed
from ratios import CPU, per_step
from scaling import SHORT, clone, repro, sleeping_project
from training import made_up_images, training_of

from visage import params as parameters
from visage.config import RuntimeConfig
from visage.data import celeba_files
from visage.training.devices import start_device

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "growth.png"
ROUNDS = 3
Points = Iterator[tuple[float, float]]
"""(how many times the smallest, seconds per unit of work)"""


def images(root: Path) -> Points:
    faces = celeba_files.read(root)
    for factor in (1, 2, 5, 10):
        count = factor * (len(faces.members) // 10)
        times = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                preprocessed(faces, count, Path(folder))
                times.append((time.perf_counter() - started) / count)
        yield factor, statistics.median(times)


def pixels(recipe: str) -> Points:
    shipped = parameters.load(Path("params.yaml"))
    for side in (32, 64, 128):
        sizes = shipped.preprocess.model_copy(update={"sizes": [side]})
        changed = shipped.model_copy(update={"runs": [f"{recipe}-{side}"], "seeds": [0], "preprocess": sizes})
        (config,) = parameters.resolve(changed, Path("src"))
        step = training_of(config, made_up_images(side), CPU).iterate
        per_step(step, 0.5)
        each = statistics.median(per_step(step, 4) for _ in range(ROUNDS)) / config.train.batch_size
        yield (side / 32) ** 2, each / (side / 32) ** 2


def runs() -> Points:
    for count in (6, 12, 24):
        with tempfile.TemporaryDirectory() as folder:
            together, longest = sleeping_project(Path(folder), count)
            yield count / 6, repro(Path(folder), 4) / max(together / 4, longest)


def cores() -> Points:
    settings = {"runs": [f"{recipe}-32" for recipe in SHORT]}
    settings |= {f"recipes.{recipe}.demo.train.kimg": kimg for recipe, kimg in SHORT.items()}
    for jobs in (1, 2):
        with clone(settings) as folder:
            yield jobs, jobs * repro(folder, jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/raw/faces"), help="JPEGs of CelebA, or drawn ones")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        RuntimeConfig("cpu", 1, deterministic=False, experiment="benchmark").save()
        start_device()
    series = {
        "images, preprocessing": partial(images, asked.root),
        "pixels of an image, a step of vae": partial(pixels, "vae"),
        "cores, the pipeline": cores,
        "runs, the pipeline": runs,
    }
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.axhline(1, color="0.7", linewidth=1)
    for marker, (name, measure) in zip("osD^", series.items(), strict=True):
        factors, each = zip(*measure(), strict=True)
        relative = [value / each[0] for value in each]
        shown = ", ".join(f"x{factor:g}: {value:.2f}" for factor, value in zip(factors, relative, strict=True))
        print(f"{name:36} {shown}", flush=True)
        axes.plot(factors, relative, marker=marker, label=name)
    axes.set(xscale="log", xlabel="times as many", ylabel="time per unit, relative", ylim=(0, None))
    axes.set_xticks([1, 2, 4, 10, 16], labels=["1", "2", "4", "10", "16"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(FIGURE, dpi=150)


if __name__ == "__main__":
    main()
