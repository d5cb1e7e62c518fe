"""The README's figures of samples, from the pictures of evaluations: eight of every model, none of them picked.

python docs/figures/samples.py docs/figures/samples.png            # in the project's folder, after `make repro`
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from visage import params as parameters

PICTURES = {"samples.png": (0,), "inpainting.png": (1, 2), "translations.png": (0, 1)}
"""The first of these pictures that an evaluation has -> the rows of it that are shown."""
TILES, STORED, GAP = 8, 96, 2
"""Images in a row of such a picture, their side in pixels, and the pixels between them."""
SIDE, LABEL, MARGIN = 52, 164, 10
"""Of the figure: side of an image, width of a name, space around them."""


def strip(run: Path) -> Image.Image | None:
    """The rows of a run's picture; None where it has no such picture."""
    name = next((name for name in PICTURES if (run / "evaluate" / name).is_file()), None)
    if name is None:
        return None
    picture, rows = Image.open(run / "evaluate" / name).convert("RGB"), PICTURES[name]
    found = Image.new("RGB", (TILES * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    for i, row in enumerate(rows):
        for j in range(TILES):
            left, top = j * (STORED + GAP), row * (STORED + GAP)
            tile = picture.crop((left, top, left + STORED, top + STORED)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            found.paste(tile, (j * (SIDE + GAP), i * (SIDE + GAP)))
    return found


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    labels = [label for label in parameters.load(Path("params.yaml")).runs if label.endswith("-32")]
    strips = {label: found for label in labels if (found := strip(Path("runs") / f"{label}-0")) is not None}
    ordered = sorted(strips, key=lambda label: strips[label].height)  # two rows come last
    half = -(-sum(found.height + MARGIN for found in strips.values()) // 2)
    width, font = LABEL + TILES * (SIDE + GAP) + MARGIN, ImageFont.load_default(15)
    figure = Image.new("RGB", (2 * width, half + 4 * SIDE), "white")
    draw, left, top, lowest = ImageDraw.Draw(figure), 0, MARGIN, 0
    for label in ordered:
        if not left and top + strips[label].height > half + MARGIN:
            left, top = width, MARGIN
        draw.text((left + 4, top + SIDE // 2), label.removesuffix("-32"), fill="#222", font=font, anchor="lm")
        figure.paste(strips[label], (left + LABEL, top))
        top += strips[label].height + MARGIN
        lowest = max(lowest, top)
    figure.crop((0, 0, 2 * width, lowest)).quantize(96).save(out, optimize=True)


if __name__ == "__main__":
    main()
