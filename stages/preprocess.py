"""data/raw -> data/processed: one uint8 array per size and split, labels, and the card that says what they are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this copy's code, whatever is installed

from visage.config import PreprocessConfig
from visage.data.arrays import PROCESSED, load_card
from visage.data.preprocess import preprocess
from visage.data.raw import RAW
from visage.stage import run_stage


def main() -> None:
    preprocess(PreprocessConfig.load(), RAW, PROCESSED)
    card = load_card()
    counts = card.counts | {images.name: images.count for images in card.ood}
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()) + f"; {len(card.skipped)} skipped")


if __name__ == "__main__":
    run_stage(main, cost=Path("data/cost/preprocess.json"))
