import numpy as np
import pytest
import torch
from PIL import Image

from visage.data.decoding import resize
from visage.errors import UserError
from visage.using.photos import listed, square

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)


def expected(pixels, size):
    return resize(torch.from_numpy(np.ascontiguousarray(pixels))[None], size, "bicubic").numpy()


def test_all_forms_of_one_image_are_the_same(tmp_path):
    file = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(file)
    wanted = expected(PIXELS, 8)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for form in (
        file,
        str(file),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[None],
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.float64) / 255,
        tensor,
        tensor[None],
        tensor.double() / 255,
        [file],
    ):
        np.testing.assert_array_equal(square(form, 8), wanted)
    assert square([file, PIXELS, tensor], 8).shape == (3, 8, 8, 3)


def test_images_of_the_right_size_are_left_as_they_are():
    np.testing.assert_array_equal(square(PIXELS, 20)[0], PIXELS)


def test_the_centred_square_is_cut():
    wide = np.zeros((20, 50, 3), np.uint8)
    wide[:, 15:35] = PIXELS
    np.testing.assert_array_equal(square(wide, 20)[0], PIXELS)
    np.testing.assert_array_equal(square(wide.transpose(1, 0, 2), 20)[0], PIXELS.transpose(1, 0, 2))


def test_exif_turns_a_photograph_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(square(tmp_path / "turned.png", 20)[0], np.rot90(PIXELS, -1))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "I;16", "1"])
def test_every_mode_of_a_file_is_read(tmp_path, mode):
    image = Image.fromarray(PIXELS).convert("RGB")
    image = Image.fromarray(np.full((20, 20), 40000, np.uint16)) if mode == "I;16" else image.convert(mode)
    file = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    image.save(file)
    assert square(file, 20).shape == (1, 20, 20, 3)


def test_aligned_images_are_cut_as_in_training():
    image = np.random.default_rng(1).integers(0, 256, (218, 178, 3), np.uint8)
    box = (15, 40, 163, 188)
    np.testing.assert_array_equal(square(image, 32, aligned=box), expected(image[40:188, 15:163], 32))
    with pytest.raises(UserError, match="is 20x20 pixels, and aligned CelebA images are 178x218"):
        square(PIXELS, 32, aligned=box)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (PIXELS[..., :2], r"\(20, 20, 2\) is no image in colour"),
        (PIXELS[..., 0], r"\(20, 20\) is no image in colour"),
        (torch.zeros(20, 20, 3), r"\(20, 20, 3\) is no image in colour: the shape must be \(3, H, W\)"),
        (PIXELS.astype(np.float32), "floats from 0 to 255, not in .0, 1.: divide by 255"),
        (PIXELS / 127.5 - 1, r"not in .0, 1.: \(x \+ 1\) / 2"),
        (np.full((4, 4, 3), np.nan), "not in .0, 1."),
        (PIXELS.astype(np.int64), "holds torch.int64"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        ([], "there is no image"),
        (None, "NoneType is no image"),
        ("nowhere.jpg", "nowhere.jpg: there is no such file"),
    ],
)
def test_what_is_no_image_is_named(images, words):
    with pytest.raises(UserError, match=words):
        square(images, 8)


def test_a_text_file_that_is_called_a_photo_is_named(tmp_path):
    (tmp_path / "photo.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"photo.jpg cannot be read: cannot identify image file"):
        square(tmp_path / "photo.jpg", 8)


def test_folders_are_listed_with_all_below_them(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/2.png", "a/b/1.png", "alone.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("")
    found = listed([tmp_path / "a", tmp_path / "alone.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/2.png", "a/b/1.png", "alone.png"]
    with pytest.raises(UserError, match="there is no such file or folder"):
        listed([tmp_path / "nowhere"])
