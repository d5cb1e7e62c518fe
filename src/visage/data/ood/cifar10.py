"""CIFAR-10's test images (Krizhevsky, 2009): photographs of animals and vehicles, 32x32 in colour.

Its files are pickles. torchvision compares each with a published MD5 before it opens any, and so opens no others.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.data.download import fetch_set
from visage.data.request import Found, Request
from visage.errors import UserError

TITLE = "CIFAR-10"


def check(root: str | None) -> None:
    """There may be a root or none."""


def get(request: Request) -> Found:
    """Find torchvision's folder in the root, or download it where there is none."""
    if request.root is not None:
        return Found(request.root, "test images")
    from torchvision.datasets import CIFAR10  # 5 s of imports that few need
    from torchvision.datasets.utils import extract_archive

    archive = request.arriving / CIFAR10.filename
    if not _is_whole(request.arriving):
        fetch_set(TITLE, [CIFAR10.url], archive, CIFAR10.tgz_md5)
        extract_archive(str(archive), str(request.arriving), remove_finished=True)
    return Found(request.arriving, "test images")


def images(folder: Path) -> NDArray[np.uint8]:
    """(N, 32, 32, 3) uint8."""
    from torchvision.datasets import CIFAR10

    root = folder.parent if folder.name == CIFAR10.base_folder else folder
    if not _is_whole(root):
        raise UserError(
            f"ood: cifar10: {root} holds no {CIFAR10.base_folder}/ as it was published: put it there, unpacked"
        )
    return np.ascontiguousarray(CIFAR10(root, train=False).data)


def _is_whole(root: Path) -> bool:
    """Whether torchvision finds all files of the data set and accepts their MD5s."""
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(root, train=False)
    except RuntimeError:
        return False
    return True
