"""Memory does not grow with the number of images, but by what is known of each: pixels stay in mapped files."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.conftest import jpeg
from tests.small_data import SETTINGS, write_processed
from visage.config import PreprocessConfig
from visage.data.arrays import load_card, load_faces
from visage.data.collection import Files
from visage.data.preprocess import write_files
from visage.measures.image_statistics import PixelGaussian
from visage.reference.images import choose_images
from visage.training.feed import Feed

SIZE = 32
FEW, MANY = 600, 2400
MOST = 1024
"""Bytes for one more image: a third of its pixels at this size, and several times its labels."""
CPU = torch.device("cpu")


def peak(work):
    """The most bytes that Python and NumPy held for it; pages of mapped files are not among them."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    """`data/processed` with few, and with many images in each split."""
    homes = {}
    for n in (FEW, MANY):
        home = homes[n] = tmp_path_factory.mktemp(f"processed-{n}")
        images = np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)
        write_processed(home, dict.fromkeys(("train", "valid", "test"), images), {"other": images}, size=SIZE)
    return homes


def feed(home):
    train = load_faces("train", SIZE, home)
    batches = Feed(train.images, train.attributes, batch_size=16, flip=True, seed=0, device=CPU)
    for _ in range(len(train.images) // 16):
        batches.next()


def evaluation_images(home):
    choose_images(SIZE, replace(SETTINGS, ood_images=16), load_card(home), home)


def statistics(home):
    PixelGaussian.fit(load_faces("train", SIZE, home).images)


@pytest.mark.parametrize("work", [feed, evaluation_images, statistics])
def test_what_reads_the_arrays_holds_some_of_the_images_at_a_time(work, processed):
    work(processed[FEW])  # what is imported or made once
    few, many = (peak(lambda home=home: work(home)) for home in processed.values())
    assert many - few < MOST * (MANY - FEW)


def test_preprocessing_holds_some_of_the_images_at_a_time(tmp_path):
    (tmp_path / "faces").mkdir()
    names = [f"{i:04}.jpg" for i in range(MANY // 4)]
    for name in names:
        (tmp_path / "faces" / name).write_bytes(jpeg(1, (SIZE, SIZE)))
    files = Files(tmp_path / "faces", names, aligned=False, fingerprint="")
    config = PreprocessConfig((SIZE,), (0, 0, 1, 1), "bicubic", 0.0, 0, ())
    few, many = (
        peak(lambda n=n: write_files(files, {"train": np.arange(n)}, config, tmp_path / str(n)))
        for n in (FEW // 4, MANY // 4)
    )
    assert many - few < MOST * (MANY - FEW) // 4
