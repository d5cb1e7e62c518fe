import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from visage.data import celeba_files
from visage.data.celeba_format import ATTRIBUTES
from visage.data.collection import opened
from visage.data.sources import celeba
from visage.errors import UserError


@pytest.mark.parametrize("layout", ["zip", "folder", "kaggle", "torchvision"])
def test_every_layout_gives_the_same_collection(copy, layout):
    copy.layout = layout
    found = celeba_files.read(copy.write())
    assert found.image_id.tolist() == copy.names
    assert found.names == ATTRIBUTES
    assert found.attributes.tolist() == [copy.attributes[name] for name in copy.names]
    assert found.split.tolist() == [copy.split[name] for name in copy.names]
    assert found.counts == {"train": 12, "valid": 6, "test": 6}
    assert found.identity.tolist() == ([-1] * 24 if layout == "kaggle" else list(copy.identity.values()))
    assert found.factors.shape == (24, 0)
    with opened(found.path) as read:
        assert [read(member) for member in found.members] == list(copy.images.values())


def test_the_drive_s_own_folders_are_searched(copy):
    root = copy.write()
    for folder, name in (
        ("Img", "img_align_celeba.zip"),
        ("Anno", "list_attr_celeba.txt"),
        ("Eval", "list_eval_partition.txt"),
    ):
        (root / "CelebA" / folder).mkdir(parents=True)
        (root / name).rename(root / "CelebA" / folder / name)
    assert celeba_files.read(root).counts["train"] == 12


def test_a_picture_beside_the_folder_is_no_face(copy):
    copy.layout = "folder"
    root = copy.write()
    (root / "a preview.jpg").write_bytes(b"")
    assert celeba_files.read(root).image_id.tolist() == copy.names


def test_a_subset_is_counted_and_said(copy):
    for name in copy.names[::4]:
        del copy.images[name]
    found = celeba.read(None, copy.write())
    assert len(found.members) == 18
    assert found.remarks == [
        "18 of 202,599 images: a subset",
        "6 annotated images are not there and left out",
    ]


def test_columns_are_taken_by_name(copy):
    copy.columns = copy.columns[::-1]
    copy.attributes = {name: bits[::-1] for name, bits in copy.attributes.items()}
    expected = [bits[::-1] for bits in copy.attributes.values()]
    assert celeba_files.read(copy.write()).attributes.tolist() == expected


def test_a_person_in_two_splits_is_a_warning(copy):
    copy.identity[copy.names[2]] = copy.identity[copy.names[0]]
    remark = celeba_files.read(copy.write()).remarks[-1]
    assert remark.startswith("warning: 1 identities in more than one split (first: 100)")


def test_the_fingerprint_follows_the_files(copy):
    root = copy.write()
    before = celeba_files.read(root).fingerprint
    assert celeba_files.read(root).fingerprint == before
    copy.images[copy.names[5]] = copy.images[copy.names[6]]
    copy.write()
    changed = celeba_files.read(root).fingerprint
    copy.identity[copy.names[0]] = 7
    copy.write()
    assert len({before, changed, celeba_files.read(root).fingerprint}) == 3


def test_known_factors_are_read(copy):
    root = copy.write()
    rows = [f"{name},{i / 4},{i}" for i, name in enumerate(copy.names)]
    (root / "factors.csv").write_text("\n".join(["image_id,smile,age", *rows]))
    found = celeba_files.read(root)
    assert found.factor_names == ("smile", "age")
    np.testing.assert_array_equal(found.factors, [[i / 4, i] for i in range(24)])
    assert found.remarks == []


def wrong_value(copy):
    copy.write()
    path = copy.root / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace(" -1", "  2", 1))


def wrong_length(copy):
    copy.attributes[copy.names[3]].pop()
    copy.write()


def lacking_column(copy):
    copy.columns.remove("Smiling")
    copy.attributes = {name: bits[1:] for name, bits in copy.attributes.items()}
    copy.write()


def lacking_row(copy):
    for name in copy.names[2:6]:
        del copy.attributes[name]
    copy.write()


def lacking_split(copy):
    del copy.split[copy.names[4]]
    copy.write()


def wrong_split(copy):
    copy.split[copy.names[4]] = 3
    copy.write()


def few_to_test(copy):
    first = copy.names[0]
    copy.split = {name: 2 if name == first else split % 2 for name, split in copy.split.items()}
    copy.write()


def doubled_row(copy):
    copy.write()
    path = copy.root / "list_eval_partition.txt"
    path.write_text(path.read_text() + "000001.jpg 0\n")


def no_text(copy):
    copy.write()
    path = copy.root / "list_attr_celeba.txt"
    path.write_bytes(path.read_bytes() + b"\xff\xfe")


def truncated_zip(copy):
    copy.write()
    path = copy.root / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-100])


def climbing_zip(copy):
    copy.write()
    copy.write_zip({"img_align_celeba/../../000001.jpg": b""})


def absolute_zip(copy):
    copy.write()
    copy.write_zip({"/etc/000001.jpg": b""})


def backslash_zip(copy):
    copy.write()
    copy.write_zip({"a\\..\\..\\000001.jpg": b""})


def doubled_zip(copy):
    copy.write()
    copy.write_zip({"a/000001.jpg": b"", "b/000001.jpg": b""})


def empty_zip(copy):
    copy.write()
    copy.write_zip({"readme.txt": b""})


def no_annotations(copy):
    copy.write()
    (copy.root / "list_attr_celeba.txt").unlink()


def html_annotations(copy):
    copy.write()
    (copy.root / "list_attr_celeba.txt").write_text("<!doctype html>\n<html>quota</html>")


def empty_annotations(copy):
    copy.write()
    (copy.root / "list_attr_celeba.txt").write_text("")


def no_images(copy):
    copy.write()
    (copy.root / "img_align_celeba.zip").unlink()


def missing_root(copy):
    pass


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (wrong_value, ["list_attr_celeba.txt, line 3", "'2'", "-1, 0, 1"]),
        (wrong_length, ["list_attr_celeba.txt, line 6", "the name of an image and 40 attributes, got 40 values"]),
        (lacking_column, ["list_attr_celeba.txt, line 2", "Smiling"]),
        (lacking_row, ["list_attr_celeba.txt", "4 of the images", "000007.jpg, 000010.jpg, 000013.jpg)"]),
        (lacking_split, ["list_eval_partition.txt", "000013.jpg"]),
        (wrong_split, ["list_eval_partition.txt, line 5", "3 is none of 0, 1, 2"]),
        (few_to_test, ["1 of its 24 images is in test, where 6 are needed", "list_eval_partition.txt"]),
        (doubled_row, ["list_eval_partition.txt, line 25", "000001.jpg has a row already"]),
        (no_text, ["list_attr_celeba.txt", "no text in UTF-8", "save it as such"]),
        (truncated_zip, ["img_align_celeba.zip", "not a whole zip"]),
        (climbing_zip, ["points out of the archive", "../../000001.jpg"]),
        (absolute_zip, ["points out of the archive"]),
        (backslash_zip, ["points out of the archive"]),
        (doubled_zip, ["000001.jpg twice", "a/000001.jpg, b/000001.jpg"]),
        (empty_zip, ["holds no image"]),
        (no_annotations, ["lacks list_attr_celeba.txt"]),
        (html_annotations, ["list_attr_celeba.txt, line 1", "no column 5_o_Clock_Shadow"]),
        (empty_annotations, ["list_attr_celeba.txt is empty"]),
        (no_images, ["lacks img_align_celeba.zip or a folder"]),
        (missing_root, ["data.root", "no folder"]),
    ],
)
def test_what_is_broken_is_named_in_one_line(copy, breakage, words):
    breakage(copy)
    with pytest.raises(UserError) as error:
        celeba_files.read(copy.root)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


DIALECTS = {
    "blanks after commas": lambda text: text.replace(",", ", ").encode(),
    "quotes": lambda text: "\n".join(
        ",".join(f'"{value}"' for value in line.split(",")) for line in text.splitlines()
    ).encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs, by Excel": lambda text: text.replace(",", "\t").encode("utf-16"),
    "CRLF and a mark": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "an index, by pandas": lambda text: "\n".join(
        f"{i - 1 if i else ''},{line}" for i, line in enumerate(text.splitlines())
    ).encode(),
    "numbers with a point": lambda text: re.sub(r",(-?[01])\b", r",\1.0", text).encode(),
}


@pytest.mark.parametrize("written", DIALECTS.values(), ids=DIALECTS)
def test_a_csv_is_read_as_any_program_writes_it(copy, written):
    copy.layout = "kaggle"
    expected = celeba_files.read(copy.write())
    for name in ("list_attr_celeba.csv", "list_eval_partition.csv"):
        path = next(copy.root.rglob(name))
        path.write_bytes(written(path.read_text()))
    found = celeba_files.read(copy.root)
    np.testing.assert_array_equal(found.attributes, expected.attributes)
    np.testing.assert_array_equal(found.split, expected.split)


@pytest.mark.parametrize("suffix", [".JPG", ".png"])
def test_images_may_have_another_suffix_than_the_table_says(copy, suffix):
    copy.layout = "folder"
    expected = celeba_files.read(copy.write())
    for path in list(copy.root.rglob("*.jpg")):
        path.rename(path.with_suffix(suffix))
    found = celeba_files.read(copy.root)
    assert found.image_id.tolist() == [name.replace(".jpg", suffix) for name in copy.names]
    np.testing.assert_array_equal(found.attributes, expected.attributes)
    np.testing.assert_array_equal(found.identity, expected.identity)


def test_images_that_the_official_list_all_trains_on_are_split_anew_by_person(copy):
    first, copy.names = copy.names[0], [f"{i:06d}.jpg" for i in range(1, 301)]
    copy.images = dict.fromkeys(copy.names, copy.images[first])
    copy.attributes = dict.fromkeys(copy.names, copy.attributes[first])
    copy.split = dict.fromkeys(copy.names, 0)
    copy.identity = {name: i // 3 for i, name in enumerate(copy.names)}
    found = celeba_files.read(copy.write())
    assert found.counts["test"] > 15
    assert found.counts["valid"] > 15
    people = [set(found.identity[found.split == i]) for i in range(3)]
    assert sum(map(len, people)) == len(set.union(*people)) == 100
    assert found.remarks == [
        "warning: the official split has no valid and no test image among these, so they are split anew, by person: "
        "a tenth to test, a tenth to validate on; figures on other splits are not comparable"
    ]


def test_what_systems_and_editors_keep_beside_the_images_is_no_image(copy):
    copy.layout = "kaggle"
    root = copy.write()
    for folder in ("__MACOSX/img_align_celeba", "img_align_celeba/.ipynb_checkpoints", "lost+found"):
        (root / folder).mkdir(parents=True)
        (root / folder / "._000001.jpg").write_bytes(b"")
        (root / folder / "000001.jpg").write_bytes(b"")
    (root / "._cover1.jpg").write_bytes(b"")
    (root / "lost+found").chmod(0)
    found = celeba_files.read(root)
    (root / "lost+found").chmod(0o700)
    assert found.image_id.tolist() == copy.names
    with opened(found.path) as read:
        assert [read(member) for member in found.members] == list(copy.images.values())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to this user")
def test_a_closed_annotation_file_is_named(copy):
    path = copy.write() / "list_attr_celeba.txt"
    path.chmod(0)
    with pytest.raises(UserError, match=r"list_attr_celeba\.txt cannot be read .*permission"):
        celeba_files.read(copy.root)


def test_a_mac_s_own_entries_are_no_images(copy):
    copy.write()
    with zipfile.ZipFile(copy.root / "img_align_celeba.zip", "a") as archive:
        archive.writestr("__MACOSX/img_align_celeba/._000001.jpg", b"")
    assert len(celeba_files.read(copy.root).members) == 24


REAL = Path(os.environ.get("VISAGE_REAL_DATA", "/nonexistent")) / "celeba"


@pytest.mark.skipif(not REAL.is_dir(), reason="VISAGE_REAL_DATA names no folder with celeba/ in it")
def test_real_celeba_is_read():
    found = celeba.read(None, REAL)
    assert found.remarks[0].startswith(f"{len(found.members):,} of 202,599 images")
    assert set(np.unique(found.attributes)) == {0, 1}
    assert found.identity.min() > 0
    assert found.attributes[:, found.names.index("No_Beard")].mean() > 0.5
