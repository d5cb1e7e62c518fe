import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from visage.data import idx
from visage.data.ood import fashion_mnist
from visage.errors import UserError

NAME = "t10k-images-idx3-ubyte"
IMAGES = np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28)


def packed_idx(images: np.ndarray) -> bytes:
    return bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes() + images.tobytes()


@pytest.mark.parametrize("folder", ["", "raw", "FashionMNIST/raw", "fashion-mnist", "data/fashion"])
@pytest.mark.parametrize("name", [f"{NAME}.gz", NAME, "t10k-images.idx3-ubyte", "t10k-images.idx3-ubyte.gz"])
@pytest.mark.parametrize("packed", [True, False])
def test_images_are_found_and_read(tmp_path, folder, name, packed):
    """Packed or not, whatever the name says: some programs unpack a file and leave its name."""
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(packed_idx(IMAGES)) if packed else packed_idx(IMAGES))
    np.testing.assert_array_equal(fashion_mnist.images(tmp_path), IMAGES)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        gzip.compress(packed_idx(IMAGES))[:-9],
        gzip.compress(packed_idx(IMAGES)[:-1]),
        gzip.compress(packed_idx(IMAGES)[:9]),
        gzip.compress(packed_idx(IMAGES[:, :14])),
        gzip.compress(b"\0\0\x08\x01" + packed_idx(IMAGES)[4:]),
        gzip.compress(packed_idx(IMAGES) + bytes(10**8)),
        gzip.compress(packed_idx(IMAGES[:0])[:4] + b"\xff" * 4 + packed_idx(IMAGES)[8:]),
    ],
    ids=[
        "empty",
        "a page",
        "cut off",
        "a pixel short",
        "a header alone",
        "other shape",
        "other type",
        "a bomb",
        "many",
    ],
)
def test_what_is_no_whole_file_is_refused(tmp_path, content):
    path = tmp_path / f"{NAME}.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{NAME}.gz .*copy or download it again"):
        idx.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"ood: .* holds no {NAME}.gz, packed or not, nor do raw/"):
        idx.find(tmp_path)


def test_checksum_is_torchvision_s():
    from torchvision.datasets import FashionMNIST

    assert (idx.IMAGES, fashion_mnist.MD5) in FashionMNIST.resources


REAL = Path(os.environ.get("VISAGE_REAL_DATA", "/nonexistent"))


@pytest.mark.skipif(not (REAL / "FashionMNIST").is_dir(), reason="VISAGE_REAL_DATA names no folder with FashionMNIST/")
def test_the_published_file_is_read():
    assert not fashion_mnist.differs(idx.find(REAL))
    assert fashion_mnist.images(REAL).shape == (10_000, 28, 28)
