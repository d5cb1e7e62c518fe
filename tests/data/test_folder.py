import numpy as np
import pytest

from visage.data import folder
from visage.errors import UserError


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
    found = folder.read(pictures, None, 0.2, 0.2)
    assert len(found.members) == 60
    assert found.image_id.tolist() == sorted(found.members)
    assert {"a/0.jpg", "b/c/1.PNG", "2.webp"} <= set(found.members)
    assert found.attributes.shape == (60, 0)
    assert set(found.identity) == {-1}
    assert not found.aligned


def splits(root):
    found = folder.read(root, None, 0.2, 0.2)
    return dict(zip(found.members, found.split.tolist(), strict=True))


def test_the_split_depends_on_the_name_alone(pictures):
    before = splits(pictures)
    (pictures / "a" / "another.jpg").write_bytes(b"")
    (pictures / "a" / "0.jpg").unlink()
    after = splits(pictures)
    assert before.keys() - after.keys() == {"a/0.jpg"}
    assert all(after[name] == before[name] for name in before.keys() & after.keys())


def test_shares_are_kept_on_average():
    splits = np.array([folder.split_of(f"{i}.jpg", 0.1, 0.25) for i in range(4000)])
    np.testing.assert_allclose(np.bincount(splits) / 4000, [0.65, 0.1, 0.25], atol=0.02)


def test_attributes_come_from_a_csv(pictures, tmp_path):
    names = folder.read(pictures, None, 0.2, 0.2).members
    rows = [f"{name},{i % 2},{1 if i % 3 else -1}" for i, name in enumerate(names)]
    path = tmp_path / "attributes.csv"
    path.write_text("\n".join(["file,smiling,hat", *rows[::-1], "gone.jpg,0,0"]))
    found = folder.read(pictures, path, 0.2, 0.2)
    assert found.names == ("smiling", "hat")
    assert found.attributes.tolist() == [[i % 2, int(i % 3 > 0)] for i in range(60)]


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ("file,hat\n2.webp,3\n", ["line 2", "-1, 0 or 1"]),
        ("file,hat\n2.webp\n", ["line 2", "1 values"]),
        ("file,hat\n2.webp,1\n", ["no row for 59 of the images", "11.webp"]),
        ("", ["no row for 60"]),
    ],
)
def test_a_csv_that_does_not_fit_is_named(pictures, tmp_path, csv, words):
    path = tmp_path / "attributes.csv"
    path.write_text(csv)
    with pytest.raises(UserError) as error:
        folder.read(pictures, path, 0.2, 0.2)
    assert all(word in str(error.value) for word in [*words, "attributes.csv"])


def test_nothing_to_read_is_said(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        folder.read(tmp_path / "empty", None, 0.1, 0.1)
    with pytest.raises(UserError, match="no folder"):
        folder.read(tmp_path / "nowhere", None, 0.1, 0.1)
    with pytest.raises(UserError, match=r"is in test.*data\.folder\.valid_share"):
        folder.read(pictures, None, 0.2, 1e-9)
    with pytest.raises(UserError, match=r"data\.folder\.attributes: there is no file"):
        folder.read(pictures, tmp_path / "no.csv", 0.2, 0.2)
