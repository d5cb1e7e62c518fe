"""One image file into pixels: decoded, upright, in RGB; cut to a square; resized."""

import io
import re
import zipfile
import zlib
from contextlib import suppress

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

JPEG = b"\xff\xd8\xff"
EXIF = b"Exif\0\0"
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
"""Of an image that is decoded, a quarter of a gigabyte of colours: Pillow warns of larger ones, which may be bombs."""
ADDRESS = re.compile(r" ?<[^<>]* object at 0x[0-9a-fA-F]+>")
"""Where Pillow names what it read from: another text every time."""
UNREADABLE = (
    *(OSError, EOFError, KeyError, ValueError, SyntaxError, Image.DecompressionBombError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError),  # a part of an archive: RuntimeError where it is encrypted
)
"""What reading and decoding a broken image raises (Pillow: OSError, ValueError, SyntaxError, EOFError)."""


class BadImageError(Exception):
    """This image cannot be used; the message says why."""


def decode(data: bytes) -> Tensor:
    """The image in a file's bytes, (H, W, 3) uint8 RGB: upright as EXIF says, what is transparent on white.

    Raises:
        BadImageError: it cannot be read, or has too many pixels.
    """
    try:
        # libjpeg-turbo knows neither EXIF's orientation nor every colour space; Pillow does, and says what is wrong
        if data.startswith(JPEG) and EXIF not in data:
            with suppress(ValueError):
                _refuse_too_many_pixels(*simplejpeg.decode_jpeg_header(data)[:2])
                return torch.from_numpy(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        with Image.open(io.BytesIO(data)) as image:
            _refuse_too_many_pixels(image.height, image.width)
            return torch.from_numpy(np.array(rgb(ImageOps.exif_transpose(image))))
    except UNREADABLE as error:
        raise cannot_be_read(error) from error


def cannot_be_read(error: Exception) -> BadImageError:
    """What to say of an image whose reading or decoding raised one of `UNREADABLE`; the same words every time."""
    reason = " ".join(ADDRESS.sub("", str(error)).split())
    return BadImageError(f"cannot be read: {reason[:200]}")


def _refuse_too_many_pixels(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise BadImageError(f"has {width}x{height} pixels, more than {MOST_PIXELS:,}")


def rgb(image: Image.Image) -> Image.Image:
    """RGB, what is transparent on white."""
    if image.mode.startswith("I"):  # 16 bits of grey, of which Pillow would keep the lower ones
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def centre_square(image: Tensor) -> Tensor:
    """The largest square in the middle of an image (H, W, 3)."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side].contiguous()


def resize(images: Tensor, size: int, filter: str) -> Tensor:
    """Antialiased resize of (N, H, W, 3) uint8 to (N, size, size, 3) uint8; filter: "bicubic" or "bilinear"."""
    channels_last = images.permute(0, 3, 1, 2)  # a view: this memory order is what makes the uint8 kernel fast
    resized: Tensor = F.interpolate(channels_last, (size, size), mode=filter, antialias=True)
    return resized.permute(0, 2, 3, 1)
