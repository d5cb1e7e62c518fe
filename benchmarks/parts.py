"""Where the time of preprocessing and of evaluations goes, in parts.

    python benchmarks/parts.py preprocess                     # needs data/raw/faces: `dvc repro download`
    python benchmarks/parts.py evaluate ddpm-32-0 vae-64-0    # trained runs, all where none is named: `make repro`

preprocess    the CPU time of some JPEGs' way to arrays of 32 and 64 pixels, in a single thread
evaluate      the seconds of every part of an evaluation, as its progress bar names them, and the share of
              them that forward passes of networks take; nothing is kept
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import simplejpeg
import torch
from preprocess import ours as preprocessed
from ratios import inside_networks, seconds

from visage.config import EvaluateConfig, RunConfig
from visage.data import celeba_files
from visage.data import preprocess as module
from visage.data.collection import Collection
from visage.evaluation import evaluate as evaluation
from visage.evaluation.evaluate import evaluate
from visage.training.devices import start_device
from visage.training.outputs import load_trained


@contextmanager
def timed(parts: dict[str, float], part: str, owner: Any, name: str) -> Iterator[None]:
    """Add the CPU time that a function takes to a part."""
    function: Callable[..., object] = getattr(owner, name)

    def wrapper(*args: object, **options: object) -> object:
        started = time.process_time()
        try:
            return function(*args, **options)
        finally:
            parts[part] += time.process_time() - started

    with patch.object(owner, name, wrapper):
        yield


def preprocessing(root: Path, count: int) -> dict[str, float]:
    """CPU seconds of the parts of preprocessing the first images of a folder or an archive."""
    faces = celeba_files.read(root)
    count = min(count, len(faces.members))
    parts: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder, patch.object(module, "cores", lambda: 1):
        warm_up(faces, Path(folder))
        started = time.process_time()
        with (
            timed(parts, "reading and decoding", module, "_decode"),
            timed(parts, "decoding", simplejpeg, "decode_jpeg"),
            timed(parts, "resizing", module, "resize"),
        ):
            preprocessed(faces, count, Path(folder))
        whole = time.process_time() - started
    reading = parts.pop("reading and decoding") - parts["decoding"]
    return {"reading files": reading, **parts, "cutting, copying": whole - reading - sum(parts.values())}


def warm_up(faces: Collection, folder: Path) -> None:
    preprocessed(faces, min(256, len(faces.members)), folder)


class Bar:
    """In the place of the evaluation's progress bar: notes when a part begins."""

    parts: dict[str, float]

    def __init__(self, **_: object) -> None:
        self.name, self.started = "", time.perf_counter()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.set_postfix_str("")

    def update(self) -> None: ...

    def set_postfix_str(self, name: str) -> None:
        """A part begins, and with it the last one ends."""
        if self.name:
            self.parts[self.name] = time.perf_counter() - self.started
        self.name, self.started = name, time.perf_counter()


def evaluating(run: str, device: torch.device) -> tuple[dict[str, float], float]:
    """Seconds of the parts of a run's evaluation, and the share of a second one that forward passes take."""
    config = RunConfig.load(run)
    model = load_trained(Path("runs") / run / "train", config).to(device).to(memory_format=torch.channels_last)
    Bar.parts = {}
    measure = partial(evaluate, model, config, EvaluateConfig.load(), Path("data"))
    with tempfile.TemporaryDirectory() as folder, patch.object(evaluation, "tqdm", Bar):
        measure(Path(folder), device)
    with tempfile.TemporaryDirectory() as folder, inside_networks() as inside:  # which slows small networks down
        whole = seconds(lambda: measure(Path(folder), device))
    return Bar.parts, inside[0] / whole


def print_row(name: str, parts: dict[str, float], first: bool, **shares: float) -> None:
    """A line of a Markdown table: seconds, percent of them, and other shares."""
    whole = sum(parts.values())
    columns = {part: took / whole for part, took in parts.items()} | shares
    if first:
        print(f"| what | seconds | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    percent = " | ".join(f"{100 * share:.0f}" for share in columns.values())
    print(f"| {name} | {whole:.1f} | {percent} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("preprocess", "evaluate"))
    parser.add_argument("runs", nargs="*", help="trained runs; all where none is named")
    parser.add_argument("--root", type=Path, default=Path("data/raw/faces"), help="JPEGs of CelebA, or drawn ones")
    parser.add_argument("--images", type=int, default=2000, help="to preprocess")
    asked = parser.parse_args()
    if asked.what == "preprocess":
        print_row(f"{asked.images} JPEGs", preprocessing(asked.root, asked.images), first=True)
        return
    runs = asked.runs or sorted(folder.name for folder in Path("runs").iterdir())
    device = start_device()
    for run in runs:
        parts, networks = evaluating(run, device)
        print_row(run, parts, first=run == runs[0], networks=networks)


if __name__ == "__main__":
    main()
