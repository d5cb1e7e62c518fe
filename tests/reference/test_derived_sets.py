import numpy as np
import pytest
from PIL import Image

from visage.measures.intervals import auroc
from visage.measures.table import SETS
from visage.reference.build import RARE_SET
from visage.reference.derived_sets import GRID, derive

SIZE = 32
MEAN = np.linspace(0, 255, SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
STD = np.full_like(MEAN, 5.0)


@pytest.fixture(scope="module")
def faces():
    """Planes of colour, no two of a slope, with a white corner."""
    rng = np.random.default_rng(0)
    slopes, t = rng.uniform(-3, 3, (2, 40, 1, 1, 3)), np.arange(SIZE) - 15.5
    images = (128 + slopes[0] * t[:, None, None] + slopes[1] * t[:, None]).round().astype(np.uint8)
    images[:, 4:8, 4:8] = 255
    return images


def derived(images, seed=0, mean=MEAN, std=STD):
    return derive(images, train_mean=mean, train_std=std, seed=seed)


@pytest.fixture(scope="module")
def sets(faces):
    return derived(faces)


def histogram(images):
    """Of each channel of each image, (3 n, 256)."""
    return np.array([np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(images, -1, 1).reshape(-1, SIZE, SIZE)])


def test_every_set_is_there_with_its_words(sets, faces):
    assert [*sets, RARE_SET] == list(SETS)
    for name, images in sets.items():
        assert (images.dtype, images.shape) == (faces.dtype, faces.shape), name
        assert images.flags.c_contiguous, name
        assert not np.shares_memory(images, faces), name
    for name, words in SETS.items():
        assert words.title, name
        assert words.isolates, name


def test_an_image_does_not_depend_on_how_many_there_are(sets, faces):
    for name, images in derived(faces[:7]).items():
        assert (images == sets[name][:7]).all(), name


def test_another_seed_changes_what_is_random_alone(sets, faces):
    changed = {name for name, images in derived(faces, seed=1).items() if (images != sets[name]).any()}
    assert changed == {"constant", "mean_face", "noise", "pixel_noise", "shuffled"}


def test_a_mirrored_image_has_the_same_statistics(sets, faces):
    energy = [(images.astype(np.int64) ** 2).sum((1, 2, 3)) for images in (faces, sets["hflip"])]
    assert auroc(*energy) == 0.5
    assert (sets["hflip"][:, :, 0] == faces[:, :, -1]).all()
    assert (derived(sets["hflip"])["hflip"] == faces).all()


def test_upside_down_and_shuffled_keep_every_value(sets, faces):
    assert (histogram(sets["vflip"]) == histogram(faces)).all()
    assert (histogram(sets["shuffled"]) == histogram(faces)).all()
    assert (sets["vflip"][:, 0] == faces[:, -1]).all()
    assert (sets["shuffled"] != faces).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("size", [16, 32])
def test_shuffling_moves_whole_patches_to_every_place(size):
    side = size // GRID
    number = np.arange(GRID**2, dtype=np.uint8).reshape(GRID, GRID).repeat(side, 0).repeat(side, 1)
    within = np.tile(np.arange(side**2, dtype=np.uint8).reshape(side, side), (GRID, GRID))
    image = np.stack([number, within, 100 + number], axis=-1)
    shape = (size, size, 3)
    found = derived(np.repeat(image[None], 600, axis=0), mean=np.zeros(shape), std=np.zeros(shape))["shuffled"]
    assert (found[..., 1] == within).all()
    assert (found[..., 2] == found[..., 0] + 100).all()
    order = found[:, ::side, ::side, 0].reshape(600, -1)
    assert (found[..., 0] == order.reshape(600, GRID, GRID).repeat(side, 1).repeat(side, 2)).all()
    assert (np.sort(order) == np.arange(GRID**2)).all()
    assert (order[1:] != order[:-1]).any(axis=1).all()
    assert order.mean(0) == pytest.approx(np.full(GRID**2, 31.5), abs=5 * 18.5 / 600**0.5)


def test_grey_faces_have_the_luma_of_pillow_and_no_colour(sets, faces):
    assert (sets["gray"].min(-1) == sets["gray"].max(-1)).all()
    expected = np.array([np.asarray(Image.fromarray(face).convert("L")) for face in faces], np.int16)
    assert np.abs(sets["gray"][..., 0] - expected).max() <= 1  # Pillow rounds to 16 bits first


def test_swapping_and_negating_twice_is_nothing(sets, faces):
    for name in ("bgr", "inverted", "vflip"):
        assert (sets[name] != faces).any(), name
        assert (derived(sets[name])[name] == faces).all(), name
    assert (sets["bgr"][..., 0] == faces[..., 2]).all()
    assert (sets["inverted"].astype(int) + faces == 255).all()


def test_contrast_around_mid_grey():
    levels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    levels[0, 0, :5, 0] = (0, 42, 127, 213, 255)
    found = derived(levels)
    assert found["low_contrast"][0, 0, :5, 0].tolist() == [89, 102, 127, 153, 166]
    assert found["high_contrast"][0, 0, :5, 0].tolist() == [0, 0, 127, 255, 255]


def test_the_blur_is_a_gaussian_of_two_pixels_at_32_and_keeps_the_mean(sets, faces):
    assert sets["blur"].mean((1, 2)) == pytest.approx(faces.mean((1, 2)), abs=0.1)
    point = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    point[0, 16] = 255  # a line: its profile is one-dimensional
    t = np.arange(-16, 16)
    expected = 255 * np.exp(-(t**2) / 8) / (2 * (2 * np.pi) ** 0.5)
    assert derived(point)["blur"][0, :, 3, 1] == pytest.approx(expected, abs=0.6)
    large = np.zeros((1, 2 * SIZE, 2 * SIZE, 3), np.uint8)
    large[0, 32:34] = 255
    shape = large.shape[1:]
    found = derived(large, mean=np.zeros(shape), std=np.zeros(shape))["blur"]
    assert found[0, 1::2, 3, 1].max() == pytest.approx(expected.max(), abs=2)


def test_constant_images_have_one_colour_each(sets):
    colours = sets["constant"][:, 0, 0]
    assert (sets["constant"] == colours[:, None, None]).all()
    assert len(np.unique(colours, axis=0)) == 40
    assert colours.mean() == pytest.approx(127.5, abs=5 * 73.9 / 120**0.5)


def test_noise_is_uniform_over_all_values(sets):
    share = np.bincount(sets["noise"].ravel(), minlength=256) / sets["noise"].size
    assert share == pytest.approx(np.full(256, 1 / 256), rel=5 * (256 / sets["noise"].size) ** 0.5)
    assert (sets["noise"][0] != sets["noise"][1]).any()


def test_noise_around_the_mean_has_the_deviation_of_each_pixel(faces):
    mean, std = np.full_like(MEAN, 100.0), np.full_like(MEAN, 5.0)
    mean[:, :16], std[:, :16] = 150.0, 20.0
    found = derived(faces, mean=mean, std=std)
    for half, centre, deviation in ((slice(0, 16), 150, 20), (slice(16, 32), 100, 5)):
        for name, expected in (("pixel_noise", deviation), ("mean_face", 2)):
            values = found[name][:, :, half].astype(float)
            assert values.mean() == pytest.approx(centre, abs=5 * expected / values.size**0.5)
            assert values.std() == pytest.approx((expected**2 + 1 / 12) ** 0.5, rel=0.02)  # 1/12: rounding
    assert (found["mean_face"][0] != found["mean_face"][1]).any()


def test_values_beyond_the_range_are_clipped_not_wrapped(faces):
    found = derived(faces, mean=np.full_like(MEAN, 255.0), std=np.full_like(MEAN, 50.0))
    assert found["mean_face"].min() > 200
    assert found["pixel_noise"].mean() > 200


def test_a_size_without_whole_patches_is_refused():
    images = np.zeros((2, 20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="size 20: patches need a multiple of 8"):
        derived(images, mean=np.zeros((20, 20, 3)), std=np.zeros((20, 20, 3)))
