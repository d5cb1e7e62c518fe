import gzip
import hashlib
import shutil

import numpy as np
import pytest

from visage.config import DownloadConfig
from visage.data import gather as gathering
from visage.data.download import Mirror, MirrorError
from visage.data.fashion_mnist import IMAGES
from visage.data.gather import gather
from visage.data.raw import Raw
from visage.errors import UserError


def config(**changes) -> DownloadConfig:
    values = {
        "source": "celeba",
        "root": None,
        "images": 24,
        "images_per_identity": 2,
        "mirrors": (),
        "checksums": {},
        "attributes": None,
        "valid_share": 0.2,
        "test_share": 0.2,
        "ood_source": "fashion_mnist",
        "ood_root": None,
        "seed": 0,
    }
    return DownloadConfig(**values | changes)


@pytest.fixture
def ood(tmp_path):
    images = np.zeros((3, 28, 28), np.uint8)
    (tmp_path / "ood").mkdir()
    header = bytes([0, 0, 8, 3]) + np.array(images.shape, ">u4").tobytes()
    (tmp_path / "ood" / IMAGES).write_bytes(gzip.compress(header + images.tobytes()))
    return str(tmp_path / "ood")


def test_files_of_the_user_stay_where_they_are(copy, ood, tmp_path):
    root = copy.write()
    raw = gather(config(root=str(root), ood_root=ood), tmp_path / "raw", tmp_path / "scratch")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["source.json"]
    assert Raw.load(tmp_path / "raw") == raw
    assert raw.root == str(root)
    assert raw.counts == {"train": 12, "valid": 6, "test": 6}
    assert raw.remarks == ["24 of 202,599 images: a subset"]
    assert raw.layout == "a zip archive of images, txt annotations, with identities"
    assert raw.ood_note == "Fashion-MNIST: 3 test images, not the published file"
    assert raw.faces(tmp_path / "raw").image_id.tolist() == copy.names


def test_later_changes_are_noticed(copy, ood, tmp_path):
    root = copy.write()
    raw = gather(config(root=str(root), ood_root=ood), tmp_path / "raw", tmp_path / "scratch")
    copy.identity[copy.names[0]] = 3
    copy.write()
    with pytest.raises(UserError, match="has changed since it was listed"):
        raw.faces(tmp_path / "raw")


def test_a_plain_folder_is_listed(copy, ood, tmp_path):
    copy.layout = "folder"
    root = copy.write() / "img_align_celeba"
    raw = gather(config(source="folder", root=str(root), ood_root=ood), tmp_path / "raw", tmp_path / "scratch")
    assert sum(raw.counts.values()) == 24
    assert raw.faces(tmp_path / "raw").names == ()


def test_drawn_faces_and_garments_are_made_here(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "GARMENTS", 8)
    raw = gather(config(source="synthetic", ood_source="synthetic"), tmp_path / "raw", tmp_path / "scratch")
    assert (raw.root, raw.ood_root) == ("faces", "ood")
    moved = tmp_path / "elsewhere"
    (tmp_path / "raw").rename(moved)
    faces = Raw.load(moved).faces(moved)
    assert len(faces.members) == 24
    assert faces.factors.shape == (24, len(faces.factor_names))
    assert len(faces.factor_names) > 5
    assert Raw.load(moved).ood_file(moved).is_relative_to(moved)


def test_a_download_survives_a_failure_after_it(copy, ood, tmp_path):
    source = copy.write()
    fetched = []

    def copy_files(folder):
        fetched.extend(path for path in source.iterdir() if not (folder / path.name).exists())
        shutil.copytree(source, folder, dirs_exist_ok=True)

    def fails(folder):
        raise MirrorError("out of order")

    ladder = [Mirror("broken", fails), Mirror("whole", copy_files)]
    raw, scratch = tmp_path / "raw", tmp_path / "scratch"
    with pytest.raises(UserError, match=r"ood\.root"):
        gather(config(ood_root=str(tmp_path / "nothing")), raw, scratch, ladder)
    assert len(fetched) == 4
    assert not raw.exists()

    record = gather(config(ood_root=ood), raw, scratch, ladder)
    assert len(fetched) == 4  # nothing was fetched again
    assert record.root == "faces"
    assert record.layout.endswith("from whole")
    assert sorted(path.name for path in (raw / "faces").iterdir()) == sorted(path.name for path in source.iterdir())
    assert record.faces(raw).counts["train"] == 12


def test_what_was_there_stays_when_a_later_attempt_fails(copy, ood, tmp_path):
    root = copy.write()
    before = gather(config(root=str(root), ood_root=ood), tmp_path / "raw", tmp_path / "scratch")
    (root / "img_align_celeba.zip").unlink()
    with pytest.raises(UserError, match="lacks img_align_celeba"):
        gather(config(root=str(root), ood_root=ood), tmp_path / "raw", tmp_path / "scratch")
    assert Raw.load(tmp_path / "raw") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "ood", "raw", "scratch"]


def test_a_missing_listing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"source\.json is missing: run `dvc repro download`"):
        Raw.load(tmp_path)


def test_the_same_request_gives_the_same_record(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "GARMENTS", 4)
    digests = set()
    for name in ("a", "b"):
        gather(config(source="synthetic", ood_source="synthetic"), tmp_path / name, tmp_path / "scratch")
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.add(hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    assert len(digests) == 1
