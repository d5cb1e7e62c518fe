import gzip
import hashlib
import struct

import numpy as np
import pytest

from visage.data.ood.drawn_clothes import check, draw_clothes, images
from visage.errors import UserError

IMAGES = "t10k-images-idx3-ubyte.gz"
LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clothes")
    draw_clothes(folder, images=500, seed=3)
    return folder


def read(folder):
    data = gzip.decompress((folder / IMAGES).read_bytes())
    assert struct.unpack(">IIII", data[:16]) == (0x803, 500, 28, 28)
    return np.frombuffer(data, np.uint8, offset=16).reshape(500, 28, 28)


def test_files_are_idx(folder):
    images = read(folder)
    labels = gzip.decompress((folder / LABELS).read_bytes())
    assert struct.unpack(">II", labels[:8]) == (0x801, 500)
    assert np.bincount(list(labels[8:])).tolist() == [50] * 10
    assert len({image.tobytes() for image in images}) == 500


def test_the_images_are_the_same_on_every_machine(folder):
    assert hashlib.sha256(read(folder).tobytes()).hexdigest()[:16] == "2a433114f9be6a31"


def test_statistics_are_those_of_fashion_mnist(folder):
    images = read(folder)
    assert np.mean(images == 0) == pytest.approx(0.5, abs=0.06)
    assert images.mean() == pytest.approx(73, abs=15)
    for label in range(10):
        some = images[label::10]
        assert 0.25 < np.mean(some == 0) < 0.9
        columns = np.any(some > 0, axis=1).sum(1)
        assert columns.mean() > (10 if label in (1, 3) else 18)


def test_bytes_follow_the_seed(folder, tmp_path):
    draw_clothes(tmp_path / "same", images=500, seed=3)
    draw_clothes(tmp_path / "other", images=500, seed=4)
    assert (tmp_path / "same" / IMAGES).read_bytes() == (folder / IMAGES).read_bytes()
    assert (tmp_path / "same" / LABELS).read_bytes() == (folder / LABELS).read_bytes()
    assert (tmp_path / "other" / IMAGES).read_bytes() != (folder / IMAGES).read_bytes()


def test_the_images_are_read_as_they_were_drawn(folder):
    np.testing.assert_array_equal(images(folder), read(folder))


def test_a_root_is_refused():
    check(None)
    with pytest.raises(UserError, match=r"ood: drawn_clothes takes no root, got /pictures: leave it empty"):
        check("/pictures")
