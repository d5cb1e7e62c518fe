"""configs/download.json -> data/raw: draw, find or download the faces and the other images."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.config import DownloadConfig
from visage.data.gather import gather
from visage.stage import run_stage


def main() -> None:
    raw = gather(DownloadConfig.load())
    counts = ", ".join(f"{count:,} {split}" for split, count in raw.counts.items())
    print(f"{raw.source} ({raw.note}): {counts}", *raw.remarks, sep="\n")
    for images in raw.ood:
        print(f"{images.name}: {images.count:,} images ({images.note})")


if __name__ == "__main__":
    run_stage(main, cost=Path("data/cost/download.json"))
