"""The strips of docs/gallery.md, from the pictures of evaluations: the first images of every run, none of them picked.

python docs/figures/gallery.py docs/figures/gallery            # in the project's folder, after `make repro`
"""

import argparse
from pathlib import Path

from PIL import Image

from visage import params as parameters

PICTURES = {"samples.png": 2, "inpainting.png": 3, "translations.png": 2, "reconstructions.png": 2}
"""The first of these pictures that an evaluation has -> how many of its rows are shown."""
TILES, GAP, SIDE = 8, 2, 64
"""Images in a row of such a picture, the pixels between them, and their side in a strip."""


def strip(evaluation: Path) -> Image.Image:
    """The first rows of the picture of an evaluation."""
    name = next(name for name in PICTURES if (evaluation / name).is_file())
    picture, rows = Image.open(evaluation / name).convert("RGB"), PICTURES[name]
    stored = (picture.width - (TILES - 1) * GAP) // TILES
    size = (TILES * (SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP)
    found = Image.new("RGB", size, "white")
    for row in range(rows):
        for column in range(TILES):
            left, top = column * (stored + GAP), row * (stored + GAP)
            tile = picture.crop((left, top, left + stored, top + stored))
            found.paste(
                tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * (SIDE + GAP), row * (SIDE + GAP))
            )
    return found


def main() -> None:
    """Write a strip for each run of params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    shipped = parameters.load(Path("params.yaml"))
    for label in shipped.runs:
        strip(Path("runs") / f"{label}-{shipped.seeds[0]}" / "evaluate").save(out / f"{label}.jpg", quality=85)


if __name__ == "__main__":
    main()
