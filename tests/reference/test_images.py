import dataclasses

import numpy as np
import pytest

from tests.small_data import DARK, NAMES, SETTINGS, SPLITS, write_processed
from tests.small_models import FACES, GREY, SIZE
from visage.data.arrays import load_card
from visage.errors import UserError
from visage.maths.streams import choose_rows
from visage.reference.images import LEAST_RARE, choose_images, rare_faces, rare_reason


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processed")
    write_processed(folder)
    return folder


def chosen(processed, **changes):
    return choose_images(SIZE, dataclasses.replace(SETTINGS, **changes), load_card(processed), processed)


def test_rows_are_fixed_and_fewer_are_the_first_of_more():
    ten, five, all_ = (choose_rows(40, n, 0, "test rows") for n in (10, 5, 0))
    assert ten[:5].tolist() == five.tolist()
    assert sorted(all_.tolist()) == list(range(40))
    assert choose_rows(40, 99, 0, "test rows").tolist() == all_.tolist()
    assert choose_rows(40, 0, 1, "test rows").tolist() != all_.tolist()
    assert choose_rows(40, 0, 0, "ood rows").tolist() != all_.tolist()


def test_images_are_those_at_their_rows(processed):
    found = chosen(processed, ood_images=5)
    assert len(found.rows) == len(set(found.rows.tolist())) == 16
    assert np.array_equal(found.test, FACES[found.rows])
    assert np.array_equal(found.attributes, found.faces.attributes[found.rows])
    assert list(found.external) == ["grey", "dark"]
    for name, images in (("grey", GREY), ("dark", DARK)):
        assert len(found.external[name]) == 5
        assert np.array_equal(found.external[name], images[found.external_rows[name]])
    assert sorted(found.valid.tolist()) == sorted(SPLITS["valid"].tolist())
    assert sorted(found.probe_rows.tolist()) == list(range(30))


def test_the_seed_chooses_and_the_number_only_cuts_off(processed):
    few, many, all_ = chosen(processed, images=4), chosen(processed), chosen(processed, images=0)
    assert few.rows.tolist() == many.rows[:4].tolist()
    assert sorted(all_.rows.tolist()) == list(range(24))
    assert chosen(processed, seed=6).rows.tolist() != many.rows.tolist()


def test_a_missing_array_is_a_users_error(processed, tmp_path):
    write_processed(tmp_path / "processed")
    (tmp_path / "processed" / str(SIZE) / "ood" / "dark.npy").unlink()
    with pytest.raises(UserError, match=r"dark\.npy is missing"):
        chosen(tmp_path / "processed")


def test_rare_faces_have_any_of_the_attributes(tmp_path):
    labels = {split: np.zeros((len(images), 3)) for split, images in SPLITS.items()}
    labels["test"][:6, 0] = labels["test"][4:9, 2] = 1  # hats, and glasses; smiles do not matter
    labels["test"][::2, 1] = 1
    write_processed(tmp_path, names=["Wearing_Hat", "Smiling", "Eyeglasses"], attributes=labels)
    found = chosen(tmp_path, images=0)
    rare, reason = rare_faces(found)
    assert sorted(found.rows[rare].tolist()) == list(range(9))
    assert reason == ""


def test_faces_without_these_labels_cannot_be_told_apart(processed):
    assert "Wearing_Hat" not in NAMES
    rare, reason = rare_faces(chosen(processed))
    assert not rare.any()
    assert reason == "the faces are not labelled with Wearing_Hat"


@pytest.mark.parametrize(("rare", "others", "enough"), [(5, 5, True), (4, 20, False), (20, 4, False), (0, 0, False)])
def test_too_few_rare_faces_or_too_few_others_say_nothing(rare, others, enough):
    assert (rare_reason(np.arange(rare + others) < rare) == "") == enough
    assert LEAST_RARE == 5
