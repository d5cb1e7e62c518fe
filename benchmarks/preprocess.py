"""Preprocessing against the loop that most projects have: Pillow and torchvision.transforms, image by image.

    python benchmarks/preprocess.py --root data/raw/faces

Both read the same JPEGs of CelebA (or drawn ones) from the same archive or folder and make the same sizes with the same
crop and filter. Rounds are interleaved, and the median of their ratios is printed: by wall time (all cores against the
loop's one) and by CPU time (work for work).
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms as T

from visage.config import PreprocessConfig
from visage.data import celeba_files
from visage.data.collection import Collection, opened
from visage.data.preprocess import write_files

CROP = (15, 40, 163, 188)
SIZES = (32, 64)


def peer(faces: Collection, count: int, out: Path) -> None:
    left, top, right, bottom = CROP
    for size in SIZES:  # one pass per size
        resize = T.Resize((size, size), interpolation=T.InterpolationMode.BICUBIC)
        transform = T.Compose(
            [T.Lambda(lambda image: T.functional.crop(image, top, left, bottom - top, right - left)), resize]
        )
        with opened(faces.path) as read:
            rows = [
                np.asarray(transform(Image.open(io.BytesIO(read(name))).convert("RGB")))
                for name in faces.members[:count]
            ]
        np.save(out / f"{size}.npy", np.stack(rows))


def ours(faces: Collection, count: int, out: Path) -> None:
    config = PreprocessConfig(SIZES, CROP, "bicubic", max_bad_share=0, limit=0, labels=())
    rows = {"train": np.arange(count), "valid": np.arange(0), "test": np.arange(0)}
    write_files(faces, rows, config, out)


def timed(work: Callable[[Collection, int, Path], None], faces: Collection, count: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        work(faces, count, Path(folder))
        return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/raw/faces"), help="CelebA in any layout")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    faces = celeba_files.read(args.root)
    count = min(args.images, len(faces.members))
    for work in (ours, peer):
        timed(work, faces, min(count, 256))
    ratios: list[tuple[float, float]] = []
    for _ in range(args.rounds):
        mine, theirs = timed(ours, faces, count), timed(peer, faces, count)
        ratios.append((theirs[0] / mine[0], theirs[1] / mine[1]))
        print(
            f"ours {count / mine[0]:6.0f} img/s ({count / mine[1]:6.0f} per CPU second)   "
            f"loop {count / theirs[0]:6.0f} img/s ({count / theirs[1]:6.0f})   "
            f"ratio {ratios[-1][0]:.1f} wall, {ratios[-1][1]:.1f} CPU"
        )
    wall, cpu = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"median of {args.rounds}: {wall:.1f} times as fast by wall time, {cpu:.1f} times by CPU time")


if __name__ == "__main__":
    main()
