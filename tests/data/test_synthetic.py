import hashlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from visage.data.celeba_format import ATTRIBUTES, IMAGE_SIZE
from visage.data.face_factors import DISTRIBUTIONS, Choice, Person, PersonChoice, Sometimes, attributes, sample_factors
from visage.data.portrait import draw_face
from visage.data.sources.synthetic import draw_dataset, identities, read, split_of

FILES = (
    "img_align_celeba.zip",
    "list_attr_celeba.txt",
    "identity_CelebA.txt",
    "list_eval_partition.txt",
    "factors.csv",
)
HASHES = ["1fc98b93be8b3b44", "c030321baabcd795", "8409af53349ea152", "767d77802269f21f", "b00a75ef08b2b00d"]
"""Of those files, as they were drawn on several machines with the Pillow of the lock file."""
PLAIN = replace(sample_factors(0, 0, 1), bald=0.0, hat=0.0, glasses=0.0, blur=0.0, beard=0.0, moustache=0.0)


def pixels(factors):
    return np.asarray(draw_face(factors), dtype=int)


def contents(folder):
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    draw_dataset(folder, images=60, images_per_identity=3, seed=5, workers=1, progress=False)
    return folder


@pytest.mark.long
def test_two_processes_write_the_same_bytes(folder, tmp_path):
    draw_dataset(tmp_path, images=60, images_per_identity=3, seed=5, workers=2, progress=False)
    assert contents(tmp_path) == contents(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_the_files_are_the_same_on_every_machine(folder):
    assert [hashlib.sha256(content).hexdigest()[:16] for content in contents(folder)] == HASHES


def test_another_seed_draws_other_faces(folder, tmp_path):
    draw_dataset(tmp_path, images=60, images_per_identity=3, seed=6, workers=1, progress=False)
    assert all(a != b for a, b in zip(contents(tmp_path), contents(folder), strict=True))


def test_a_face_is_the_same_in_a_smaller_dataset(folder, tmp_path):
    draw_dataset(tmp_path, images=10, images_per_identity=3, seed=5, workers=1, progress=False)
    with zipfile.ZipFile(tmp_path / FILES[0]) as small, zipfile.ZipFile(folder / FILES[0]) as large:
        assert [small.read(n) for n in small.namelist()] == [large.read(n) for n in large.namelist()[:10]]
    for name in FILES[2:]:
        small, large = ((at / name).read_text().splitlines() for at in (tmp_path, folder))
        assert small == large[: len(small)]


def test_archive_is_stored_and_holds_aligned_jpegs(folder):
    from PIL import Image

    with zipfile.ZipFile(folder / "img_align_celeba.zip") as archive:
        assert archive.namelist() == [f"img_align_celeba/{i:06d}.jpg" for i in range(1, 61)]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        with Image.open(archive.open("img_align_celeba/000017.jpg")) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", IMAGE_SIZE)


def test_annotations_have_the_official_layout(folder):
    lines = (folder / "list_attr_celeba.txt").read_bytes().decode().split("\r\n")
    assert lines[0] == "60"
    assert lines[1] == " ".join(ATTRIBUTES) + " "
    assert len(lines) == 60 + 3
    assert lines[-1] == ""
    assert all(len(line) == len("000001.jpg") + 40 * 3 for line in lines[2:-1])
    assert {value for line in lines[2:-1] for value in line.split()[1:]} == {"1", "-1"}
    assert len(set(ATTRIBUTES)) == 40


def test_splits_share_no_person(folder):
    people = dict(line.split() for line in (folder / "identity_CelebA.txt").read_text().splitlines())
    splits = dict(line.split() for line in (folder / "list_eval_partition.txt").read_text().splitlines())
    assert list(people) == list(splits)
    assert set(splits.values()) == {"0", "1", "2"}
    assert len({(people[name], splits[name]) for name in people}) == len(set(people.values()))


def test_sizes_of_people_and_splits():
    people = identities(6000, 4, seed=0)
    assert people[0] == 1
    assert set(np.diff(people)) == {0, 1}
    assert 6000 / people[-1] == pytest.approx(4, rel=0.05)
    share = np.bincount([split_of(who) for who in people]) / 6000
    assert share == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert identities(5, 1, seed=0) == [1, 2, 3, 4, 5]


def test_factor_file_is_the_truth(folder):
    lines = (folder / "factors.csv").read_text().splitlines()
    assert lines[0].split(",") == ["file", *DISTRIBUTIONS]
    rows = [line.split(",") for line in lines[1:]]
    people = [int(line.split()[1]) for line in (folder / "identity_CelebA.txt").read_text().splitlines()]
    for index, (row, person) in enumerate(zip(rows, people, strict=True)):
        factors = sample_factors(5, index, person)
        assert [float(value) for value in row[1:]] == [getattr(factors, name) for name in DISTRIBUTIONS]


def test_a_person_keeps_their_own_factors_and_changes_the_rest():
    one, other = sample_factors(0, 7, 3), sample_factors(0, 8, 3)
    for name, kind in DISTRIBUTIONS.items():
        if isinstance(kind, Person | PersonChoice):
            assert getattr(one, name) == getattr(other, name)
    assert one.smile != other.smile


@pytest.fixture(scope="module")
def drawn():
    return [sample_factors(1, i, i) for i in range(2000)]


def test_factors_are_nearly_uncorrelated(drawn):
    table = np.array([[getattr(factors, name) for name in DISTRIBUTIONS] for factors in drawn])
    correlations = np.corrcoef(table, rowvar=False) - np.eye(table.shape[1])
    assert np.abs(correlations).max() < 0.1  # 4.5 standard errors of 1 / sqrt(2000)


def test_shares_of_choices(drawn):
    assert np.mean([f.glasses == 1 for f in drawn]) == pytest.approx(0.10, abs=0.02)
    assert np.mean([f.glasses == 2 for f in drawn]) == pytest.approx(0.06, abs=0.015)
    assert np.mean([f.beard > 0 for f in drawn]) == pytest.approx(0.25, abs=0.03)
    assert min(f.beard for f in drawn if f.beard) >= 0.2
    assert max(f.tilt for f in drawn) <= 5


@pytest.mark.parametrize(
    ("change", "changed", "untouched"),
    [  # boxes of rows and columns that must change, and that must not
        ({"hat": 1.0}, (30, 60, 60, 120), (130, 218, 0, 178)),
        ({"glasses": 1.0}, (100, 122, 50, 128), (140, 218, 0, 178)),
        ({"lipstick": 1.0}, (145, 165, 70, 108), (0, 130, 0, 178)),
        ({"clothes_hue": 0.9}, (200, 218, 10, 170), (0, 160, 0, 178)),
        ({"background": 2.0}, (0, 25, 0, 178), (100, 150, 65, 112)),
        ({"gaze": 0.9}, (105, 117, 55, 122), (125, 218, 0, 178)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_factor_changes_only_its_own_region(change, changed, untouched):
    plain = replace(PLAIN, gaze=-0.5, clothes_hue=0.2, background=0.0, lipstick=0.0)
    difference = np.abs(pixels(plain) - pixels(replace(plain, **change)))
    top, bottom, left, right = changed
    assert difference[top:bottom, left:right].max() > 20
    top, bottom, left, right = untouched
    assert difference[top:bottom, left:right].max() == 0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_factor_shows(name):
    kind = DISTRIBUTIONS[name]
    base = replace(PLAIN, beard=0.9, hat=float(name == "hat_hue"), lipstick=0.5, background=2.0, hair_dark=0.2)
    values = (
        (0.0, 1.0) if isinstance(kind, Sometimes | Choice) else (kind.at(0.0), kind.at(0.6 if "hue" in name else 0.95))
    )
    low, high = (replace(base, **{name: value}) for value in values)
    assert np.abs(pixels(low) - pixels(high)).max() > 8


def test_eyes_stand_where_celeba_aligns_them():
    faces = np.mean([pixels(replace(sample_factors(0, i, i), glasses=0.0)) for i in range(40)], axis=(0, 3))
    rows, columns = np.arange(218), np.arange(178)
    for half, expected in ((slice(55, 83), 68.5), (slice(95, 123), 108.5)):
        darkness = np.clip(faces[104:118, half].max() - faces[104:118, half] - 40, 0, None)
        assert np.average(rows[104:118], weights=darkness.sum(1)) == pytest.approx(111, abs=1.5)
        assert np.average(columns[half], weights=darkness.sum(0)) == pytest.approx(expected, abs=2)


def test_attributes_follow_the_factors():
    def has(name, **changes):
        return attributes(replace(PLAIN, **changes))[ATTRIBUTES.index(name)]

    assert has("Eyeglasses", glasses=2.0)
    assert not has("Eyeglasses", glasses=0.0)
    assert has("Male", male=1.0)
    assert not has("Male", male=0.0)
    assert has("Smiling", smile=0.8)
    assert not has("Smiling", smile=-0.2)
    assert has("Bald", bald=1.0)
    assert not has("Black_Hair", bald=1.0, hair_dark=0.9, age=0.1)
    assert has("Black_Hair", hair_dark=0.9, age=0.1)
    assert has("Gray_Hair", hair_dark=0.9, age=0.95)
    assert has("No_Beard", beard=0.0)
    assert has("Goatee", beard=0.9, beard_width=0.1)
    assert not has("No_Beard", beard=0.3)
    assert has("Wearing_Hat", hat=1.0)
    assert not has("Attractive")
    hair = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
    for i in range(200):
        factors = sample_factors(2, i, i)
        values = dict(zip(ATTRIBUTES, attributes(factors), strict=True))
        assert sum(values[name] for name in hair) == 1 - factors.bald


def test_the_faces_are_read_with_all_that_is_known(folder):
    faces = read(None, folder)
    assert faces.image_id.tolist() == [f"{i:06d}.jpg" for i in range(1, 61)]
    assert faces.factor_names == tuple(DISTRIBUTIONS)
    np.testing.assert_allclose(faces.factors[7], list(vars_of(sample_factors(5, 7, int(faces.identity[7])))), rtol=1e-4)
    assert faces.remarks == []


def vars_of(factors):
    return (getattr(factors, name) for name in DISTRIBUTIONS)
