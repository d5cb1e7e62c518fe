import errno
import gzip
import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visage.config import PreprocessConfig
from visage.data import idx, ood, raw, sources
from visage.data.arrays import load_card, load_faces, load_ood
from visage.data.card import ExternalSet
from visage.data.collection import LEAST_IMAGES
from visage.data.decoding import resize
from visage.data.preprocess import enlarge, preprocess, to_square
from visage.data.raw import Raw, RawSet
from visage.data.sources.celeba import GOOGLE_DRIVE
from visage.data.sources.synthetic import draw_dataset
from visage.errors import UserError
from visage.measures.sample_quality import DENSITY_NEIGHBOURS

# torchvision 0.29 announces that its decoders will move
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

BOX = (15, 40, 163, 188)
CLOTHES = np.random.default_rng(1).integers(0, 256, (70, 28, 28), np.uint8)


def config(**changes) -> PreprocessConfig:
    values = {
        "sizes": (16, 32),
        "crop": BOX,
        "filter": "bicubic",
        "max_bad_share": 0.1,
        "limit": 0,
        "labels": ("vae-16", "vae-32", "beta_vae-32"),
    }
    return PreprocessConfig(**values | changes)


SETTINGS = {
    "celeba": {"mirrors": [], "checksums": dict.fromkeys(GOOGLE_DRIVE, "0" * 32)},
    "folder": {"attributes": None, "valid_share": 0.2, "test_share": 0.2},
}


def listed(source: str, root: Path, tmp_path: Path, others=()) -> Path:
    """The `data/raw` of faces in `root`, of some clothes, and of other folders of images."""
    folder = tmp_path / "raw"
    folder.mkdir(exist_ok=True)
    header = bytes([0, 0, 8, 3]) + np.array(CLOTHES.shape, ">u4").tobytes()
    (folder / idx.IMAGES).write_bytes(gzip.compress(header + CLOTHES.tobytes(), mtime=0))
    found = sources.find(source).read(sources.settings(source, SETTINGS[source]), root)
    sets = [("clothes", "fashion_mnist", folder), *((place.name, "folder", place) for place in others)]
    images = [ood.find(kind).images(place) for _, kind, place in sets]
    Raw(
        source,
        str(root),
        SETTINGS[source],
        "found",
        found.counts,
        found.remarks,
        found.fingerprint,
        tuple(
            RawSet(name, kind, str(place), "found", raw.count(them), raw.fingerprint(them))
            for (name, kind, place), them in zip(sets, images, strict=True)
        ),
    ).save(folder)
    return folder


@pytest.fixture
def make(copy, tmp_path):
    """A function: write the copy, preprocess it; gives the output folder."""

    def run(*others: Path, **changes) -> Path:
        preprocess(config(**changes), listed("celeba", copy.write(), tmp_path, others), tmp_path / "out")
        return tmp_path / "out"

    return run


def with_pillow(data: bytes, size: int, box=BOX, filter=Image.Resampling.BICUBIC) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").crop(box).resize((size, size), filter)).astype(int)


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_every_image_is_pillow_s_crop_and_resize(copy, make, name):
    out = make(filter=name)
    for size in (16, 32):
        for split, index in (("train", 0), ("valid", 1), ("test", 2)):
            faces = load_faces(split, size, out)
            assert faces.image_id.tolist() == [n for n in copy.names if copy.split[n] == index]
            for image, image_id in zip(faces.images, faces.image_id, strict=True):
                expected = with_pillow(copy.images[image_id], size, filter=Image.Resampling[name.upper()])
                assert np.abs(image - expected).max() <= 2


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("valid", 1), ("test", 2)])
def test_labels_belong_to_their_images(copy, make, split, index):
    faces = load_faces(split, 16, make())
    names = [n for n in copy.names if copy.split[n] == index]
    assert faces.attributes.tolist() == [copy.attributes[n] for n in names]
    assert faces.identity.tolist() == [copy.identity[n] for n in names]
    assert faces.names == copy.columns
    assert faces.factors.shape == (len(names), 0)


def test_the_box_is_left_top_right_bottom(copy, make):
    left_red = np.zeros((218, 178, 3), np.uint8)
    left_red[:, :89, 0] = left_red[:109, :, 1] = 255
    buffer = io.BytesIO()
    Image.fromarray(left_red).save(buffer, "JPEG", quality=95)
    copy.images[copy.names[0]] = buffer.getvalue()
    image = load_faces("train", 16, make(crop=(69, 89, 109, 129))).images[0]
    assert image[3, 3, 0] > 200 > 60 > image[3, 12, 0]
    assert image[3, 12, 1] > 200 > 60 > image[12, 12, 1]


def test_the_card_says_what_was_done(copy, make):
    out = make()
    card = load_card(out)
    assert card.counts == {"train": 12, "valid": 6, "test": 6}
    assert (card.source, card.title) == ("celeba", "CelebA photographs")
    assert card.ood == (ExternalSet("clothes", "fashion_mnist", "Fashion-MNIST", "found", 70),)
    assert (card.crop, card.filter, card.sizes) == (BOX, "bicubic", (16, 32))
    assert card.note == "24 of 202,599 images: a subset"
    assert card.skipped == []
    for size in (16, 32):
        for name in ("train", "valid", "test", "ood/clothes"):
            pixels = np.load(out / str(size) / f"{name}.npy").tobytes()
            assert card.hashes[str(size)][name] == hashlib.sha256(pixels).hexdigest()
        parts = [card.hashes[str(size)], card.label_hashes, list(BOX), "bicubic"]
        assert card.data_hash[str(size)] == hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def test_arrays_of_drawn_faces_are_the_same_on_every_machine(tmp_path):
    draw_dataset(tmp_path / "faces", images=120, images_per_identity=3, seed=5, workers=1, progress=False)
    preprocess(config(labels=()), listed("celeba", tmp_path / "faces", tmp_path), tmp_path / "out")
    hashes = load_card(tmp_path / "out").hashes
    assert {size: hashes[size]["train"][:16] for size in hashes} == {
        "16": "718f5238995c6a98",
        "32": "49d426f5149981dc",
    }


def test_a_missing_or_damaged_card_is_named(tmp_path):
    with pytest.raises(UserError, match=r"card\.json is missing: run `dvc repro -f preprocess`"):
        load_card(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(UserError, match=r"card\.json: source: .*: run `dvc repro -f preprocess`"):
        load_card(tmp_path)


def test_each_label_has_a_card_of_what_its_trainings_depend_on(copy, make):
    out = make()
    card = load_card(out)
    train = {path.stem: json.loads(path.read_text()) for path in (out / "train").iterdir()}
    assert set(train) == {"vae-16", "vae-32", "beta_vae-32"}
    assert train["vae-32"] == train["beta_vae-32"] != train["vae-16"]
    assert train["vae-16"] == {
        "source": "celeba",
        "crop": list(BOX),
        "filter": "bicubic",
        "images": {split: card.hashes["16"][split] for split in ("train", "valid")},
        "labels": {split: card.label_hashes[split] for split in ("train", "valid")},
    }


def test_training_does_not_depend_on_test_images(copy, make):
    before = (make() / "train" / "vae-32.json").read_text()
    data_hash = load_card(make()).data_hash
    copy.images[copy.names[3]] = copy.images[copy.names[0]]  # a test image
    after = make()
    assert (after / "train" / "vae-32.json").read_text() == before
    assert load_card(after).data_hash["32"] != data_hash["32"]


def test_the_hash_of_the_data_changes_with_all_that_a_figure_can_depend_on(copy, make, pictures):
    def digest(*others: Path, **changes) -> str:
        card = load_card(make(*others, sizes=(16,), labels=(), **changes))
        return card.data_hash["16"]

    seen = [digest(), digest(pictures), digest(filter="bilinear"), digest(crop=(16, 40, 164, 188))]
    for name in copy.names[1:4]:  # of train, valid and test
        copy.images[name] = copy.images[copy.names[-1]]
        seen.append(digest())
        copy.identity[name] += 1000
        seen.append(digest())
        copy.attributes[name][3] ^= 1
        seen.append(digest())
    assert len(set(seen)) == len(seen)
    assert digest() == seen[-1]


def test_another_set_of_images_trains_nothing_again(make, pictures):
    before = (make() / "train" / "vae-32.json").read_text()
    assert (make(pictures) / "train" / "vae-32.json").read_text() == before


def test_too_few_images_of_a_split_stop_before_anything_is_trained(copy, make, tmp_path):
    assert LEAST_IMAGES > DENSITY_NEIGHBOURS
    test = [name for name in copy.names if copy.split[name] == 2]
    copy.images[test[0]] = b"no image"
    with pytest.raises(UserError, match=r"img_align_celeba\.zip: only 5 test images can be used, 6 are needed"):
        make()
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"only 4 train images can be used"):
        make(limit=4)


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_images_give_the_same_bytes_in_any_layout(copy, make, tmp_path):
    first = content(make())
    assert content(make()) == first
    copy.layout, copy.root = "folder", tmp_path / "loose"
    assert content(make()) == first


def test_limit_takes_the_first_of_each_split(copy, make):
    everything = load_faces("train", 16, make()).images[:6].copy()
    out = make(limit=6)
    faces = load_faces("train", 16, out)
    np.testing.assert_array_equal(faces.images, everything)
    assert [len(load_faces(split, 16, out).images) for split in ("train", "valid", "test")] == [6, 6, 6]


def test_bad_images_are_named_and_left_out(copy, make, make_jpeg, capsys):
    good = load_faces("train", 32, make()).images.copy()
    truncated, small = copy.names[1], copy.names[8]  # rows 1 and 4 of train
    copy.images[truncated] = copy.images[truncated][:1000]
    copy.images[small] = make_jpeg(0, size=(100, 100))
    out = make()
    card = load_card(out)
    assert [image.file for image in card.skipped] == [f"img_align_celeba/{name}" for name in (truncated, small)]
    assert "cannot be read" in card.skipped[0].reason
    assert card.skipped[1].reason == "is 100x100 pixels, not 178x218"
    assert card.counts["train"] == 10
    faces = load_faces("train", 32, out)
    np.testing.assert_array_equal(faces.images, np.delete(good, [1, 4], axis=0))
    assert truncated not in faces.image_id
    assert small not in faces.image_id
    assert f"skipped: img_align_celeba/{truncated} cannot be read" in capsys.readouterr().out


def test_what_is_wrong_with_an_image_is_said_in_the_same_words_every_time(copy, make):
    copy.images[copy.names[1]] = b"no image"
    reasons = {load_card(make()).skipped[0].reason for _ in range(2)}
    assert reasons == {"cannot be read: cannot identify image file"}


def png(width, height):
    """A PNG of so many black pixels in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_that_says(data, width, height):
    """The same JPEG, whose header says that it is of another size."""
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def test_an_image_that_would_fill_the_memory_is_a_bad_one(copy, make, make_jpeg):
    copy.images[copy.names[1]] = png(20_000, 20_000)
    copy.images[copy.names[8]] = jpeg_that_says(make_jpeg(0), 60_000, 60_000)
    first, second = load_card(make()).skipped
    assert first.reason.startswith("cannot be read: Image size (400000000 pixels) exceeds limit")
    assert second.reason == "has 60000x60000 pixels, more than 89,478,485"


def test_a_file_that_would_fill_the_memory_is_not_read(copy, make, monkeypatch, tmp_path):
    monkeypatch.setattr("visage.data.collection.MOST_BYTES", 50_000)
    copy.images[copy.names[1]] += bytes(100_000)
    for copy.layout in ("zip", "folder"):
        (skipped,) = load_card(make()).skipped
        assert skipped.reason.startswith("cannot be read: 10")
        assert skipped.reason.endswith(" bytes are too many for an image")


def test_too_many_bad_images_stop_and_leave_nothing(copy, make, tmp_path):
    for name in copy.names[:4]:
        copy.images[name] = b"\xff\xd8\xff no image"
    with pytest.raises(UserError) as error:
        make()
    message = str(error.value)
    assert "4 of 24 images cannot be used" in message
    assert copy.names[0] in message
    assert "max_bad_share (now 0.1)" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "raw"]


def test_a_damaged_member_of_the_archive_is_a_bad_image(copy, make, tmp_path):
    root = copy.write()
    archive = root / "img_align_celeba.zip"
    with zipfile.ZipFile(archive) as opened:
        offset = opened.infolist()[5].header_offset
    listing = listed("celeba", root, tmp_path)
    data = bytearray(archive.read_bytes())
    data[offset + 200] ^= 255
    archive.write_bytes(data)
    preprocess(config(), listing, tmp_path / "out")
    (skipped,) = load_card(tmp_path / "out").skipped
    assert skipped.file == f"img_align_celeba/{copy.names[5]}"
    assert "CRC" in skipped.reason


def test_a_full_disk_names_the_path_and_leaves_nothing(copy, make, tmp_path, monkeypatch):
    before = content(make())

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"out: no space left on the disk: free some"):
        make()
    assert content(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "out", "raw"]


@pytest.fixture
def pictures(tmp_path, make_jpeg):
    """One picture, 90x120, as grey, CMYK, palette, WebP, PNG, clear, and on its side with a note that says so."""
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(30):
        (root / f"plain{i}.jpg").write_bytes(make_jpeg(3, (90, 120)))
    plain = Image.open(io.BytesIO(make_jpeg(3, (90, 120))))
    (root / "gray.jpg").write_bytes(make_jpeg(3, (90, 120), mode="L"))
    (root / "cmyk.jpg").write_bytes(make_jpeg(3, (90, 120), mode="CMYK"))
    plain.save(root / "lossless.png")
    plain.save(root / "lossless.webp", lossless=True)
    plain.convert("P", palette=Image.Palette.ADAPTIVE).save(root / "palette.png")
    plain.convert("L").save(root / "gray.png")
    Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257).save(root / "gray16.png")
    clear = plain.convert("RGBA")
    clear.putalpha(0)
    clear.save(root / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to see it upright
    plain.transpose(Image.Transpose.ROTATE_90).save(root / "turned.png", exif=exif)
    plain.transpose(Image.Transpose.ROTATE_90).save(root / "turned.jpg", exif=exif, quality=95)
    return root


def test_any_folder_of_images_becomes_centred_rgb_squares(pictures, tmp_path):
    preprocess(config(), listed("folder", pictures, tmp_path, [pictures]), tmp_path / "out")
    images = {}
    for split in ("train", "valid", "test"):
        faces = load_faces(split, 32, tmp_path / "out")
        images |= dict(zip(faces.image_id.tolist(), faces.images.astype(int), strict=True))
        assert set(faces.identity.tolist()) == {-1}
    assert set(images) == {path.name for path in pictures.iterdir()}
    square = (0, 15, 90, 105)
    expected = with_pillow((pictures / "plain0.jpg").read_bytes(), 32, square)
    for name in ("plain0.jpg", "lossless.png", "lossless.webp", "turned.png"):
        assert np.abs(images[name] - expected).max() <= 2, name
    for name in ("turned.jpg", "cmyk.jpg", "palette.png"):
        assert np.abs(images[name] - expected).mean() < 8, name
    gray = with_pillow((pictures / "gray.png").read_bytes(), 32, square)
    for name in ("gray.png", "gray16.png", "gray.jpg"):
        assert np.abs(images[name] - gray).max() <= 6, name
    assert (images["clear.png"] == 255).all()
    card = load_card(tmp_path / "out")
    assert card.crop == ()
    assert card.skipped == []
    # as a set of other images they are the same, in the order of their names
    others = load_ood(32, "pictures", tmp_path / "out")
    np.testing.assert_array_equal(others, [images[name] for name in sorted(images)])


def test_bad_images_of_a_set_are_left_out_and_too_many_stop(make, pictures, tmp_path, capsys):
    (pictures / "lossless.png").write_bytes(b"no image")
    out = make(pictures, max_bad_share=0.1)
    card = load_card(out)
    assert [image.file for image in card.skipped] == ["ood/pictures/lossless.png"]
    assert card.ood[1] == ExternalSet("pictures", "folder", "pictures", "found", 39)
    assert len(load_ood(16, "pictures", out)) == 39
    assert "skipped: lossless.png cannot be read" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"pictures: 1 of 40 images cannot be used .*max_bad_share \(now 0\.02\)"):
        make(pictures, max_bad_share=0.02)


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_colour_images_are_resized_as_faces_are(name):
    colours = np.random.default_rng(2).integers(0, 256, (9, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(to_square(colours, 32, name), colours)
    for size in (16, 48, 64):
        expected = [
            np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling[name.upper()])) for image in colours
        ]
        assert np.abs(to_square(colours, size, name).astype(int) - np.stack(expected)).max() <= 2


def test_a_set_that_is_not_there_is_named(make):
    with pytest.raises(UserError, match=r"16/ood/cats\.npy is missing"):
        load_ood(16, "cats", make())


def test_clothes_are_framed_and_enlarged(make):
    out = make(sizes=(16, 32, 64))
    at_32 = load_ood(32, "clothes", out)
    np.testing.assert_array_equal(at_32[:, 2:-2, 2:-2], np.repeat(CLOTHES[..., None], 3, axis=3))
    assert at_32.sum(dtype=int) == 3 * CLOTHES.sum(dtype=int)  # the frame is black
    at_64 = load_ood(64, "clothes", out).astype(float)
    wide = at_32[..., 0].astype(float)
    # bilinear at twice the size: a pixel lies a quarter of a step from one neighbour, three quarters from the other
    rows = 0.75 * wide[:, 1:-1] + 0.25 * wide[:, 2:]
    expected = 0.75 * rows[:, :, 1:-1] + 0.25 * rows[:, :, 2:]
    assert np.abs(at_64[:, 3:-2:2, 3:-2:2, 0] - expected).max() <= 0.5 + 1e-4
    assert load_ood(16, "clothes", out).shape == (70, 16, 16, 3)


def test_grey_clothes_stay_grey_at_every_size():
    for size in (8, 32, 48, 128):
        larger = enlarge(np.full((2, 28, 28), 200, np.uint8), size)
        assert larger.shape == (2, size, size, 3)
        assert (larger[:, size // 2, size // 2] == 200).all()


def test_resizing_averages_what_it_leaves_out():
    stripes = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 200
    inner = resize(stripes, 32, "bilinear")[:, :, 2:-2].float()
    assert (inner - 100).abs().max() <= 2  # without antialiasing it would be 0 or 200


def test_other_threads_are_not_left_with_one(make):
    torch.set_num_threads(2)
    make()
    assert torch.get_num_threads() == 2


REAL = Path(os.environ.get("VISAGE_REAL_DATA", "/nonexistent"))


@pytest.mark.skipif(not (REAL / "celeba").is_dir(), reason="VISAGE_REAL_DATA names no folder with celeba/ in it")
def test_real_faces_are_within_two_levels_of_pillow(tmp_path):
    listing = listed("celeba", REAL / "celeba", tmp_path)
    preprocess(config(sizes=(32, 64), limit=100, labels=()), listing, tmp_path / "out")
    with zipfile.ZipFile(REAL / "celeba" / "img_align_celeba.zip") as archive:
        for size in (32, 64):
            faces = load_faces("test", size, tmp_path / "out")
            for image, name in zip(faces.images, faces.image_id.tolist(), strict=True):
                assert np.abs(image - with_pillow(archive.read(f"img_align_celeba/{name}"), size)).max() <= 2
