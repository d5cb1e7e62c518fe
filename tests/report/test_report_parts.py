import fake_runs
import numpy as np
import pytest

from visage.pictures import grid, save
from visage.report import images, wording
from visage.report.figures import POINTS, looks, thin
from visage.report.load import load_run


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_grids_are_cut_back_into_their_images(tmp_path, size):
    tiles = np.random.default_rng(0).integers(0, 256, (10, size, size, 3), dtype=np.uint8)
    save(grid(tiles, 5), tmp_path / "grid.png")
    assert np.array_equal(images.cut(tmp_path / "grid.png", size).reshape(10, size, size, 3), tiles)


def test_other_pictures_are_inlined_whole(tmp_path):
    save(grid(np.zeros((1, 50, 50, 3), np.uint8), 1), tmp_path / "other.png")
    assert images.cut(tmp_path / "other.png", 32) is None
    assert (images.inline(tmp_path / "other.png", 32).width, images.gallery(tmp_path / "other.png", 32, 1)) == (
        100,
        None,
    )


def test_gallery_pairs_each_face_with_its_reconstruction(tmp_path):
    shades = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    save(grid(fake_runs.interleave(shades[:10], shades[10:], 5), 5), tmp_path / "failures.png")
    faces = images.gallery(tmp_path / "failures.png", 16, 10)
    expected = [images.join(np.stack([shades[i], shades[10 + i]])[None]) for i in range(10)]
    assert faces == expected


def test_over_time_keeps_the_first_and_the_last(tmp_path):
    snapshots = []
    for i in range(25):
        path = tmp_path / f"{i:07d}.png"
        save(grid(np.full((16, 16, 16, 3), i, np.uint8), 8), path)
        snapshots.append((float(i), path))
    strips = images.over_time(snapshots, 16)
    assert [kimg for kimg, _ in strips] == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert strips[0][1].width == 8 * 17 - 1
    assert images.over_time([], 16) == []


def test_thin_keeps_the_mean_and_short_curves():
    y = np.random.default_rng(0).normal(size=900)
    thinned = thin(np.arange(900.0), y)[1]
    assert len(thinned) == POINTS
    assert thinned.mean() == pytest.approx(y.mean())
    assert np.array_equal(thin(np.arange(5.0), y[:5])[1], y[:5])


def test_a_recipe_has_one_colour_and_a_size_one_dash(tmp_path):
    fake_runs.project(tmp_path, [])
    names = ["vae-16", "dcgan-16", "vae-32", "dcgan-32"]
    for name in names:
        fake_runs.configure(tmp_path, name)
    look = looks([load_run(name, tmp_path) for name in names])
    assert look["vae-16"].color == look["vae-32"].color != look["dcgan-16"].color == look["dcgan-32"].color
    assert look["vae-16"].dash == look["dcgan-16"].dash != look["vae-32"].dash == look["dcgan-32"].dash


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.significant(0.012345), "0.01235"),
        (wording.significant(12345.678), "12\u202f346"),
        (wording.significant(-2.5), "−2.500"),
        (wording.significant(1e-9), "1.000e−09"),
        (wording.significant(0), "0"),
        (wording.share(0.1934), ".193"),
        (wording.share(1.0), "1.000"),
        (wording.count(1_234_567), "1.23\u202fM"),
        (wording.count(950), "950"),
        (wording.thousands(64.0), "64"),
        (wording.thousands(7680.5), "7\u202f680.5"),
        (wording.duration(4.2), "4.2\u202fs"),
        (wording.duration(312.4), "5\u202fmin 12\u202fs"),
        (wording.duration(7800), "2\u202fh 10\u202fmin"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected
