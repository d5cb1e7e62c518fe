"""Against a real server on this machine that fails in every way that mirrors do."""

import errno
import hashlib

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from visage.data import celeba_files, download, sources
from visage.data.download import MirrorError, fetch
from visage.data.sources import celeba
from visage.data.sources.celeba import Mirror, celeba_mirrors, download_celeba, http_mirror
from visage.errors import UserError

BODY = bytes(range(256)) * 400
"""What the server has under the name file.bin."""
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.mark.parametrize("way", ["good", "without_ranges", "cut", "slow", "busy"])
def test_a_file_arrives_whole(server, tmp_path, way):
    target = tmp_path / "file.bin"
    fetch(f"{server.url}/{way}/file.bin", target, MD5, timeout=0.3)
    assert target.read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("way", ["good", "without_ranges", "cut"])
@pytest.mark.parametrize("part", [BODY[:12_345], BODY, BODY + b"too much", b"from elsewhere"])
def test_a_part_is_continued_or_replaced(server, tmp_path, way, part):
    (tmp_path / "file.bin.part").write_bytes(part)
    fetch(f"{server.url}/{way}/file.bin", tmp_path / "file.bin", MD5, timeout=0.3)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert server.asked[0][1] == f"bytes={len(part)}-"


@pytest.mark.parametrize("way", ["good", "without_ranges"])
def test_one_request_is_enough_to_continue(server, tmp_path, way):
    (tmp_path / "file.bin.part").write_bytes(BODY[:12_345])
    fetch(f"{server.url}/{way}/file.bin", tmp_path / "file.bin", MD5)
    assert len(server.asked) == 1


def test_what_is_there_and_right_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    fetch(f"{server.url}/good/file.bin", tmp_path / "file.bin", MD5)
    assert server.asked == []
    (tmp_path / "file.bin").write_bytes(b"broken")
    fetch(f"{server.url}/good/file.bin", tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "words", "left"),
    [
        ("good/nothing.bin", ["404 Not Found", "nothing.bin"], 0),
        ("quota/file.bin", ["web page instead of the file", "quota"], 0),
        ("other/file.bin", ["checksum", f"expected {MD5}"], 0),
        ("stuck/file.bin", ["32,768 bytes arrived", "stuck/file.bin"], 32_768),
    ],
)
def test_a_failure_says_why_and_leaves_no_file(server, tmp_path, path, words, left):
    with pytest.raises(MirrorError) as error:
        fetch(f"{server.url}/{path}", tmp_path / "file.bin", MD5, timeout=0.2, attempts=2)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "file.bin").exists()
    part = tmp_path / "file.bin.part"
    assert (part.stat().st_size if part.exists() else 0) == left


def test_a_server_that_is_not_there_is_given_up(tmp_path):
    with pytest.raises(MirrorError, match="Connection refused"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", MD5, timeout=0.2, attempts=2)
    with pytest.raises(MirrorError, match="nonsense: Invalid URL"):
        fetch("nonsense", tmp_path / "file.bin", MD5)


@pytest.fixture
def published(copy, server):
    """A small CelebA on the server, and its checksums."""
    root = copy.write()
    server.files |= {path.name: path.read_bytes() for path in root.iterdir()}
    return {name: hashlib.md5(server.files[name]).hexdigest() for name in celeba.GOOGLE_DRIVE}


def test_the_first_mirror_that_works_is_taken(server, published, tmp_path):
    ladder = [http_mirror(way, f"{server.url}/{way}", published) for way in ("quota", "other", "good")]
    assert download_celeba(tmp_path / "celeba", ladder) == "good"
    assert celeba_files.read(tmp_path / "celeba").counts == {"train": 12, "valid": 6, "test": 6}
    assert {path.name for path in (tmp_path / "celeba").iterdir()} == published.keys()


def test_when_all_fail_one_message_says_what_to_do(server, published, tmp_path):
    ladder = [http_mirror(f"mirror {way}", f"{server.url}/{way}/", published) for way in ("quota", "other")]
    with pytest.raises(UserError) as error:
        download_celeba(tmp_path / "celeba", ladder)
    lines = str(error.value).splitlines()
    assert lines[1].startswith("  mirror quota: ")
    assert "web page" in lines[1]
    assert lines[2].startswith("  mirror other: ")
    assert "checksum" in lines[2]
    assert str(tmp_path / "celeba") in lines[3]
    assert all(name in "\n".join(lines) for name in [*published, "data.root", "mmlab.ie.cuhk.edu.hk"])


def test_your_own_servers_come_before_the_public_ladder():
    names = [mirror.name.split()[0] for mirror in celeba_mirrors(["http://a.example", "http://b.example"], {})]
    assert names == ["http://a.example", "http://b.example", "Google", "Kaggle", "Hugging"]


def test_a_full_disk_ends_the_ladder(tmp_path):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"no space left on the disk"):
        download_celeba(tmp_path, [Mirror("first", full), Mirror("second", full)])


def test_packed_images_are_read_as_they_were(copy, tmp_path):
    copy.layout = "folder"
    root = copy.write()
    loose = celeba_files.read(root)
    celeba.pack(sorted((root / "img_align_celeba").iterdir()), root / "img_align_celeba.zip")
    packed = celeba_files.read(root)
    assert packed.path.suffix == ".zip"
    assert packed.image_id.tolist() == loose.image_id.tolist()


def test_checksums_and_ids_are_torchvision_s():
    from torchvision.datasets import CelebA

    facts = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}
    checksums = YAML(typ="safe").load(ROOT / "params.yaml")["data"]["celeba"]["checksums"]
    assert checksums.keys() == celeba.GOOGLE_DRIVE.keys()
    assert {name: (celeba.GOOGLE_DRIVE[name], md5) for name, md5 in checksums.items()} == {
        name: facts[name] for name in checksums
    }


def test_scratch_is_where_dvc_keeps_its_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert download.scratch_folder() == tmp_path / ".scratch" / "downloads"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], r"data\.celeba: checksums lacks img_align_celeba\.zip, .*identity_CelebA\.txt.*: add the MD5 of each"),
        ([*celeba.GOOGLE_DRIVE][1:], r"checksums lacks img_align_celeba\.zip: add"),
        ([*celeba.GOOGLE_DRIVE, "more.zip"], r"checksums: more\.zip is none of CelebA's files"),
    ],
)
def test_every_file_of_celeba_needs_its_checksum(names, words):
    with pytest.raises(UserError, match=words):
        sources.settings("celeba", {"mirrors": [], "checksums": dict.fromkeys(names, "0" * 32)})
