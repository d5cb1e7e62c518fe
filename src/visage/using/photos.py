"""Photographs, arrays and tensors of any size, as the square 8-bit images that a model was trained on."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visage.data.celeba_format import IMAGE_SIZE
from visage.data.collection import IMAGES, MOST_BYTES, find_images
from visage.data.decoding import UNREADABLE, BadImageError, cannot_be_read, centre_square, decode, resize, rgb
from visage.errors import UserError

Photo: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor
Photos: TypeAlias = Photo | Sequence[Photo]
"""One image or several: files, PIL images, arrays or tensors."""
Box = tuple[int, int, int, int]
FILTER = "bicubic"


def square(images: Photos, size: int, *, aligned: Box | None = None) -> NDArray[np.uint8]:
    """The images cut to their centred square and resized with antialiasing, (n, size, size, 3) uint8.

    images: one or a sequence of
        - files: paths of JPEG, PNG or WebP images, turned upright as EXIF says;
        - PIL images;
        - arrays (H, W, 3) or (n, H, W, 3), uint8, or floats in [0, 1];
        - tensors (3, H, W) or (n, 3, H, W), uint8, or floats in [0, 1], as torchvision has them.
    aligned: (left, top, right, bottom) of the box to use in place of the centred square, for CelebA's 178x218 images.

    Raises:
        UserError: a file cannot be read; an array has another shape, type or range; an aligned image another size.
    """
    found = [_resized(image, name, size, aligned) for image, name in _each(images)]
    if not found:
        raise UserError("there is no image: name at least one")
    return np.concatenate(found)


def listed(paths: Iterable[Path]) -> list[Path]:
    """The image files that paths name: files as they are, folders with all images in them and below, sorted.

    Raises:
        UserError: there is no such file or folder, or a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [path / name for name in sorted(find_images(path, "folder of images"))]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path}: there is no such file or folder: correct the path")
    return files


def _each(images: Photos) -> Iterable[tuple[Tensor, str]]:
    """Each image as (H, W, 3) uint8, and what an error calls it."""
    if isinstance(images, str | Path):
        yield _read(Path(images)), str(images)
    elif isinstance(images, Image.Image):
        yield torch.from_numpy(np.array(rgb(images))), "the image"
    elif isinstance(images, np.ndarray):
        yield from _split(torch.from_numpy(np.ascontiguousarray(images)), f"an array {images.shape}", channels=-1)
    elif isinstance(images, Tensor):
        yield from _split(images.detach().cpu(), f"a tensor {tuple(images.shape)}", channels=-3)
    elif isinstance(images, Sequence):
        for image in images:
            yield from _each(image)
    else:
        raise UserError(f"{type(images).__name__} is no image: give files, PIL images, arrays or tensors")


def _read(path: Path) -> Tensor:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes are too many for an image")
        return decode(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file: correct the path") from error
    except BadImageError as error:
        raise UserError(f"{path} {error}: name an image ({', '.join(IMAGES)})") from error
    except UNREADABLE as error:
        raise UserError(f"{path} {cannot_be_read(error)}: name an image that this account may read") from error


def _split(values: Tensor, what: str, channels: int) -> Iterable[tuple[Tensor, str]]:
    """The images of an array or tensor of one or of several."""
    if values.ndim not in (3, 4) or values.shape[channels] != 3:
        shapes = "(H, W, 3) or (n, H, W, 3)" if channels == -1 else "(3, H, W) or (n, 3, H, W)"
        raise UserError(f"{what} is no image in colour: the shape must be {shapes}")
    if not values.numel():
        raise UserError(f"{what} has no pixels")
    if channels == -3:
        values = values.movedim(-3, -1)
    for image in values.reshape(-1, *values.shape[-3:]):
        yield _to_bytes(image, what), what


def _to_bytes(image: Tensor, what: str) -> Tensor:
    if image.dtype == torch.uint8:
        return image.contiguous()
    if not image.is_floating_point():
        raise UserError(f"{what} holds {image.dtype}: convert it to uint8, or to floats in [0, 1]")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        fix = "(x + 1) / 2 takes [-1, 1] there" if low >= -1 and high <= 1 else "divide by 255, or convert it to uint8"
        raise UserError(f"{what} holds floats from {low:.3g} to {high:.3g}, not in [0, 1]: {fix}")
    return (image.float() * 255).round().to(torch.uint8)


def _resized(image: Tensor, name: str, size: int, aligned: Box | None) -> NDArray[np.uint8]:
    height, width, _ = image.shape
    if aligned is None:
        cut = centre_square(image)
    elif (width, height) == IMAGE_SIZE:
        left, top, right, bottom = aligned
        cut = image[top:bottom, left:right].contiguous()
    else:
        wanted = "x".join(map(str, IMAGE_SIZE))
        raise UserError(
            f"{name} is {width}x{height} pixels, and aligned CelebA images are {wanted}: leave out --aligned"
        )
    if cut.shape[0] == size == cut.shape[1]:
        return cut[None].numpy()
    return resize(cut[None], size, FILTER).numpy()
