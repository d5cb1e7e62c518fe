"""Animations as GIF or MP4 files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from visage.errors import UserError
from visage.files import replacing

WALK_RATE, TRAINING_RATE = 12, 2
"""Images a second."""
SHOWN = 256
"""Faces of a walk are enlarged to about this many pixels."""
WIDEST = 500
"""Sample grids that are several times as wide are made smaller."""
CAPTION = 20
"""Height of the line below each moment of a training."""


def save_film(frames: NDArray[np.uint8], path: Path) -> None:
    """Write (n, S, S, 3) images one after the other, enlarged, in a loop."""
    factor = max(1, SHOWN // frames.shape[1])
    larger = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    _save([Image.fromarray(frame) for frame in larger], path, WALK_RATE)


def save_pictures(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures of equal size one after the other, slowly; the last one stays longer."""
    _save([*pictures, *[pictures[-1]] * (2 * TRAINING_RATE)], path, TRAINING_RATE)


def training_pictures(trained: Path) -> list[Image.Image]:
    """The sample grids of a training in order, each with a line that says how many images had been shown.

    Raises:
        UserError: the folder holds none.
    """
    files = sorted((trained / "samples").glob("*.png"))
    if not files:
        raise UserError(f"{trained / 'samples'} holds no pictures of the training: this model draws none")
    shown = _images_shown(trained / "history.csv")
    return [_captioned(file, shown) for file in files]


def _images_shown(history: Path) -> float:
    """Thousands of images behind one step."""
    if not history.is_file():
        return 0.0
    with history.open(encoding="utf-8", newline="") as lines:
        last = list(csv.DictReader(lines))[-1:]
    return float(last[0]["kimg"]) / float(last[0]["step"]) if last and float(last[0]["step"]) else 0.0


def _captioned(file: Path, kimg_of_step: float) -> Image.Image:
    step = int(file.stem)
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    if (shrink := picture.width // WIDEST) > 1:
        picture = picture.reduce(shrink)
    canvas = Image.new("RGB", (picture.width, picture.height + CAPTION), "white")
    canvas.paste(picture)
    words = f"step {step:,}" + (f", {step * kimg_of_step:,.1f} thousand images" if kimg_of_step else "")
    ImageDraw.Draw(canvas).text((6, picture.height + 3), words, fill="black", font=ImageFont.load_default(13))
    return canvas


def _save(frames: Sequence[Image.Image], path: Path, rate: int) -> None:
    with replacing(path) as temporary:
        if path.suffix.lower() == ".gif":
            first, *rest = frames
            first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=1000 // rate, loop=0)
        else:
            _save_video(frames, temporary, rate)


def _save_video(frames: Sequence[Image.Image], path: Path, rate: int) -> None:
    try:
        from imageio.v3 import imwrite
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise UserError(f"{path.suffix} files need ffmpeg: `uv sync --extra video`, or write a .gif") from error
    get_ffmpeg_exe()
    even = [np.asarray(frame)[: frame.height // 2 * 2, : frame.width // 2 * 2] for frame in frames]  # as H.264 wants
    imwrite(path, np.stack(even), plugin="FFMPEG", fps=rate, codec="libx264", macro_block_size=2, quality=8)
