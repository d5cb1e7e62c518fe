"""The reference and an evaluation at CelebA's full size: time and peak memory of each part, on made-up images.

    python benchmarks/evaluation.py --size 64 --folder /tmp/full

Writes arrays of 162,770 training, 19,867 validation and 19,962 test faces and of 10,000 other images (2 GB at 64x64
pixels, 10 GB at 128x128; kept for the next time), trains the attribute network for a moment, computes the reference and
evaluates a model with the settings of the full scale. The model can do everything, has codes as long as its images, and
takes next to no time: what is measured is all but the network calls. Memory is what the process itself has allocated;
pages of the arrays that the system keeps in memory as long as there is room come on top.
"""

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from visage.attribute_network import make_attribute_networks
from visage.config import AttributeNetworkConfig, EvaluateConfig, ReferenceConfig, RunConfig, TrainConfig
from visage.data.celeba_format import ATTRIBUTES
from visage.evaluation import evaluate as evaluation
from visage.evaluation.evaluate import evaluate
from visage.files import write_json
from visage.maths import noise
from visage.models.base import Batch, GenerativeModel, Phase, Step
from visage.params.sections import at_scale
from visage.reference.build import build_reference

COUNTS = {"train": 162_770, "valid": 19_867, "test": 19_962, "ood/other": 10_000}
PEOPLE = 20
"""Pictures of each person, about as many as in CelebA."""
CHUNK = 1000
CPU = torch.device("cpu")


class Everything(GenerativeModel):
    """A standard normal density of pixels: every capability that costs memory, and next to no computation."""

    paper = "none"
    path = "lerp"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.gain = nn.Parameter(torch.ones(()))

    def players(self) -> dict[str, list[nn.Module]]:
        return {"all": [self]}

    def phases(self) -> list[Phase]:
        return [Phase("all", self.loss)]

    def loss(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return self.gain.square(), {}

    def log_prob(self, x: Tensor, generator: torch.Generator) -> Tensor:
        drawn = noise.rand(len(x), (), generator)
        return -0.5 * (self.gain * x).square().flatten(1).sum(1) + drawn - x[0].numel() * 5.5

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return z.view(-1, 3, self.size, self.size).clamp(-1, 1)

    def reconstruct(self, x: Tensor) -> Tensor:
        return 0.9 * x

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        return noise.randn(n, (3 * self.size**2,), generator)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        small = noise.randn(n, (3, 8, 8), generator)
        return nn.functional.interpolate(small, (self.size, self.size), mode="bilinear").clamp(-1, 1)

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"contrast": x.flatten(1).var(1)}


def write_arrays(folder: Path, size: int) -> None:
    """Write `data/processed`: smooth random images with random attributes, 20 of each person."""
    rng = np.random.default_rng(0)
    home = folder / "processed" / str(size)
    if (folder / "processed" / "card.json").is_file() and home.is_dir():
        return
    (home / "ood").mkdir(parents=True, exist_ok=True)
    (folder / "processed" / "labels").mkdir(exist_ok=True)
    for name, n in COUNTS.items():
        array = np.lib.format.open_memmap(home / f"{name}.npy", "w+", np.uint8, (n, size, size, 3))
        for start in range(0, n, CHUNK):
            small = torch.from_numpy(rng.normal(128, 50, (min(CHUNK, n - start), 3, 8, 8)).astype(np.float32))
            smooth = nn.functional.interpolate(small, (size, size), mode="bilinear").permute(0, 2, 3, 1).numpy()
            smooth += rng.normal(0, 4, smooth.shape).astype(np.float32)
            array[start : start + CHUNK] = smooth.clip(0, 255)
        if "/" not in name:
            np.savez(
                folder / "processed" / "labels" / f"{name}.npz",
                attributes=(rng.random((n, len(ATTRIBUTES))) < 0.3).astype(np.uint8),
                names=np.array(ATTRIBUTES),
                image_id=np.array([f"{i:06}.jpg" for i in range(n)]),
                identity=(np.arange(n) // PEOPLE).astype(np.int32),
                factors=np.zeros((n, 0), np.float32),
                factor_names=np.array([], np.str_),
            )
    card = {
        "source": "folder", "title": "made-up images", "note": "", "crop": [], "filter": "bicubic", "sizes": [size],
        "counts": {split: n for split, n in COUNTS.items() if "/" not in split}, "skipped": [],
        "ood": [{"name": "other", "source": "folder", "title": "others", "note": "", "count": COUNTS["ood/other"]}],
        "hashes": {str(size): {}}, "label_hashes": {}, "data_hash": {str(size): "none"},
    }  # fmt: skip
    write_json(folder / "processed" / "card.json", card)


def allocated() -> float:
    """Gigabytes that this process has allocated."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


class Watch:
    """Wall clock, processor time and peak memory of named parts, which follow each other."""

    def __init__(self) -> None:
        self.name, self.peak, self.stop = "", 0.0, threading.Event()
        self.started = time.perf_counter(), time.process_time()
        self.highest = 0.0

    def begin(self, name: str) -> None:
        """End the part that runs, and print what it took."""
        if self.name:
            wall, cpu = (now - then for now, then in zip(self._now(), self.started, strict=True))
            print(f"{self.name:28} {wall:7.1f} s   {cpu:7.1f} CPU s   {self.peak:5.2f} GB", flush=True)
        self.highest = max(self.highest, self.peak)
        self.name, self.peak, self.started = name, 0.0, self._now()

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the memory all the time."""

        def look() -> None:
            while not self.stop.wait(0.02):
                self.peak = max(self.peak, allocated())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join()


class Bar:
    """In the place of the evaluation's progress bar: tells the watch which part begins."""

    watch: Watch

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self) -> None: ...

    def set_postfix_str(self, part: str) -> None:
        """A part begins."""
        self.watch.begin(f"evaluation: {part}")


def full_settings() -> EvaluateConfig:
    """The settings of the full scale in params.yaml."""
    params = YAML(typ="safe").load(Path("params.yaml"))
    return EvaluateConfig(**at_scale(params["evaluate"], "full"), seed=0)


def attribute_network(data: Path, size: int) -> None:
    """Train the network for a moment, and take the features of all training faces."""
    if not (data / "attribute_network" / str(size)).is_dir():
        config = AttributeNetworkConfig((size,), kimg=2, batch_size=64, lr=0.002, seed=0)
        make_attribute_networks(config, data / "processed", data / "attribute_network", CPU)


def reference(data: Path, size: int) -> None:
    """Compute what depends on no model."""
    config = ReferenceConfig((size,), (f"everything-{size}",))
    build_reference(config, full_settings(), data, data / "reference", CPU)


def evaluation_of_everything(data: Path, size: int) -> None:
    """Evaluate the model, whose samples are too smooth to cover the images: mode collapse is tripped."""
    train = TrainConfig(1, 2, "adam", 0.1, {}, (0.9, 0.99), 0, "constant", 0, 0, 0, 0, True, "fp32", 1, 1)
    run = RunConfig(f"everything-{size}-0", "everything", size, "full", 0, "everything", {}, train, "")
    (data / "out").mkdir(exist_ok=True)
    found = evaluate(Everything(size), run, full_settings(), data, data / "out", CPU)
    tripped = [wire.name for wire in found.results.tripwires if wire.verdict == "tripped"]
    print(f"{len(found.results.records)} records; tripped: {', '.join(tripped) or 'nothing'}")


PARTS = {
    "arrays": write_arrays,
    "attribute network": attribute_network,
    "reference": reference,
    "evaluation": evaluation_of_everything,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="this one alone, in this process")
    args = parser.parse_args()
    if args.part is None:
        for part in PARTS:  # a process for each, as in the pipeline
            subprocess.run([sys.executable, *sys.argv, "--part", part], check=True)
        return
    torch.set_num_threads(args.threads)
    Bar.watch = watch = Watch()
    evaluation.tqdm = Bar
    with watch.watching():
        watch.begin(args.part)
        PARTS[args.part](args.folder, args.size)
        watch.begin("")
    print(f"{args.part}: {watch.highest:.2f} GB at most")


if __name__ == "__main__":
    main()
