"""The report of full-size runs: how long its parts take, how much memory they need, and how large the page becomes.

    python benchmarks/report.py --runs 22 --faces 19962

Runs are made up, half of them at 64 and half at 128 pixels: their files are as evaluation writes them for all of
CelebA's test faces, with every score, picture and gallery that a variational autoencoder gets, and nothing is trained.
"""

import argparse
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from visage import results as schema
from visage.config import RunConfig, TrainConfig
from visage.measures.table import MEASURES, SETS
from visage.pictures import grid, save
from visage.report import page, plotting, size_page
from visage.report.captions import PICTURES
from visage.report.images import Copier
from visage.results import VERSION, Record

SIZES = (64, 128)
HEADLINE, FASHION, DERIVED = "fashion_mnist", 10_000, 1000
SCORES = ("nll", "recon", "kl", "typicality", "complexity", "dose", "mahalanobis")
RANKED = ("recon_mse", "bits_per_dim")
OTHERS = {HEADLINE: FASHION} | dict.fromkeys(SETS, DERIVED)
FACTS = {
    "shown": 16, "samples": 16, "names": ["ddim"], "scales": ["1"], "attributes": ["Male"], "domains": ["a", "b"],
    "score": "nll", "images": HEADLINE, "steps": 8, "ends": "faces",
}  # fmt: skip
TRAIN = TrainConfig(
    25_600, 64, "adam", 0.001, {}, (0.9, 0.999), 0.0, "cosine", 0.01, 0, 1.0, 0.999,
    flip=True, precision="bf16", snapshots=8, rows=300,
)  # fmt: skip
FOOTPRINT = schema.Footprint(peak_memory_mb=9000, device="NVIDIA H100", precision="bf16", threads=8)


def faces(random: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Smooth colours with a little noise, about as hard to compress as faces."""
    coarse = random.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    smooth = np.stack([Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in coarse])
    return np.clip(smooth + random.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def train(root: Path, config: RunConfig, random: np.random.Generator) -> None:
    folder, steps = root / "runs" / config.name / "train", np.linspace(0, 400_000, 301, dtype=int)[1:]
    terms = {f"autoencoder/{term}": random.normal(1, 0.1, len(steps)) for term in ("loss", "rate", "grad_norm")}
    schema.write(
        folder / "run.json",
        schema.Training(
            VERSION, "0" * 64, config, schema.Parameters(7, {"autoencoder": 7}), 400_000, 25_600_000, 400_000, "last"
        ),
    )
    pd.DataFrame({"step": steps, "kimg": steps * 0.064, **terms}).to_csv(folder / "history.csv", index=False)
    validation = {"step": steps[::30], "kimg": steps[::30] * 0.064, "bits_per_dim": random.normal(3, 0.1, 10)}
    pd.DataFrame(validation).to_csv(folder / "validation.csv", index=False)
    for step in np.linspace(0, 400_000, 9, dtype=int):
        save(grid(faces(random, 16, config.size), 8), folder / f"samples/{step:07d}.png")
    cost = schema.TrainingCost(36_000.0, 700.0, FOOTPRINT, train_pflop=random.uniform(10, 1000))
    schema.write(root / f"metrics/cost/train/{config.name}.json", cost)


def evaluate(root: Path, config: RunConfig, random: np.random.Generator, n: int) -> None:
    folder = root / "runs" / config.name / "evaluate"
    count = {"test": n, **OTHERS}
    scores = {name: {score: random.normal(3, 1, m) for score in SCORES} for name, m in count.items()}
    values = {measure: random.normal(3, 1, n) for measure in (*RANKED, "psnr", "ssim")}
    rows = {"test": np.arange(n), HEADLINE: np.arange(FASHION)}
    schema.PerImage(rows=rows, identity=np.arange(n) // 20, scores=scores, values=values).save(folder / "scores.npz")
    pictures, galleries = [], []
    for stem in (*PICTURES, *(f"{place}_{measure}" for measure in RANKED for place in ("worst", "median", "best"))):
        shown = 64 if stem == "samples" else 32
        save(grid(faces(random, shown, config.size), 8), folder / f"{stem}.png")
        pictures.append(schema.Picture(f"{stem}.png", 8, shown // 8, FACTS))
    for measure in RANKED:
        ranked = [schema.Face(i, f"{i:06d}.jpg", float(i), ["Male", "Smiling", "Young"]) for i in range(16)]
        galleries += [
            schema.Gallery(measure, place, f"{place}_{measure}.png", n, ranked) for place in ("worst", "median", "best")
        ]
    odds = [
        schema.Odds(f"Attribute_{i}", 60, 1000, 50.0, 1.2, (0.9, 1.6), True, "", random.uniform(), 1.1)
        for i in range(40)
    ]
    single = [measure.key for measure in MEASURES if measure.group not in ("ood", "cost") and not measure.reference]
    records = [Record(metric, "exact", random.uniform(1, 9), n, (0.9, 9.1)) for metric in single]
    records += [
        Record("auroc", "exact", random.uniform(), n + m, (0.1, 0.9), images=name, score=score)
        for name, m in OTHERS.items()
        for score in SCORES
    ]
    wires = [schema.Tripwire("posterior_collapse", "ok", "the rate is 90 nats", 90.0, 1.0)]
    enrichment = [schema.Enrichment(measure, n, n // 20, odds, 0.5) for measure in RANKED]
    found = schema.Results(
        VERSION, config.name, "d" * 64, "e" * 64, "nll", HEADLINE, records, wires, galleries, enrichment, pictures,
        {"Samples": "", "Reconstructs": ""},
    )  # fmt: skip
    schema.write(folder / "results.json", found)
    schema.write(root / f"metrics/cost/evaluate/{config.name}.json", schema.EvaluationCost(900.0, 22.0, FOOTPRINT))


def project(root: Path, runs: int, n: int) -> list[str]:
    random, names = np.random.default_rng(0), []
    for i in range(runs):
        recipe, size = f"recipe_{i // len(SIZES)}", SIZES[i % len(SIZES)]
        settings = {"latent_dim": 256, "width": 64}
        config = RunConfig(f"{recipe}-{size}-0", recipe, size, "full", 0, "vae", settings, TRAIN, "c" * 64)
        config.save(root / "configs")
        train(root, config, random)
        evaluate(root, config, random, n)
        names.append(config.name)
    for size in SIZES:
        sets = [schema.ImageSet(name, "external" if name == HEADLINE else "derived", m) for name, m in OTHERS.items()]
        scores = ("grey", "dark", "png_large", "pixel_gaussian")
        records = [
            Record("auroc", "exact", 0.5, n, images=images.name, score=score) for images in sets for score in scores
        ]
        about = schema.Reference(VERSION, size, "d" * 64, "f" * 64, "", sets, 10_000, records, [])
        schema.write(root / f"data/reference/{size}/results.json", about)
    return names


@contextmanager
def timed(parts: dict[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Adds up the seconds inside functions: title -> the module or class that has the function, and its name."""
    seconds: dict[str, float] = defaultdict(float)

    def wrapped(title: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            started = time.perf_counter()
            try:
                return work(*args, **more)
            finally:
                seconds[title.partition(":")[0]] += time.perf_counter() - started

        return call

    kept = {title: getattr(*place) for title, place in parts.items()}
    for title, (owner, name) in parts.items():
        setattr(owner, name, wrapped(title, kept[title]))
    try:
        yield seconds
    finally:
        for title, (owner, name) in parts.items():
            setattr(owner, name, kept[title])


PARTS = {
    "reading files": (page, "load_run"),
    "ties by paired bootstrap": (size_page, "verdicts"),
    "pictures: grids": (Copier, "copy"),
    "pictures: over time": (Copier, "first_row"),
    "pictures: galleries": (Copier, "strip"),
    "charts as SVG": (plotting, "_svg"),
    "charts as PNG": (plotting, "_png"),
    "table.csv and curves.csv": (page, "write_csv"),
    "the template": (jinja2.Template, "render"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=22)
    parser.add_argument("--faces", type=int, default=19_962, help="test faces with values per image; CelebA has 19,962")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = project(root, args.runs, args.faces)
        wall, cpu = time.perf_counter(), time.process_time()
        with timed(PARTS) as seconds:
            page.build_report(names, root, root / "report")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        files = [path for path in (root / "report").rglob("*") if path.is_file()]
        pictures = sum(path.stat().st_size for path in files if "images" in path.parts)
        index = (root / "report/index.html").stat().st_size
    for title, spent in seconds.items():
        print(f"{spent:7.1f} s  {title}")
    print(f"{wall:7.1f} s  altogether, {cpu:.1f} s of CPU time, for {args.runs} runs")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:7.0f} MB peak memory")
    print(f"{index / 1e6:7.1f} MB index.html, {pictures / 1e6:.1f} MB of pictures beside it")


if __name__ == "__main__":
    main()
