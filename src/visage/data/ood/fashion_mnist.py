"""Fashion-MNIST's test images (Xiao, Rasul and Vollgraf, 2017): clothes, 28x28 and grey."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.data import idx
from visage.data.download import fetch_set
from visage.data.request import Found, Request

TITLE = "Fashion-MNIST"
MD5 = "bef4ecab320f06d8554ea6380940ec79"
"""MD5 of the packed file as published."""


def check(root: str | None) -> None:
    """There may be a root or none."""


def get(request: Request) -> Found:
    """Find the file in the root, in torchvision's folders or loose, packed or not; download it where there is none."""
    if request.root is not None:
        return Found(request.root, "test images" + ", not the published file" * differs(idx.find(request.root)))
    from torchvision.datasets import FashionMNIST  # for its list of mirrors; 5 s of imports that few need

    urls = [f"{base.rstrip('/')}/{idx.IMAGES}" for base in FashionMNIST.mirrors]
    fetch_set(TITLE, urls, request.arriving / idx.IMAGES, MD5)
    return Found(request.arriving, "test images")


def images(folder: Path) -> NDArray[np.uint8]:
    """(N, 28, 28) uint8."""
    return idx.read(idx.find(folder))


def differs(path: Path) -> bool:
    """Whether a packed file is another one than was published."""
    return path.suffix == ".gz" and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != MD5
