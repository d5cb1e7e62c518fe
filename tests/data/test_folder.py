import os

import numpy as np
import pytest

from visage.data.collection import split_by_hash
from visage.data.sources import folder, settings
from visage.errors import UserError


def read(root, attributes=None, valid_share=0.2, test_share=0.2):
    return folder.read(folder.Settings(attributes and str(attributes), valid_share, test_share), root)


@pytest.fixture
def pictures(tmp_path, make_jpeg):
    root = tmp_path / "pictures"
    for i in range(60):
        path = root / ("a", "b/c", ".")[i % 3] / f"{i}{('.jpg', '.PNG', '.webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at here")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_bytes(b"")
    return root


def test_images_are_found_at_any_depth(pictures):
    found = read(pictures)
    assert len(found.members) == 60
    assert found.image_id.tolist() == sorted(found.members)
    assert {"a/0.jpg", "b/c/1.PNG", "2.webp"} <= set(found.members)
    assert found.attributes.shape == (60, 0)
    assert set(found.identity) == {-1}
    assert not found.aligned


def splits(root):
    found = read(root)
    return dict(zip(found.members, found.split.tolist(), strict=True))


def test_the_split_depends_on_the_name_alone(pictures):
    before = splits(pictures)
    (pictures / "a" / "another.jpg").write_bytes(b"")
    (pictures / "a" / "0.jpg").unlink()
    after = splits(pictures)
    assert before.keys() - after.keys() == {"a/0.jpg"}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


def test_shares_are_kept_on_average():
    splits = np.array([split_by_hash(f"{i}.jpg", 0.1, 0.25) for i in range(4000)])
    np.testing.assert_allclose(np.bincount(splits) / 4000, [0.65, 0.1, 0.25], atol=0.02)


def test_attributes_come_from_a_csv(pictures, tmp_path):
    names = read(pictures).members
    rows = [f"{name},{i % 2},{1 if i % 3 else -1}" for i, name in enumerate(names)]
    path = tmp_path / "attributes.csv"
    path.write_text("\n".join(["file,smiling,hat", *rows[::-1], "gone.jpg,0,0"]))
    found = read(pictures, path)
    assert found.names == ("smiling", "hat")
    assert found.attributes.tolist() == [[i % 2, int(i % 3 > 0)] for i in range(60)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line", ["{},{}", "{};{}", "{}\t{}", '"{}", "{}"'])
def test_a_csv_may_be_saved_by_excel(pictures, tmp_path, line, encoding):
    names = read(pictures).members
    path = tmp_path / "attributes.csv"
    lines = [line.format("file", "Brüder"), *(line.format(name, i % 2) for i, name in enumerate(names))]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    found = read(pictures, path)
    assert found.names == ("Brüder",)
    assert found.attributes[:, 0].tolist() == [i % 2 for i in range(60)]


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ("file,hat\n2.webp,3\n", ["line 2", "-1, 0 or 1"]),
        ("file,hat\n2.webp\n", ["line 2", "1 values"]),
        ("file,hat\n2.webp,1\n", ["no row for 59 of the images", "11.webp"]),
        ("", ["no row for 60"]),
        ("file,hat,hat\n2.webp,1,1\n", ["line 1", "column hat is there twice"]),
        ("file,hat\n2.webp,1\n2.webp,0\n", ["line 3", "2.webp has a row already"]),
        ('file,hat\n"2.webp,1\n', ["line 2", "unexpected end of data"]),
        ("file,\udcff\n", ["no text in UTF-8"]),
    ],
)
def test_a_csv_that_does_not_fit_is_named(pictures, tmp_path, csv, words):
    path = tmp_path / "attributes.csv"
    path.write_bytes(csv.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        read(pictures, path)
    assert all(word in str(error.value) for word in [*words, "attributes.csv"])


def test_nothing_to_read_is_said(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        read(tmp_path / "empty")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"none of its 60 images is in test, where 6 are needed: .*data\.folder\.valid_share"
    ):
        read(pictures, test_share=1e-9)
    with pytest.raises(UserError, match=r"data\.folder\.attributes: there is no file .*pictures/no\.csv"):
        read(pictures, "no.csv")


def test_a_csv_may_lie_beside_the_images(pictures):
    names = read(pictures).members
    (pictures / "labels.csv").write_text("\n".join(["file,hat", *(f"{name},1" for name in names)]))
    assert read(pictures, "labels.csv").names == ("hat",)


def test_linked_folders_are_followed_and_loops_end(pictures, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    (elsewhere / "inner" / "far.jpg").write_bytes(b"")
    (pictures / "z").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(pictures)
    for link in ("0", "zz"):  # the real folder's name stays, whichever is met first
        (pictures / link).symlink_to(pictures / "a")
    (pictures / "itself").symlink_to("itself")
    (pictures / "gone.jpg").symlink_to(tmp_path / "nothing")
    found = read(pictures).members
    assert len(found) == 61
    assert "z/inner/far.jpg" in found
    assert "a/0.jpg" in found
    assert not {"0/0.jpg", "zz/0.jpg"} & set(found)


@pytest.mark.skipif(os.name != "posix", reason="only there can a name be any bytes")
def test_a_name_that_is_no_text_is_named(pictures):
    (pictures / os.fsdecode(b"\xff.jpg")).touch()
    with pytest.raises(UserError, match=r"pictures: the file name .*udcff\.jpg' is not valid UTF-8: rename"):
        read(pictures)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to this user")
def test_a_closed_folder_is_named(pictures):
    (pictures / "a").chmod(0)
    with pytest.raises(UserError, match=r"pictures/a cannot be read"):
        read(pictures)
    (pictures / "a").chmod(0o700)


def test_shares_must_leave_images_to_train_on():
    with pytest.raises(UserError, match=r"data\.folder: valid_share \+ test_share must leave images"):
        settings("folder", {"attributes": None, "valid_share": 0.5, "test_share": 0.5})


def test_a_folder_is_needed():
    given = folder.Settings(None, 0.1, 0.1)
    folder.check(given, "pictures")
    with pytest.raises(UserError, match=r"params\.yaml: data\.root is empty: source folder needs it"):
        folder.check(given, None)


def test_which_attributes_there_will_be_is_said_as_far_as_it_is_known():
    assert folder.attribute_names(folder.Settings(None, 0.1, 0.1)) == ()
    assert folder.attribute_names(folder.Settings("labels.csv", 0.1, 0.1)) is None
