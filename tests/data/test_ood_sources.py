"""Images that are no faces, from the files that torchvision knows and from folders."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import CIFAR10, SVHN

from visage.data import ood
from visage.data.ood import cifar10, folder, svhn
from visage.data.request import Request
from visage.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture
def request_(tmp_path):
    return Request(None, tmp_path / "target", tmp_path / "arriving", 0)


@pytest.fixture
def svhn_file(monkeypatch) -> bytes:
    """A small test_32x32.mat, which torchvision takes for the published one."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"X": IMAGES.transpose(1, 2, 3, 0), "y": np.arange(1, 6)[:, None]})
    url, name, _ = SVHN.split_list["test"]
    known = [url, name, hashlib.md5(buffer.getvalue()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", SVHN.split_list | {"test": known})
    return buffer.getvalue()


@pytest.fixture
def cifar_files(monkeypatch) -> dict[str, bytes]:
    """Small batches of CIFAR-10, which torchvision takes for the published ones."""
    rows = IMAGES.transpose(0, 3, 1, 2).reshape(5, -1)
    test, train = (pickle.dumps({"data": data, "labels": [0] * 5}) for data in (rows, 255 - rows))
    files = {"test_batch": test, "data_batch_1": train, "batches.meta": pickle.dumps({"label_names": ["cat"]})}
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    return files


def write(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def test_svhn_is_read_in_colour(svhn_file, tmp_path):
    (tmp_path / "test_32x32.mat").write_bytes(svhn_file)
    np.testing.assert_array_equal(svhn.images(tmp_path), IMAGES)


@pytest.mark.parametrize("inside", [".", "cifar-10-batches-py"])
def test_cifar10_is_read_in_colour(cifar_files, tmp_path, inside):
    write(tmp_path / "cifar-10-batches-py", cifar_files)
    np.testing.assert_array_equal(cifar10.images(tmp_path / inside), IMAGES)


def test_other_files_than_the_published_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match=rf"ood: svhn: {tmp_path} holds no test_32x32\.mat as it was published"):
        svhn.images(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"ood: svhn: .* as it was published"):
        svhn.images(tmp_path)
    write(tmp_path / "cifar-10-batches-py", {"test_batch": pickle.dumps({"data": 1})})
    with pytest.raises(UserError, match=r"ood: cifar10: .* holds no cifar-10-batches-py/ as it was published"):
        cifar10.images(tmp_path)


def test_svhn_is_downloaded(svhn_file, server, request_, monkeypatch):
    _, name, md5 = SVHN.split_list["test"]
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, "test": [f"{server.url}/cut/{name}", name, md5]})
    server.files[name] = svhn_file
    found = svhn.get(request_)
    assert found.folder == request_.arriving
    np.testing.assert_array_equal(svhn.images(found.folder), IMAGES)


def test_cifar10_is_downloaded_and_unpacked_once(cifar_files, server, request_, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in cifar_files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    server.files["cifar-10-python.tar.gz"] = packed.getvalue()
    monkeypatch.setattr(CIFAR10, "url", f"{server.url}/good/cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    for _ in range(2):
        found = cifar10.get(request_)
        np.testing.assert_array_equal(cifar10.images(found.folder), IMAGES)
    assert len(server.asked) == 1
    assert [path.name for path in found.folder.iterdir()] == ["cifar-10-batches-py"]


@pytest.mark.parametrize(("source", "file"), [(svhn, "test_32x32.mat"), (cifar10, "cifar-10-python.tar.gz")])
def test_a_failed_download_says_what_to_do(source, file, server, request_, monkeypatch):
    monkeypatch.setattr(SVHN, "split_list", {"test": [f"{server.url}/good/{file}", file, "0" * 32]})
    monkeypatch.setattr(CIFAR10, "url", f"{server.url}/good/{file}")
    with pytest.raises(UserError, match=rf"{source.TITLE} could not be downloaded .*404 .*: put {file} into a folder"):
        source.get(request_)


def test_a_folder_gives_its_image_files(tmp_path, make_jpeg):
    write(tmp_path / "cats" / "black", {"b.jpg": make_jpeg(0), "a.png": b"", "notes.txt": b""})
    (tmp_path / "cats" / "loop").symlink_to(tmp_path / "cats")
    found = folder.images(tmp_path / "cats")
    assert found.members == ["black/a.png", "black/b.jpg"]
    assert not found.aligned


def test_a_folder_that_is_none_or_is_empty_is_named(tmp_path, request_):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"ood: .*empty holds no image \(\.jpg, .*\): name the folder"):
        folder.images(tmp_path / "empty")
    for place in ("nowhere", "file.jpg"):
        with pytest.raises(UserError, match=f"ood: .*{place} is not a folder"):
            folder.images(tmp_path / place)
    with pytest.raises(UserError, match="source folder needs a root"):
        folder.get(request_)


def test_who_needs_a_root_says_so_before_anything_runs():
    for name in ood.names():
        ood.find(name).check(None if name != "folder" else "pictures")
    with pytest.raises(UserError, match=r"params\.yaml: ood: source folder needs a root"):
        folder.check(None)


@pytest.mark.parametrize(
    ("source", "root", "name"),
    [
        ("svhn", "/data/house numbers", "svhn"),
        ("drawn_clothes", None, "drawn_clothes"),
        ("folder", "/data/Cats & Dogs 2/", "cats_dogs_2"),
        ("folder", "2024-birds", "birds"),
        ("folder", None, "folder"),
    ],
)
def test_a_set_without_a_name_gets_one(source, root, name):
    assert ood.default_name(source, root) == name


def test_a_folder_without_letters_needs_a_name():
    with pytest.raises(UserError, match="the folder /data/123 has no letters from a to z in its name: give the set"):
        ood.default_name("folder", "/data/123")
