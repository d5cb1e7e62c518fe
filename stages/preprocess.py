"""data/raw -> data/processed: one uint8 array per size and split, labels, and the card that says what they are."""

from visage.config import PreprocessConfig
from visage.data.arrays import PROCESSED
from visage.data.preprocess import preprocess
from visage.data.raw import RAW
from visage.files import read_json
from visage.stage import run_stage


def main() -> None:
    preprocess(PreprocessConfig.load(), RAW, PROCESSED)
    card = read_json(PROCESSED / "card.json")
    counts = ", ".join(f"{count:,} {name}" for name, count in card["counts"].items())
    print(f"{counts}; {len(card['skipped'])} skipped")


if __name__ == "__main__":
    run_stage(main)
