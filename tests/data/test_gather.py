import dataclasses
import gzip
import hashlib

import numpy as np
import pytest

from visage.config import DownloadConfig, OodSet
from visage.data import idx
from visage.data.gather import gather
from visage.data.ood import drawn_clothes, fashion_mnist
from visage.data.raw import Raw
from visage.data.sources.celeba import GOOGLE_DRIVE
from visage.errors import UserError

CELEBA = {"mirrors": [], "checksums": dict.fromkeys(GOOGLE_DRIVE, "0" * 32)}
DRAWN, SEED = {"images": 30, "images_per_identity": 2}, 28
"""Few faces, a seed with which each split gets some."""
CLOTHES = OodSet("clothes", "drawn_clothes", None)


def config(source="celeba", root=None, settings=None, ood=()) -> DownloadConfig:
    settings = CELEBA if settings is None else settings
    return DownloadConfig(source, None if root is None else str(root), settings, tuple(ood), SEED)


@pytest.fixture
def make(tmp_path):
    """A function: what to gather, as for `config` -> the record of data/raw."""
    return lambda **wanted: gather(config(**wanted), tmp_path / "raw", tmp_path / "scratch")


@pytest.fixture
def fashion(tmp_path):
    """Three black images in Fashion-MNIST's file."""
    (tmp_path / "fashion").mkdir()
    (tmp_path / "fashion" / idx.IMAGES).write_bytes(packed(np.zeros((3, 28, 28), np.uint8)))
    return OodSet("fashion_mnist", "fashion_mnist", str(tmp_path / "fashion"))


def packed(images: np.ndarray) -> bytes:
    return gzip.compress(bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes() + images.tobytes())


@pytest.fixture
def cats(tmp_path, make_jpeg):
    (tmp_path / "cats" / "black").mkdir(parents=True)
    for i in range(4):
        (tmp_path / "cats" / "black" / f"{i}.jpg").write_bytes(make_jpeg(i, (40, 30)))
    return OodSet("cats", "folder", str(tmp_path / "cats"))


def test_files_of_the_user_stay_where_they_are(copy, fashion, cats, make, tmp_path):
    root = copy.write()
    raw = make(root=root, ood=[fashion, cats])
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["source.json"]
    assert Raw.load(tmp_path / "raw") == raw
    assert raw.root == str(root)
    assert raw.counts == {"train": 12, "valid": 6, "test": 6}
    assert raw.remarks == ["24 of 202,599 images: a subset"]
    assert raw.note == "a zip archive of images, txt annotations, with identities"
    assert [(other.name, other.count, other.root) for other in raw.ood] == [
        ("fashion_mnist", 3, str(tmp_path / "fashion")),
        ("cats", 4, str(tmp_path / "cats")),
    ]
    assert raw.ood[0].note == "test images, not the published file"
    assert raw.faces(tmp_path / "raw").image_id.tolist() == copy.names
    assert raw.ood[1].images(tmp_path / "raw").members == [f"black/{i}.jpg" for i in range(4)]


def test_a_relative_root_starts_at_the_project_s_root_in_dvc_s_temporary_copies_too(
    copy, fashion, make, tmp_path, monkeypatch
):
    (tmp_path / "temporary").mkdir()
    copy.write()
    monkeypatch.chdir(tmp_path / "temporary")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    raw = make(root="copy", ood=[dataclasses.replace(fashion, root="fashion")])
    assert (raw.root, raw.ood[0].root) == (str(tmp_path / "copy"), str(tmp_path / "fashion"))
    monkeypatch.delenv("DVC_ROOT")
    assert make(root="../copy", ood=[fashion]).root == raw.root


def test_a_tilde_is_a_home_folder(copy, fashion, make, tmp_path, monkeypatch):
    copy.write()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make(root="~/copy", ood=[fashion]).root == str(tmp_path / "copy")
    with pytest.raises(UserError, match=r"~nobody_of_this_name/copy: there is no such user"):
        make(root="~nobody_of_this_name/copy", ood=[fashion])


def test_too_few_drawn_faces_are_refused_before_they_are_drawn(make, tmp_path):
    settings = {"images": 100, "images_per_identity": 1000}
    with pytest.raises(UserError, match=r"data\.synthetic: 100 images, 1000 of each person, put 0 into train|valid"):
        make(source="synthetic", settings=settings)
    assert not (tmp_path / "raw").exists()


def test_later_changes_are_noticed(copy, fashion, cats, make, tmp_path):
    raw = make(root=copy.write(), ood=[fashion, cats])
    copy.identity[copy.names[0]] = 3
    copy.write()
    (tmp_path / "fashion" / idx.IMAGES).write_bytes(packed(np.ones((3, 28, 28), np.uint8)))
    (tmp_path / "cats" / "white.png").write_bytes(b"")
    for look in (raw.faces, raw.ood[0].images, raw.ood[1].images):
        with pytest.raises(UserError, match="has changed since it was listed: run `dvc repro -f download`"):
            look(tmp_path / "raw")


def test_a_plain_folder_is_listed(copy, fashion, make, tmp_path):
    copy.layout = "folder"
    shares = {"attributes": None, "valid_share": 0.3, "test_share": 0.35}
    raw = make(source="folder", root=copy.write() / "img_align_celeba", settings=shares, ood=[fashion])
    assert sum(raw.counts.values()) == 24
    assert raw.faces(tmp_path / "raw").names == ()


@pytest.fixture
def few_clothes(monkeypatch):
    monkeypatch.setattr(drawn_clothes, "COUNT", 8)


def test_drawn_faces_and_clothes_are_kept_here(make, few_clothes, tmp_path):
    raw = make(source="synthetic", settings=DRAWN, ood=[CLOTHES])
    assert (raw.root, raw.ood[0].root) == ("faces", "ood/clothes")
    moved = tmp_path / "elsewhere"
    (tmp_path / "raw").rename(moved)
    faces = Raw.load(moved).faces(moved)
    assert len(faces.members) == 30
    assert faces.factors.shape == (30, len(faces.factor_names))
    assert len(faces.factor_names) > 5
    assert Raw.load(moved).ood[0].images(moved).shape == (8, 28, 28)


def test_a_source_may_give_several_sets(make, cats, few_clothes, tmp_path):
    again = dataclasses.replace(CLOTHES, name="more_clothes")
    raw = make(source="synthetic", settings=DRAWN, ood=[again, cats, CLOTHES])
    assert [other.name for other in raw.ood] == ["more_clothes", "cats", "clothes"]
    assert {path.name for path in (tmp_path / "raw" / "ood").iterdir()} == {"more_clothes", "clothes"}


@pytest.fixture
def published(copy, server):
    """Settings with which CelebA is downloaded from a server that sends web pages, then from one that has the files."""
    root = copy.write()
    server.files |= {path.name: path.read_bytes() for path in root.iterdir()}
    checksums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in root.iterdir()}
    return {"mirrors": [f"{server.url}/quota", f"{server.url}/good"], "checksums": checksums}


def test_a_download_survives_a_failure_after_it(server, published, fashion, make, tmp_path):
    raw, missing = tmp_path / "raw", dataclasses.replace(fashion, root=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"ood: .*nothing holds no t10k"):
        make(settings=published, ood=[missing])
    assert not raw.exists()

    asked = len(server.asked)
    record = make(settings=published, ood=[fashion])
    assert len(server.asked) == asked  # nothing is fetched again
    assert record.root == "faces"
    assert "a zip archive of images" in record.note
    assert sorted(path.name for path in (raw / "faces").iterdir()) == sorted(published["checksums"])
    assert record.faces(raw).counts["train"] == 12


def test_what_was_there_stays_when_a_later_attempt_fails(copy, fashion, make, tmp_path):
    root = copy.write()
    before = make(root=root, ood=[fashion])
    (root / "img_align_celeba.zip").unlink()
    with pytest.raises(UserError, match="lacks img_align_celeba"):
        make(root=root, ood=[fashion])
    assert Raw.load(tmp_path / "raw") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "fashion", "raw", "scratch"]


def test_a_missing_or_damaged_listing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"source\.json is missing: run `dvc repro -f download`"):
        Raw.load(tmp_path)
    (tmp_path / "source.json").write_text('{"source": 3}')
    with pytest.raises(UserError, match=r"source\.json: .*: run `dvc repro -f download`"):
        Raw.load(tmp_path)


def test_the_same_request_gives_the_same_record(few_clothes, tmp_path):
    digests = set()
    for name in ("a", "b"):
        gather(config("synthetic", settings=DRAWN, ood=[CLOTHES]), tmp_path / name, tmp_path / "scratch")
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.add(hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    assert len(digests) == 1


def test_fashion_mnist_comes_from_the_first_mirror_that_works(server, make, few_clothes, tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{server.url}/quota", f"{server.url}/good/"])
    images = np.zeros((2, 28, 28), np.uint8)
    server.files[idx.IMAGES] = packed(images)
    monkeypatch.setattr(fashion_mnist, "MD5", hashlib.md5(server.files[idx.IMAGES]).hexdigest())
    wanted = {"source": "synthetic", "settings": DRAWN, "ood": [OodSet("clothes", "fashion_mnist", None)]}
    raw = make(**wanted)
    assert (raw.ood[0].root, raw.ood[0].note, raw.ood[0].count) == ("ood/clothes", "test images", 2)
    np.testing.assert_array_equal(raw.ood[0].images(tmp_path / "raw"), images)

    server.files.clear()
    with pytest.raises(UserError, match=r"Fashion-MNIST could not be downloaded .*web page.*; .*404.*`ood` of params"):
        make(**wanted)
