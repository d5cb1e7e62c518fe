"""SVHN's test images (Netzer et al., 2011): house numbers cut from photographs of streets, 32x32 in colour."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visage.data.download import fetch_set
from visage.data.request import Found, Request
from visage.errors import UserError

TITLE = "SVHN"


def check(root: str | None) -> None:
    """There may be a root or none."""


def get(request: Request) -> Found:
    """Find torchvision's file in the root, or download it where there is none."""
    if request.root is not None:
        return Found(request.root, "test images")
    from torchvision.datasets import SVHN  # 5 s of imports that few need

    url, file, md5 = SVHN.split_list["test"]
    fetch_set(TITLE, [url], request.arriving / file, md5)
    return Found(request.arriving, "test images")


def images(folder: Path) -> NDArray[np.uint8]:
    """(N, 32, 32, 3) uint8."""
    from torchvision.datasets import SVHN

    try:
        data = SVHN(folder, split="test").data  # (N, 3, 32, 32)
    except RuntimeError as error:  # the file is missing, or its MD5 is another one
        file = SVHN.split_list["test"][1]
        raise UserError(f"ood: svhn: {folder} holds no {file} as it was published: put it there") from error
    return np.ascontiguousarray(data.transpose(0, 2, 3, 1))
